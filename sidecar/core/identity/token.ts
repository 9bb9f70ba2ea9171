// Compact JWS tokens of the mesh: strict splitting, ES256 with synchronous node:crypto, and the checks V2 to V5 of the
// verification order (WIT and WPT). jose is the tests' second opinion; it accepts forms that are refused here.
import { createPublicKey, hash, type KeyObject } from "node:crypto";
import type { Reason } from "../policy/reason.ts";
import type { Result } from "../runtime/errors.ts";
import {
  MAX_TOKEN_BYTES,
  parseClaimsJson,
  parseWitClaims,
  parseWptClaims,
  TOKEN_ALGORITHM,
  TOKEN_TYPES,
  type TokenJwk,
  type TokenType,
  type WitClaims,
  type WptClaims,
} from "./claims.ts";
import { signEs256, verifyEs256 } from "./ecdsa.ts";
import { type SpiffeId, trustDomainOf } from "./spiffe-id.ts";
import type { TrustBundle } from "./trust-bundle.ts";

/** A refusal: the reason decides the answer, the detail (no secret in it) goes to logs. */
export interface Refusal {
  readonly ok: false;
  readonly error: Reason;
  readonly detail: string;
}
export type Verified<T> = { readonly ok: true; readonly value: T } | Refusal;

export interface TokenParts {
  readonly header: string;
  readonly payload: string;
  readonly signature: string;
  /** `header.payload`, what is signed. */
  readonly signed: string;
}

/** Clocks may differ by this much. */
export const SKEW_SECONDS = 60;
/** A proof that lives longer is refused. */
export const MAX_PROOF_AHEAD_SECONDS = 120;

const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
// r and s of P-256, 64 bytes, in base64url.
const SIGNATURE_CHARACTERS = 86;

function refuse(error: Reason, detail: string): Refusal {
  return { ok: false, error, detail };
}

/** The one encoding of some bytes: alphabet only, no padding, unused bits zero (RFC 4648 section 3.5). */
export function isCanonicalBase64url(segment: string): boolean {
  const rest = segment.length & 3;
  if (rest === 1 || !/^[A-Za-z0-9_-]+$/.test(segment)) return false;
  if (rest === 0) return true;
  return (ALPHABET.indexOf(segment.charAt(segment.length - 1)) & (rest === 2 ? 15 : 3)) === 0;
}

/** Splits a token (at most 4 KiB) into its three segments, before any JSON is read. */
export function splitToken(text: string): Result<TokenParts, string> {
  if (text.length > MAX_TOKEN_BYTES) return { ok: false, error: "the token is larger than 4 KiB" };
  const parts = text.split(".", 4);
  const [header, payload, signature] = parts;
  if (parts.length !== 3 || header === undefined || payload === undefined || signature === undefined) {
    return { ok: false, error: "the token does not have three segments" };
  }
  if (signature.length !== SIGNATURE_CHARACTERS) return { ok: false, error: "the signature is not 64 bytes" };
  if (!isCanonicalBase64url(header) || !isCanonicalBase64url(payload) || !isCanonicalBase64url(signature)) {
    return { ok: false, error: "a segment is not canonical base64url" };
  }
  return {
    ok: true,
    value: { header, payload, signature, signed: text.slice(0, header.length + 1 + payload.length) },
  };
}

/** base64url SHA-256 of a text: `wth`, `tth`, `ath`. */
export function tokenHash(text: string): string {
  return hash("sha256", text, "base64url");
}

/**
 * The credentials of an `Authorization: Bearer` value (RFC 6750), on which `ath` is computed; undefined for no or
 * another scheme. Signer and verifier both use this function, so they agree on odd spacing too.
 */
export function bearerToken(authorization: string | undefined): string | undefined {
  if (authorization === undefined || authorization.length < 7) return undefined;
  if (authorization.slice(0, 7).toLowerCase() !== "bearer ") return undefined;
  return authorization.slice(7).trim();
}

/** The value of `ath` for a request with this `Authorization`; undefined: no bearer token. */
export function accessTokenHash(authorization: string | undefined): string | undefined {
  const bearer = bearerToken(authorization);
  return bearer === undefined ? undefined : tokenHash(bearer);
}

/**
 * Signs a token: ES256, signature as r and s (RFC 7518 section 3.4).
 *
 * @param header `typ`, and `kid` for tokens of the control plane.
 * @param claims as they go on the wire; undefined members are left out.
 */
export function signToken(
  header: { readonly typ: TokenType; readonly kid?: string },
  claims: Readonly<Record<string, unknown>>,
  key: KeyObject,
): string {
  const head = Buffer.from(JSON.stringify({ alg: TOKEN_ALGORITHM, ...header })).toString("base64url");
  const signed = `${head}.${Buffer.from(JSON.stringify(claims)).toString("base64url")}`;
  return `${signed}.${signEs256(Buffer.from(signed), key).toString("base64url")}`;
}

/** Step V2 for one token: shape, size, header members, `typ` and `alg` from the fixed list. */
export function openToken(
  text: string,
  typ: TokenType,
): Verified<{ parts: TokenParts; kid: string | undefined }> {
  const split = splitToken(text);
  if (!split.ok) return refuse("AUTHN_PROOF_INVALID", split.error);
  const json = parseClaimsJson(Buffer.from(split.value.header, "base64url"));
  if (!json.ok) return refuse("AUTHN_PROOF_INVALID", `header: ${json.error}`);
  const { alg, typ: foundTyp, kid, ...rest } = json.value;
  if (alg !== TOKEN_ALGORITHM) return refuse("AUTHN_PROOF_INVALID", "header: `alg` is not ES256");
  if (foundTyp !== typ) return refuse("AUTHN_PROOF_INVALID", `header: \`typ\` is not ${typ}`);
  if (kid !== undefined && typeof kid !== "string")
    return refuse("AUTHN_PROOF_INVALID", "header: `kid` is not a string");
  // `crit`, `jwk`, `jku`, `x5c` and the like: nothing of ours uses them, and each has been an attack (RFC 8725).
  if (Object.keys(rest).length > 0) return refuse("AUTHN_PROOF_INVALID", "header: a member is not permitted");
  return { ok: true, value: { parts: split.value, kid } };
}

/** Whether the signature is that of this key. */
export function isSigned(parts: TokenParts, key: KeyObject): boolean {
  return verifyEs256(Buffer.from(parts.signed), key, Buffer.from(parts.signature, "base64url"));
}

/** The first rule of time that the claims break, in words. */
function timeProblem(
  claims: { exp: number; nbf: number | undefined; iat: number | undefined },
  nowMs: number,
): string | undefined {
  const now = nowMs / 1000;
  if (now >= claims.exp + SKEW_SECONDS) return "the token has expired";
  if (claims.nbf !== undefined && claims.nbf > now + SKEW_SECONDS) return "the token is not valid yet";
  if (claims.iat !== undefined && claims.iat > now + SKEW_SECONDS)
    return "the token was issued in the future";
  return undefined;
}

export interface WitContext {
  readonly bundle: TrustBundle;
  /** SPIFFE ID of the TLS peer. */
  readonly peerSpiffeId: SpiffeId;
  readonly nowMs: number;
}

/** Verifies a workload identity token: V2 for its shape (`AUTHN_PROOF_INVALID`), then V3 (`AUTHN_WIT_INVALID`). */
export function verifyWit(text: string, context: WitContext): Verified<WitClaims> {
  const opened = openToken(text, TOKEN_TYPES.wit);
  if (!opened.ok) return opened;
  const { parts, kid } = opened.value;
  const json = parseClaimsJson(Buffer.from(parts.payload, "base64url"));
  if (!json.ok) return refuse("AUTHN_WIT_INVALID", json.error);
  const claims = parseWitClaims(json.value);
  if (!claims.ok) return refuse("AUTHN_WIT_INVALID", claims.error);
  if (trustDomainOf(claims.value.sub) !== context.bundle.trustDomain) {
    return refuse("AUTHN_WIT_INVALID", "`sub` belongs to another trust domain than the key");
  }
  const key = kid === undefined ? undefined : context.bundle.witKeys.get(kid);
  if (key === undefined) return refuse("AUTHN_WIT_INVALID", "no key of the trust bundle has this `kid`");
  const late = timeProblem(claims.value, context.nowMs);
  if (late !== undefined) return refuse("AUTHN_WIT_INVALID", late);
  if (claims.value.sub !== context.peerSpiffeId)
    return refuse("AUTHN_WIT_INVALID", "`sub` is not the TLS peer");
  if (!isSigned(parts, key)) return refuse("AUTHN_WIT_INVALID", "the signature does not verify");
  return claims;
}

/** The key of `cnf.jwk`; undefined when the coordinates are no point on the curve. */
export function tokenKeyOf(jwk: TokenJwk): KeyObject | undefined {
  try {
    return createPublicKey({ key: { kty: jwk.kty, crv: jwk.crv, x: jwk.x, y: jwk.y }, format: "jwk" });
  } catch {
    return undefined;
  }
}

export interface WptContext {
  /** The WIT that came with it, as text, and its verified key. */
  readonly wit: string;
  readonly witJwk: TokenJwk;
  readonly witKey: KeyObject;
  /** `Authorization` of the request, if any. */
  readonly authorization: string | undefined;
  /** `Txn-Token` of the request, if any. */
  readonly txnToken?: string | undefined;
  readonly ownSpiffeId: string;
  readonly peerLeafThumbprint: string;
  readonly nowMs: number;
}

/**
 * Verifies a workload proof token: V2, V4 (`AUTHN_PROOF_INVALID`) and the `tth` rule of V5 (`AUTHN_TXN_INVALID`).
 * ES256 signatures have a twin (r, n-s), so tokens are not unique as bytes: replay memory goes by `jti`.
 */
export function verifyWpt(text: string, context: WptContext): Verified<WptClaims> {
  const opened = openToken(text, TOKEN_TYPES.wpt);
  if (!opened.ok) return opened;
  const { parts, kid } = opened.value;
  if (kid !== undefined) return refuse("AUTHN_PROOF_INVALID", "header: a proof names no `kid`");
  if (context.witJwk.alg !== TOKEN_ALGORITHM)
    return refuse("AUTHN_PROOF_INVALID", "`alg` is not that of `cnf.jwk`");
  const json = parseClaimsJson(Buffer.from(parts.payload, "base64url"));
  if (!json.ok) return refuse("AUTHN_PROOF_INVALID", json.error);
  const parsed = parseWptClaims(json.value);
  if (!parsed.ok) return refuse("AUTHN_PROOF_INVALID", parsed.error);
  const problem = wptProblem(parsed.value, context);
  if (problem !== undefined) return refuse("AUTHN_PROOF_INVALID", problem);
  if (!isSigned(parts, context.witKey)) return refuse("AUTHN_PROOF_INVALID", "the signature does not verify");
  const tth = context.txnToken === undefined ? undefined : tokenHash(context.txnToken);
  if (parsed.value.tth !== tth)
    return refuse("AUTHN_TXN_INVALID", "`tth` does not match the transaction token");
  return parsed;
}

function wptProblem(claims: WptClaims, context: WptContext): string | undefined {
  if (claims.wth !== tokenHash(context.wit)) return "`wth` does not match the workload identity token";
  if (claims.ath !== accessTokenHash(context.authorization)) return "`ath` does not match the bearer token";
  if (claims.aud !== context.ownSpiffeId) return "`aud` is another workload";
  if (claims.x5tS256 !== context.peerLeafThumbprint)
    return "`cnf.x5t#S256` is not the TLS peer's certificate";
  if (claims.exp > context.nowMs / 1000 + MAX_PROOF_AHEAD_SECONDS) return "`exp` is more than 120 s ahead";
  return timeProblem(claims, context.nowMs);
}
