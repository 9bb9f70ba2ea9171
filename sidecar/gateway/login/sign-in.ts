// Signing in: from the first redirect to the session (OpenID Connect Core 1.0 section 3.1, RFC 9700).
import type { GatewayIdp } from "../../core/gateway/gateway.ts";
import { choicePage } from "../page/sign-in-pages.ts";
import type { EdgeAnswer, EdgeRequest } from "../people.ts";
import { createSessionId } from "../session/cookies.ts";
import type { Session } from "../session/session.ts";
import { loginPath, redirect } from "./answers.ts";
import { ATTEMPT_MS, type Attempt, attemptCookie, createAttempt, isState } from "./attempt.ts";
import { askLoginHost, loginHostFor } from "./hand-over.ts";
import type { LoginWorld } from "./login-world.ts";
import type { Provider, ProviderTokens } from "./provider.ts";
import { OWN_PATHS, returnPath } from "./return-path.ts";
import { failed } from "./sign-in-failed.ts";
import { asFailure, SignInError } from "./sign-in-failure.ts";
import { isStrongEnough, strengthIn } from "./step-up.ts";
import type { OpenedSession } from "./token-service.ts";
import { goesInCircles, TRIES_COOKIE, TRIES_SECONDS, triesOf } from "./tries.ts";

const REFRESH = { leastMs: 60_000, otherwiseMs: 300_000, part: 0.8 };

/** `GET login`: to the provider, or to the choice of one. */
export async function beginSignIn(
  world: LoginWorld,
  request: EdgeRequest,
  query: URLSearchParams,
): Promise<EdgeAnswer> {
  const returnTo = returnPath(query.get("rd"));
  const { cookies } = world;
  const tries = triesOf(cookies.read(request.field("cookie")).own.get(TRIES_COOKIE));
  if (goesInCircles(tries))
    return failed(world, new SignInError("in_circles", `${tries} sign-ins within ${TRIES_SECONDS} s`), {
      request,
      idp: "",
      again: loginPath(returnTo),
      setCookie: [cookies.clear(TRIES_COOKIE)],
    });
  const strength = strengthIn(query);
  const elsewhere = loginHostFor(world.gateway(), request.host);
  if (elsewhere !== undefined)
    return await askLoginHost(world, request, elsewhere, {
      ...{ returnTo, tries, ...strength },
      idp: query.get("idp"),
    });
  const idps = world.gateway().idps;
  const named = idps.find(({ name }) => name === query.get("idp"));
  const chosen = named ?? (idps.length === 1 ? idps[0] : undefined);
  if (chosen === undefined)
    return choicePage(
      request.host,
      idps,
      idps.map(({ name }) => loginPath(returnTo, { idp: name, strength })),
    );
  try {
    return await sendToProvider(world, request, chosen, { returnTo, ...strength, tries });
  } catch (error) {
    return failed(world, asFailure(error, "mesh_down"), {
      request,
      idp: chosen.name,
      again: loginPath(returnTo, { strength }),
    });
  }
}

async function sendToProvider(
  world: LoginWorld,
  request: EdgeRequest,
  { name }: GatewayIdp,
  asked: Pick<Attempt, "returnTo" | "acr" | "maxAgeSeconds"> & { readonly tries: number },
): Promise<EdgeAnswer> {
  const { cookies, store } = world;
  const { tries, ...strength } = asked;
  const attempt = createAttempt({ idp: name, host: request.host.toLowerCase(), ...strength });
  const url = await world.provider(name).authorizationUrl(attempt, callbackUri(request.host, name));
  const secret = createSessionId();
  await store.keep(secret, attempt, ATTEMPT_MS);
  return redirect(url.href, [
    cookies.set(attemptCookie(attempt.state) ?? "", secret, ATTEMPT_MS / 1_000),
    cookies.set(TRIES_COOKIE, String(tries + 1), TRIES_SECONDS),
  ]);
}

/** Registered with the provider, exactly so. */
export function callbackUri(host: string, idp: string): string {
  return `https://${host.toLowerCase()}${OWN_PATHS}callback/${idp}`;
}

/** `GET callback/IDP`: the browser is back from the provider. */
export async function finishSignIn(
  world: LoginWorld,
  request: EdgeRequest,
  idp: string,
  query: URLSearchParams,
): Promise<EdgeAnswer> {
  const { cookies, store } = world;
  const own = cookies.read(request.field("cookie"));
  const key = attemptCookie(query.get("state"));
  const secret = key === undefined ? undefined : own.own.get(key);
  const setCookie = key === undefined || secret === undefined ? [] : [cookies.clear(key)];
  let again = loginPath("/");
  try {
    const attempt = secret === undefined ? undefined : ((await store.take(secret)) as Attempt | undefined);
    if (attempt === undefined || !isState(attempt, query.get("state") ?? ""))
      throw new SignInError("no_attempt", "no sign-in of this browser is under way with this `state`");
    again = loginPath(attempt.returnTo, {
      strength: { acr: attempt.acr, maxAgeSeconds: attempt.maxAgeSeconds },
    });
    // A callback that comes to another provider's address is a mix-up (RFC 9700 section 4.4), also without `iss`.
    if (attempt.idp !== idp || attempt.host !== request.host.toLowerCase())
      throw new SignInError(
        "invalid",
        `the callback came to \`${idp}\`, the sign-in is one with \`${attempt.idp}\``,
      );
    const callback = new URL(`${callbackUri(request.host, idp)}?${query}`);
    const provider = world.provider(idp);
    const tokens = await provider.redeem(attempt, callback);
    const opened = await openSession(world, request, attempt, tokens);
    const id = await establish(world, { provider, tokens, opened, before: own.id });
    world.count(idp, "ok");
    world.log.info("signed in", { idp, user: opened.user.id, sid: opened.sid });
    world.tell({
      ...{ action: "login", allowed: true, reason: "ALLOWED", idp, user: opened.user },
      ...{ session: opened.sid, request, status: 303 },
    });
    // 303: the provider's page may have come by POST; the session's id is new with each sign-in.
    return redirect(attempt.returnTo, [...setCookie, cookies.setSession(id)], 303);
  } catch (error) {
    return failed(world, asFailure(error, "mesh_down"), { request, idp, again, setCookie });
  }
}

async function openSession(
  world: LoginWorld,
  request: EdgeRequest,
  attempt: Attempt,
  tokens: ProviderTokens,
): Promise<OpenedSession> {
  const { idToken, accessToken } = tokens;
  if (idToken === undefined) throw new SignInError("invalid", "the provider gave no ID token");
  const opened = await world.tokens.openSession({
    idp: attempt.idp,
    idToken,
    accessToken,
    nonce: attempt.nonce,
    request: { ip: request.sourceIp, userAgent: request.field("user-agent")?.slice(0, 256) },
  });
  if (!opened.ok) {
    const { isTemporary, reason, detail } = opened.error;
    throw new SignInError(isTemporary ? "mesh_down" : "refused", `${reason}: ${detail}`);
  }
  const { acr, authTime } = opened.value.user;
  const strength = { acr: attempt.acr, maxAgeSeconds: attempt.maxAgeSeconds };
  const nowMs = world.clock.nowMs();
  if (!isStrongEnough({ acr, authTimeMs: authTimeMs(authTime, nowMs) }, strength, nowMs))
    throw new SignInError("too_weak", `asked for ${JSON.stringify(strength)}, got acr \`${acr ?? ""}\``);
  return opened.value;
}

/** Whoever does not say when somebody signed in is taken to mean long ago, where it matters. */
const authTimeMs = (authTime: number | undefined, nowMs: number): number =>
  authTime === undefined ? 0 : Math.min(authTime * 1_000, nowMs);

/** Makes the session; the one that the browser had before ends. */
async function establish(
  world: LoginWorld,
  made: {
    readonly provider: Provider;
    readonly tokens: ProviderTokens;
    readonly opened: OpenedSession;
    readonly before: string | undefined;
  },
): Promise<string> {
  const { store, clock } = world;
  const nowMs = clock.nowMs();
  const session = sessionOf(world, made, nowMs);
  if (made.before !== undefined) {
    const old = await store.end(made.before);
    if (old !== undefined) {
      await store.endAll({ sid: old.sid });
      void world.tokens.endSession({ handle: old.handle });
    }
  }
  const id = createSessionId();
  await store.create(id, session, nowMs);
  return id;
}

/** The record of a session that was opened or refreshed now. */
export function sessionOf(
  world: Pick<LoginWorld, "gateway">,
  {
    provider,
    tokens,
    opened,
  }: { readonly provider: Provider; readonly tokens: ProviderTokens; readonly opened: OpenedSession },
  nowMs: number,
  before?: Session,
): Session {
  const { user, sid, handle, expiresAt } = opened;
  const { refreshToken, expiresIn, idToken, idpSid } = tokens;
  const createdMs = before?.createdMs ?? nowMs;
  const lastsMs = expiresIn === undefined ? REFRESH.otherwiseMs : expiresIn * 1_000 * REFRESH.part;
  return {
    sid,
    idp: provider.idp.name,
    idpSid: idpSid ?? before?.idpSid,
    user: {
      id: user.id,
      email: user.email,
      username: user.username,
      roles: user.roles,
      acr: user.acr,
      amr: user.amr,
      authTimeMs: before?.user.authTimeMs ?? authTimeMs(user.authTime, nowMs),
    },
    handle,
    refreshToken,
    idToken: idToken ?? before?.idToken,
    createdMs,
    endsMs: Math.min(createdMs + world.gateway().session.absoluteMs, expiresAt * 1_000),
    refreshAtMs: refreshToken === undefined ? undefined : nowMs + Math.max(REFRESH.leastMs, lastsMs),
  };
}
