// One sign-in under way: what the callback needs of it, kept by the store of sessions under a secret that the browser has
// in a cookie of its own. So a callback that another browser began finds nothing, each is used once, and several tabs
// sign in side by side.
import { randomBytes, timingSafeEqual } from "node:crypto";

/** Long enough for a second factor and a forgotten password. */
export const ATTEMPT_MS = 900_000;
const STATE = /^[A-Za-z0-9_-]{43}$/;
/** Characters of the state that name the cookie. */
const NAMED_BY = 10;

export interface Attempt {
  /** Name of the IdentityProvider. */
  readonly idp: string;
  /** Where the sign-in began: the callback must come to the same. */
  readonly host: string;
  readonly state: string;
  readonly nonce: string;
  /** Of PKCE (RFC 7636). */
  readonly verifier: string;
  /** A path of the host. */
  readonly returnTo: string;
  /** What was asked for beyond a plain sign-in. */
  readonly acr?: string | undefined;
  readonly maxAgeSeconds?: number | undefined;
}

const random = (): string => randomBytes(32).toString("base64url");

export function createAttempt(of: Omit<Attempt, "state" | "nonce" | "verifier">): Attempt {
  return { ...of, state: random(), nonce: random(), verifier: random() };
}

/** Key of the cookie (see `GatewayCookies.set`) that belongs to a state; undefined: it is no state of ours. */
export function attemptCookie(state: string | null): string | undefined {
  return state !== null && STATE.test(state) ? `login-${state.slice(0, NAMED_BY)}` : undefined;
}

/** Compares without telling by time how much is right. */
export function isState(attempt: Attempt, state: string): boolean {
  const [a, b] = [Buffer.from(attempt.state), Buffer.from(state)];
  return a.length === b.length && timingSafeEqual(a, b);
}
