// `countersign login`: a program on a person's computer gets a token for an hour at most, after the person has agreed on a
// page of ours. The token is a session of its own in the store, which ends with the one that it comes from.
import {
  CLIENT_PATHS,
  CLIENT_TOKEN_PREFIX,
  CLIENT_TOKEN_SECONDS,
  checkOf,
  TOKEN_EXCHANGE,
} from "../../core/gateway/client-login.ts";
import { messageOf } from "../../core/runtime/errors.ts";
import type { EdgeNote } from "../edge-audit.ts";
import { consentPage, problemPage } from "../page/sign-in-pages.ts";
import type { EdgeAnswer, EdgeRequest } from "../people.ts";
import { createSessionId } from "../session/cookies.ts";
import type { Session } from "../session/session.ts";
import { json, loginPath, problem, redirect, refusal } from "./answers.ts";
import {
  type ClientRequest,
  clientParameters,
  formOf,
  isVerifier,
  only,
  parseClientRequest,
} from "./client-request.ts";
import { exchangeToken } from "./endpoint-token.ts";
import type { LoginWorld } from "./login-world.ts";
import { isSameSite } from "./request-kind.ts";

/** Long enough for a program to ask, and for a person to copy an address to another computer. */
const CODE_MS = 60_000;

/** What a code stands for; under it in the store. */
interface Consent {
  /** Of the browser that agreed. */
  readonly sessionId: string;
  readonly host: string;
  readonly redirectUri: string;
  readonly challenge: string;
}

/** Apart from all else that the store keeps under random names. */
const recordOf = (code: string): string => `client-code ${code}`;

/** `GET authorize` asks the person, `POST authorize` is their yes. */
export async function authorizeClient(
  world: LoginWorld,
  request: EdgeRequest,
  query: URLSearchParams,
  body: Buffer,
): Promise<EdgeAnswer> {
  const isPost = request.method === "POST";
  const asked = parseClientRequest(
    isPost ? (formOf(request.field("content-type"), body) ?? new URLSearchParams()) : query,
  );
  if (!asked.ok)
    return problemPage(400, "This request cannot be granted", `${capital(asked.error)}.`, world.reference());
  const { id } = world.cookies.read(request.field("cookie"));
  const session = id === undefined ? undefined : await world.store.find(id, world.clock.nowMs());
  if (session === undefined || id === undefined)
    return redirect(loginPath(`${CLIENT_PATHS.authorize}?${clientParameters(asked.value)}`), [], 303);
  if (!isPost) return askPerson(request.host, session, asked.value);
  // Only the button of our own page is a yes.
  if (!isSameSite(request, [])) {
    const reason = "ORIGIN_REFUSED";
    const detail = "only this gateway's own page gives a program access";
    tell(world, request, session, { action: "token.give", allowed: false, reason, detail, status: 403 });
    return problem({ status: 403, reason, title: "Forbidden", detail });
  }
  const { redirectUri, challenge, state } = asked.value;
  const code = createSessionId();
  const consent: Consent = { sessionId: id, host: request.host.toLowerCase(), redirectUri, challenge };
  await world.store.keep(recordOf(code), consent, CODE_MS);
  return redirect(`${redirectUri}?${new URLSearchParams({ code, state })}`, [], 303);
}

function askPerson(host: string, { user }: Session, request: ClientRequest): EdgeAnswer {
  const { redirectUri, state, port, challenge } = request;
  return consentPage({
    ...{ host, port, check: checkOf(challenge) },
    who: user.email ?? user.username ?? user.id,
    action: CLIENT_PATHS.authorize,
    fields: [...clientParameters(request)],
    cancelLink: `${redirectUri}?${new URLSearchParams({ error: "access_denied", state })}`,
  });
}

function tell(
  world: LoginWorld,
  request: EdgeRequest,
  { user, sid, idp }: Session,
  what: Pick<EdgeNote, "action" | "allowed" | "reason" | "detail" | "status">,
): void {
  world.tell({ ...what, user, session: sid, idp, request });
}

const capital = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);

/** `POST token`: a code, once, for a token; or a token or session for one that counts at one endpoint. */
export async function clientToken(
  world: LoginWorld,
  request: EdgeRequest,
  body: Buffer,
): Promise<EdgeAnswer> {
  const form = formOf(request.field("content-type"), body);
  if (form === undefined) return refusal("invalid_request", "a form is expected");
  if (only(form, "grant_type") === TOKEN_EXCHANGE.grantType) return exchangeToken(world, request, form);
  if (only(form, "grant_type") !== "authorization_code")
    return refusal(
      "unsupported_grant_type",
      `\`grant_type\` is neither \`authorization_code\` nor \`${TOKEN_EXCHANGE.grantType}\``,
    );
  const consent = (await world.store.take(recordOf(only(form, "code") ?? ""))) as Consent | undefined;
  if (
    consent === undefined ||
    consent.host !== request.host.toLowerCase() ||
    consent.redirectUri !== only(form, "redirect_uri") ||
    !isVerifier(only(form, "code_verifier") ?? "", consent.challenge)
  )
    return refusal(
      "invalid_grant",
      "the code is older than a minute, was used before, or is another program's; run `countersign login` again",
    );
  const nowMs = world.clock.nowMs();
  const session = await world.store.find(consent.sessionId, nowMs);
  if (session === undefined)
    return refusal("invalid_grant", "the session has ended; run `countersign login` again");
  const token = `${CLIENT_TOKEN_PREFIX}${createSessionId()}`;
  const part = tokenSession(session, nowMs);
  await world.store.create(token, part, nowMs);
  world.log.info("token given to a program", { user: session.user.id, sid: session.sid, host: consent.host });
  tell(world, request, session, { action: "token.give", allowed: true, reason: "ALLOWED", status: 200 });
  return json(200, {
    access_token: token,
    token_type: "Bearer",
    expires_in: Math.floor((part.endsMs - nowMs) / 1_000),
    user: session.user.id,
    email: session.user.email,
  });
}

/** The same session for a program: never refreshed by it, and for an hour at most. */
function tokenSession(session: Session, nowMs: number): Session {
  return {
    ...session,
    isToken: true,
    refreshToken: undefined,
    idToken: undefined,
    refreshAtMs: undefined,
    createdMs: nowMs,
    endsMs: Math.min(nowMs + CLIENT_TOKEN_SECONDS * 1_000, session.endsMs),
  };
}

/** `POST revoke`: whoever has a token may end it. It is not told whether there was one (RFC 7009 section 2.2). */
export async function revokeClientToken(
  world: LoginWorld,
  request: EdgeRequest,
  body: Buffer,
): Promise<EdgeAnswer> {
  const token = only(formOf(request.field("content-type"), body) ?? new URLSearchParams(), "token");
  if (token === undefined) return refusal("invalid_request", "one `token` is expected in a form");
  try {
    const ended = token.startsWith(CLIENT_TOKEN_PREFIX) ? await world.store.end(token) : undefined;
    if (ended !== undefined) {
      world.log.info("token of a program ended", { user: ended.user.id, sid: ended.sid });
      tell(world, request, ended, { action: "token.end", allowed: true, reason: "ALLOWED", status: 200 });
    }
  } catch (error) {
    world.log.warn("token of a program not ended", { reason: messageOf(error) });
    return json(503, { error: "temporarily_unavailable" }, [["retry-after", "2"]]);
  }
  return json(200, {});
}
