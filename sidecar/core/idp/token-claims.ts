// What the claims of ID tokens, access tokens, assertions and logout tokens have to say, each by its own standard. PURE.
import { hash } from "node:crypto";
import type { JwtShape } from "./jwt-shape.ts";
import type { IdpRefusal, IdpResult, IdpSettings } from "./settings.ts";
import { refuseIdp } from "./settings.ts";

/** An ID token is shown right after it was issued. */
const ID_TOKEN_FRESH_SECONDS = 300;
const LOGOUT_FRESH_SECONDS = 300;
/** Longest life of a JWT that is used again and again. */
const LONGEST_SECONDS = 86_400;
const LAST_TIME = 253_402_300_799;
const MAX_SUBJECT_CHARS = 255;
const LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout";

/** A token that was verified. Times are Unix seconds. */
export interface VerifiedJwt {
  readonly sub: string;
  readonly issuedAt: number;
  readonly expiresAt: number;
  readonly claims: Readonly<Record<string, unknown>>;
  /** SHA-256 of what was signed, base64url: the same for every form of the same token. */
  readonly digest: string;
}

export interface VerifiedLogout {
  /** One of the two is set. */
  readonly sub: string | undefined;
  readonly sid: string | undefined;
  readonly digest: string;
}

export interface ClaimContext {
  readonly settings: IdpSettings;
  readonly nowMs: number;
}

export interface IdTokenExpectation {
  /** Of the login; undefined for a refreshed token, which repeats the one of the login or has none. */
  readonly nonce: string | undefined;
  readonly accessToken: string | undefined;
}

const bad = (detail: string): IdpRefusal => refuseIdp("claims", detail);

function timeOf(shape: JwtShape, name: string): number | undefined {
  const value = shape.claims[name];
  return typeof value === "number" && value >= 0 && value <= LAST_TIME ? value : undefined;
}

/** The short text of a claim; undefined when it is missing, empty, long, or has control characters. */
export function claimText(value: unknown, most = MAX_SUBJECT_CHARS): string | undefined {
  return typeof value === "string" && value !== "" && value.length <= most && !/\p{Cc}/u.test(value)
    ? value
    : undefined;
}

function audiencesOf({ claims }: JwtShape): readonly unknown[] {
  const { aud } = claims;
  return Array.isArray(aud) ? aud : [aud];
}

interface Times {
  readonly issuedAt: number;
  readonly expiresAt: number;
}

function checkIssuerAndTimes(
  shape: JwtShape,
  { settings, nowMs }: ClaimContext,
  freshSeconds: number | undefined,
): IdpResult<Times> {
  const { claims } = shape;
  const now = nowMs / 1000;
  const skew = settings.clockSkewSeconds;
  if (claims["iss"] !== settings.issuer) return refuseIdp("issuer", `\`iss\` is not \`${settings.issuer}\``);
  const issuedAt = timeOf(shape, "iat");
  const expiresAt = timeOf(shape, "exp");
  if (issuedAt === undefined || expiresAt === undefined)
    return bad("`iat` or `exp` is missing, or not a time in seconds");
  if (now >= expiresAt + skew) return refuseIdp("expired", "`exp` has passed");
  if (issuedAt > now + skew) return refuseIdp("not_yet", "`iat` lies ahead");
  const notBefore = claims["nbf"] === undefined ? 0 : timeOf(shape, "nbf");
  if (notBefore === undefined) return bad("`nbf` is not a time in seconds");
  if (notBefore > now + skew) return refuseIdp("not_yet", "`nbf` lies ahead");
  if (freshSeconds !== undefined && now - issuedAt > freshSeconds + skew)
    return refuseIdp("expired", `issued more than ${freshSeconds} s ago`);
  if (freshSeconds === undefined && expiresAt - issuedAt > LONGEST_SECONDS)
    return bad("it is valid for longer than a day");
  return { ok: true, value: { issuedAt, expiresAt } };
}

const digestOf = ({ signed }: JwtShape): string => hash("sha256", signed, "base64url");

function verified(shape: JwtShape, times: Times): IdpResult<VerifiedJwt> {
  const sub = claimText(shape.claims["sub"]);
  if (sub === undefined) return bad("`sub` is missing or no short text");
  return { ok: true, value: { sub, ...times, claims: shape.claims, digest: digestOf(shape) } };
}

/** Left half of the digest of an access token (OpenID Connect Core 1.0 section 3.1.3.6). */
function accessTokenHash(accessToken: string, alg: string): string {
  const digest = hash(`sha${alg.slice(-3)}`, accessToken, "buffer");
  return digest.subarray(0, digest.length / 2).toString("base64url");
}

/** OpenID Connect Core 1.0 section 3.1.3.7, and 12.2 for a refreshed one. */
export function checkIdToken(
  shape: JwtShape,
  context: ClaimContext,
  expected: IdTokenExpectation,
): IdpResult<VerifiedJwt> {
  const { settings } = context;
  const { claims } = shape;
  if (shape.typ !== undefined && shape.typ !== "jwt")
    return refuseIdp("type", "`typ` is not that of an ID token");
  // A logout token is signed by the same key for the same audience.
  if (claims["events"] !== undefined) return refuseIdp("type", "an ID token has no `events`");
  const times = checkIssuerAndTimes(shape, context, ID_TOKEN_FRESH_SECONDS);
  if (!times.ok) return times;
  const audiences = audiencesOf(shape);
  if (!audiences.includes(settings.clientId)) return refuseIdp("audience", "`aud` is not our client");
  const { azp } = claims;
  if ((audiences.length > 1 || azp !== undefined) && azp !== settings.clientId)
    return refuseIdp("audience", "`azp` is not our client");
  const { nonce } = claims;
  if (expected.nonce !== undefined && nonce !== expected.nonce)
    return refuseIdp("nonce", "`nonce` is not that of this login");
  if (expected.accessToken !== undefined && claims["at_hash"] !== undefined) {
    if (claims["at_hash"] !== accessTokenHash(expected.accessToken, shape.alg))
      return refuseIdp("access_token", "`at_hash` is of another access token");
  }
  if (settings.hostedDomain !== undefined && claims["hd"] !== settings.hostedDomain)
    return refuseIdp("claims", "`hd` is not the domain that people must have");
  return verified(shape, times.value);
}

/** What is good for anybody who has it, and meant for this API. */
function checkApiToken(shape: JwtShape, { audiences }: IdpSettings): IdpRefusal | undefined {
  // RFC 7800 section 3.1, RFC 8705, RFC 9449: it proves nothing without its key, which nobody here asks for.
  if (shape.claims["cnf"] !== undefined)
    return bad("it is bound to a key (`cnf`), which cannot be checked here");
  const isOurs = audiencesOf(shape).some((one) => typeof one === "string" && audiences.includes(one));
  return isOurs ? undefined : refuseIdp("audience", "`aud` is none of `spec.audiences`");
}

/** An access token for the API (RFC 9068 sections 2 and 4). */
export function checkAccessToken(shape: JwtShape, context: ClaimContext): IdpResult<VerifiedJwt> {
  if (shape.typ !== "at+jwt") return refuseIdp("type", "`typ` is not `at+jwt`");
  const times = checkIssuerAndTimes(shape, context, undefined);
  if (!times.ok) return times;
  const unfit = checkApiToken(shape, context.settings);
  if (unfit !== undefined) return unfit;
  const { client_id: clientId, azp, jti } = shape.claims;
  // Keycloak's access tokens name the client by `azp` alone, also where it calls them `at+jwt`.
  if (claimText(clientId ?? azp, 1_024) === undefined) return bad("`client_id` is missing");
  if (claimText(jti, 1_024) === undefined) return bad("`jti` is missing");
  return verified(shape, times.value);
}

/** A JWT of a CI system or a service principal, made to be exchanged (RFC 8693, RFC 7523 section 3). */
export function checkAssertion(shape: JwtShape, context: ClaimContext): IdpResult<VerifiedJwt> {
  if (shape.typ !== undefined && shape.typ !== "jwt")
    return refuseIdp("type", "`typ` is not that of an assertion");
  // An ID token of a login, or a logout token, is not made to be exchanged.
  for (const name of ["nonce", "events", "at_hash", "c_hash"])
    if (shape.claims[name] !== undefined) return refuseIdp("type", `an assertion has no \`${name}\``);
  const times = checkIssuerAndTimes(shape, context, undefined);
  if (!times.ok) return times;
  return checkApiToken(shape, context.settings) ?? verified(shape, times.value);
}

/**
 * OpenID Connect Back-Channel Logout 1.0 section 2.6. Some providers say `JWT` for `typ`, which the standard permits;
 * `events` is there and `nonce` is not, so no ID token passes.
 */
export function checkLogoutToken(shape: JwtShape, context: ClaimContext): IdpResult<VerifiedLogout> {
  const { settings } = context;
  const { claims } = shape;
  if (shape.typ !== undefined && shape.typ !== "jwt" && shape.typ !== "logout+jwt")
    return refuseIdp("type", "`typ` is not `logout+jwt`");
  const { events } = claims;
  const event: unknown =
    typeof events === "object" && events !== null && Object.hasOwn(events, LOGOUT_EVENT)
      ? Reflect.get(events, LOGOUT_EVENT)
      : undefined;
  if (typeof event !== "object" || event === null || Array.isArray(event))
    return refuseIdp("type", "`events` does not say that it is a logout token");
  if (claims["nonce"] !== undefined) return refuseIdp("type", "a logout token has no `nonce`");
  const times = checkIssuerAndTimes(shape, context, LOGOUT_FRESH_SECONDS);
  if (!times.ok) return times;
  if (!audiencesOf(shape).includes(settings.clientId))
    return refuseIdp("audience", "`aud` is not our client");
  if (claimText(claims["jti"], 1_024) === undefined) return bad("`jti` is missing");
  const sub = claims["sub"] === undefined ? undefined : claimText(claims["sub"]);
  const sid = claims["sid"] === undefined ? undefined : claimText(claims["sid"]);
  if ((sub ?? sid) === undefined || (claims["sub"] !== undefined && sub === undefined))
    return bad("neither `sub` nor `sid` says who is meant");
  if (claims["sid"] !== undefined && sid === undefined) return bad("`sid` is no short text");
  return { ok: true, value: { sub, sid, digest: digestOf(shape) } };
}
