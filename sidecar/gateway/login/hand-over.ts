// One sign-in for many hosts: the login host of a gateway, the only one that the identity providers know, hands its session
// over to another host by a code that is good once, there, and for the browser that began. No cookie is shared.
import { challengeOf } from "../../core/gateway/client-login.ts";
import type { Gateway } from "../../core/gateway/gateway.ts";
import type { EdgeAnswer, EdgeRequest } from "../people.ts";
import { createSessionId } from "../session/cookies.ts";
import { loginPath, redirect } from "./answers.ts";
import { ATTEMPT_MS, type Attempt, createAttempt, isState } from "./attempt.ts";
import { isVerifier, only } from "./client-request.ts";
import type { LoginWorld } from "./login-world.ts";
import { OWN_PATHS } from "./return-path.ts";
import { failed } from "./sign-in-failed.ts";
import { asFailure, SignInError } from "./sign-in-failure.ts";
import { isStrongEnough, type Strength, strengthIn } from "./step-up.ts";
import { TRIES_COOKIE, TRIES_SECONDS } from "./tries.ts";

/** From the login host to the other one, through a browser. */
const CODE_MS = 30_000;
const RANDOM = /^[A-Za-z0-9_-]{43}$/;
const HOST_NAME = /^[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?$/;
/** Characters of the state that name the cookie. */
const NAMED_BY = 10;

/** What a code stands for. */
interface HandOver {
  /** Of the browser, at the login host. */
  readonly sessionId: string;
  /** Where it may be used. */
  readonly host: string;
  readonly challenge: string;
}

/** Apart from all else that the store keeps under random names. */
const codeRecord = (code: string): string => `hand-over-code ${code}`;
const attemptRecord = (secret: string): string => `hand-over ${secret}`;
const cookieOf = (state: string): string => `hand-${state.slice(0, NAMED_BY)}`;

/** The login host as a client names it that came in for `host`: the same port; undefined: `host` signs people in itself. */
export function loginHostFor({ session }: Pick<Gateway, "session">, host: string): string | undefined {
  const { loginHost } = session;
  const [name = "", port] = host.toLowerCase().split(":");
  if (loginHost === undefined || loginHost === name) return undefined;
  return port === undefined ? loginHost : `${loginHost}:${port}`;
}

/** `GET login` at another host than the login host. */
export async function askLoginHost(
  world: LoginWorld,
  request: EdgeRequest,
  loginHost: string,
  asked: Strength & { readonly returnTo: string; readonly idp: string | null; readonly tries: number },
): Promise<EdgeAnswer> {
  const { cookies, store } = world;
  const { returnTo, idp, tries, acr, maxAgeSeconds } = asked;
  const host = request.host.toLowerCase();
  const attempt = createAttempt({ idp: "", host, returnTo, acr, maxAgeSeconds });
  const secret = createSessionId();
  await store.keep(attemptRecord(secret), attempt, ATTEMPT_MS);
  const query = new URLSearchParams({
    to: host.split(":")[0] ?? "",
    state: attempt.state,
    challenge: challengeOf(attempt.verifier),
    ...(idp === null ? {} : { idp }),
    ...(acr === undefined ? {} : { acr }),
    ...(maxAgeSeconds === undefined ? {} : { max_age: String(maxAgeSeconds) }),
  });
  return redirect(`https://${loginHost}${OWN_PATHS}hand-over?${query}`, [
    cookies.set(cookieOf(attempt.state), secret, ATTEMPT_MS / 1_000),
    cookies.set(TRIES_COOKIE, String(tries + 1), TRIES_SECONDS),
  ]);
}

/** `GET hand-over`, at the login host: signs the person in where that is needed, and sends them back with a code. */
export async function handOver(
  world: LoginWorld,
  request: EdgeRequest,
  query: URLSearchParams,
): Promise<EdgeAnswer> {
  try {
    const { session: settings, listeners } = world.gateway();
    const [name = "", port] = request.host.toLowerCase().split(":");
    const to = only(query, "to") ?? "";
    const state = only(query, "state") ?? "";
    const challenge = only(query, "challenge") ?? "";
    // Only to hosts of this gateway, at the port that this request came to: somebody else may listen on another.
    const isServed =
      HOST_NAME.test(to) &&
      listeners.some(
        ({ hosts }) => hosts.includes(to) || hosts.includes(`*.${to.slice(to.indexOf(".") + 1)}`),
      );
    if (settings.loginHost !== name || to === name || !isServed)
      throw new SignInError("invalid", "this is not the login host, or the other one is not of this gateway");
    if (!RANDOM.test(state) || !RANDOM.test(challenge))
      throw new SignInError("invalid", "no sign-in is under way with this `state` and `challenge`");
    const { id } = world.cookies.read(request.field("cookie"));
    const nowMs = world.clock.nowMs();
    const session = id === undefined ? undefined : await world.store.find(id, nowMs);
    const strength = strengthIn(query);
    if (id === undefined || session === undefined || !isStrongEnough(session.user, strength, nowMs))
      return redirect(
        loginPath(`${OWN_PATHS}hand-over?${query}`, { idp: only(query, "idp"), strength }),
        [],
        303,
      );
    const host = port === undefined ? to : `${to}:${port}`;
    const code = createSessionId();
    await world.store.keep(codeRecord(code), { sessionId: id, host, challenge } satisfies HandOver, CODE_MS);
    return redirect(
      `https://${host}${OWN_PATHS}handed-over?${new URLSearchParams({ code, state })}`,
      [],
      303,
    );
  } catch (error) {
    return failed(world, asFailure(error, "mesh_down"), { request, idp: "", again: loginPath("/") });
  }
}

/** `GET handed-over`, at the other host: the browser that began, and no other, has the session here, too. */
export async function takeOver(
  world: LoginWorld,
  request: EdgeRequest,
  query: URLSearchParams,
): Promise<EdgeAnswer> {
  const { cookies, store, clock } = world;
  const own = cookies.read(request.field("cookie"));
  const state = only(query, "state") ?? "";
  const key = RANDOM.test(state) ? cookieOf(state) : undefined;
  const secret = key === undefined ? undefined : own.own.get(key);
  const setCookie = key === undefined || secret === undefined ? [] : [cookies.clear(key)];
  let again = loginPath("/");
  try {
    const [attempt, given] = await Promise.all([
      secret === undefined ? undefined : (store.take(attemptRecord(secret)) as Promise<Attempt | undefined>),
      // Taken in any case: a code that came to the wrong browser is good for nobody.
      store.take(codeRecord(only(query, "code") ?? "")) as Promise<HandOver | undefined>,
    ]);
    const host = request.host.toLowerCase();
    if (attempt === undefined || attempt.host !== host || !isState(attempt, state))
      throw new SignInError("no_attempt", "no sign-in of this browser is under way with this `state`");
    const strength = { acr: attempt.acr, maxAgeSeconds: attempt.maxAgeSeconds };
    again = loginPath(attempt.returnTo, { strength });
    if (given === undefined || given.host !== host || !isVerifier(attempt.verifier, given.challenge))
      throw new SignInError("invalid", "the code is spent, or belongs to another host or sign-in");
    const nowMs = clock.nowMs();
    const session = await store.find(given.sessionId, nowMs);
    if (session === undefined) throw new SignInError("no_attempt", "the session has ended meanwhile");
    if (!isStrongEnough(session.user, strength, nowMs))
      throw new SignInError("too_weak", `asked for ${JSON.stringify(strength)}`);
    const { user, idp, sid } = session;
    world.log.info("session handed over", { idp, user: user.id, sid, host });
    world.tell({
      ...{ action: "login", allowed: true, reason: "ALLOWED", detail: "handed over by the login host" },
      ...{ idp, user, session: sid, request, status: 303 },
    });
    return redirect(attempt.returnTo, [...setCookie, cookies.setSession(given.sessionId)], 303);
  } catch (error) {
    return failed(world, asFailure(error, "mesh_down"), { request, idp: "", again, setCookie });
  }
}
