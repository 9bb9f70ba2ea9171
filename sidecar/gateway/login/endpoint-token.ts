// `POST token` with the grant of RFC 8693: a signed-in person gets a token for one serving endpoint, for five minutes at most,
// and with no more than their policies let them do there. The token service decides that; here is only found who asks.
import { isClientToken, TOKEN_EXCHANGE } from "../../core/gateway/client-login.ts";
import type { EdgeAnswer, EdgeRequest } from "../people.ts";
import type { Session } from "../session/session.ts";
import { challenge, json, refusal } from "./answers.ts";
import { parseBearer } from "./bearer.ts";
import { only } from "./client-request.ts";
import type { LoginWorld } from "./login-world.ts";
import { isSameSite } from "./request-kind.ts";
import type { TokenRefusal } from "./token-service.ts";

const SPENT = "the token or session has ended; sign in again, at a terminal with `countersign login`";

/**
 * The person is known by `subject_token` (a token of `countersign login`), else by such a token as bearer, else by the browser's
 * session, and then only for a page of this host.
 */
export async function exchangeToken(
  world: LoginWorld,
  request: EdgeRequest,
  form: URLSearchParams,
): Promise<EdgeAnswer> {
  const asked = readRequest(form);
  if (typeof asked === "string") return refusal("invalid_request", asked);
  const id = asked.subject ?? shownBy(world, request);
  if (id === undefined)
    return json(
      401,
      { error: "invalid_client", error_description: "show a token of `countersign login`, or sign in" },
      [["www-authenticate", challenge(request.host)]],
    );
  const session = await world.store.find(id, world.clock.nowMs());
  if (session === undefined) return refusal("invalid_grant", SPENT);
  const tell = (reason: string, status: number, detail?: string): void => {
    const { user, sid, idp } = session;
    const endpoint = asked.audience;
    const allowed = reason === "ALLOWED";
    world.tell({
      ...{ action: "token.exchange", allowed, reason, detail, status, request },
      ...{ user, session: sid, idp, endpoint },
    });
  };
  if (session.isToken !== true && !isSameSite(request, [])) {
    const detail = "only a page of this gateway may ask for a token in a session's name";
    tell("ORIGIN_REFUSED", 403, detail);
    return refusal("access_denied", detail, 403);
  }
  const waitSeconds = world.mayExchange(session.user.id);
  if (waitSeconds > 0) {
    tell("RATE_LIMITED", 429);
    return json(
      429,
      {
        error: "temporarily_unavailable",
        error_description: "too many tokens for this user; keep the last one",
      },
      [["retry-after", String(waitSeconds)]],
    );
  }
  return give(world, request, session, asked, tell);
}

async function give(
  { tokens, log }: LoginWorld,
  { sourceIp }: EdgeRequest,
  { handle, sid, user }: Session,
  { audience, scope }: Asked,
  tell: (reason: string, status: number, detail?: string) => void,
): Promise<EdgeAnswer> {
  const made = await tokens.endpointToken(handle, { audience, scope, sid, reqIp: sourceIp });
  if (!made.ok) {
    const { reason, detail, isTemporary } = made.error;
    tell(reason, isTemporary ? 503 : 400, detail);
    if (isTemporary) return json(503, { error: "temporarily_unavailable" }, [["retry-after", "2"]]);
    return refusal(errorOf(reason), detail);
  }
  const { token, expiresInSeconds, scope: given } = made.value;
  tell("ALLOWED", 200);
  log.info("token for an endpoint given", { user: user.id, sid, audience });
  // RFC 8693 section 2.2.1.
  return json(200, {
    access_token: token,
    issued_token_type: TOKEN_EXCHANGE.accessToken,
    token_type: "Bearer",
    expires_in: expiresInSeconds,
    scope: given,
  });
}

interface Asked {
  /** A token of `countersign login`; undefined: none is in the form. */
  readonly subject: string | undefined;
  readonly audience: string;
  readonly scope: string | undefined;
}

/** RFC 8693 section 2.1. @returns what is wrong, in words. */
function readRequest(form: URLSearchParams): Asked | string {
  for (const name of ["actor_token", "resource"]) if (form.has(name)) return `\`${name}\` is not taken here`;
  for (const name of new Set(form.keys()))
    if (only(form, name) === undefined) return "a parameter comes twice";
  const type = only(form, "requested_token_type") ?? TOKEN_EXCHANGE.accessToken;
  if (type !== TOKEN_EXCHANGE.accessToken)
    return `\`requested_token_type\` is not \`${TOKEN_EXCHANGE.accessToken}\``;
  const audience = only(form, "audience");
  if (audience === undefined || audience === "" || audience.length > 2_048)
    return "`audience` is to name one serving endpoint, as `namespace/name`";
  const subject = only(form, "subject_token");
  if (
    subject !== undefined &&
    (!isClientToken(subject) || only(form, "subject_token_type") !== TOKEN_EXCHANGE.accessToken)
  )
    return `\`subject_token\` is to be a token of \`countersign login\`, its type \`${TOKEN_EXCHANGE.accessToken}\``;
  return { subject, audience, scope: only(form, "scope") };
}

/** A token of `countersign login` as bearer counts, a page's cookie where there is none. */
function shownBy({ cookies }: LoginWorld, request: EdgeRequest): string | undefined {
  const bearer = parseBearer(request.field("authorization") ?? "");
  if (bearer !== undefined) return isClientToken(bearer) ? bearer : undefined;
  return cookies.read(request.field("cookie")).id;
}

/** RFC 6749 section 5.2, RFC 8693 section 2.2.2. */
function errorOf(reason: TokenRefusal["reason"]): string {
  if (reason === "SCOPE_EXCEEDED") return "invalid_scope";
  return reason.startsWith("TARGET_") ? "invalid_target" : "invalid_grant";
}
