// Every header and claim name of the mesh in one place, the typed claims of WIT and WPT, and their strict parsers.
// The input is at most 4 KiB of JSON from a token whose segments were checked; it is still hostile.
import type { Result } from "../runtime/errors.ts";
import {
  ClaimError,
  digest,
  isObject,
  type Json,
  object,
  optionalText,
  optionalTime,
  own,
  parsed,
  spiffeId,
  text,
  time,
} from "./claim-readers.ts";
import type { SpiffeId } from "./spiffe-id.ts";

/** Field names, lower case as HTTP/2 carries them. */
export const WORKLOAD_IDENTITY_TOKEN = "workload-identity-token";
export const WORKLOAD_PROOF_TOKEN = "workload-proof-token";
export const TXN_TOKEN = "txn-token";
export const COUNTERSIGN_PORT = "countersign-port";
/** What the application of the caller speaks, for ports that declare nothing: http, h2c, tcp or tls. */
export const COUNTERSIGN_PROTOCOL = "countersign-protocol";
/** Server name of the ClientHello on a tls connection. */
export const COUNTERSIGN_SNI = "countersign-sni";
/** Says that a request is a copy that a route asked for; nothing depends on it but what is written down. */
export const COUNTERSIGN_MIRROR = "countersign-mirror";

/** Status of an application that answered an upgrade with 2xx and without switching, which CONNECT cannot say. */
export const COUNTERSIGN_STATUS = "countersign-status";

export const WORKLOAD_CLAIM = "countersign.dev/wl";
export const HOP_CLAIM = "countersign.dev/hop";
export const THUMBPRINT_CLAIM = "x5t#S256";

export const TOKEN_TYPES = { wit: "wit+jwt", wpt: "wpt+jwt", txn: "txntoken+jwt" } as const;
export type TokenType = (typeof TOKEN_TYPES)[keyof typeof TOKEN_TYPES];
/** The only signature algorithm of mesh tokens. */
export const TOKEN_ALGORITHM = "ES256";

/** Longest accepted token, characters. */
export const MAX_TOKEN_BYTES = 4096;

/** Public P-256 key in the form of RFC 7517; `alg` is compared with the proof's header, never used to choose. */
export interface TokenJwk {
  readonly alg: string;
  readonly kty: "EC";
  readonly crv: "P-256";
  readonly x: string;
  readonly y: string;
}

/** `countersign.dev/wl`: what the control plane attested about the workload. */
export interface WorkloadFacts {
  readonly kind: string;
  readonly name: string;
  readonly env?: string | undefined;
  /** `idp|user` of a single-user workload. */
  readonly owner?: string | undefined;
  /** `idp|user` that the workload acts for, where that is somebody else than the owner. */
  readonly runAs?: string | undefined;
  readonly pod?: string | undefined;
  readonly cluster?: string | undefined;
}

/** Times are Unix seconds, as in the token. */
export interface WitClaims {
  readonly sub: SpiffeId;
  readonly exp: number;
  readonly iat: number | undefined;
  readonly nbf: number | undefined;
  readonly jti: string | undefined;
  readonly jwk: TokenJwk;
  readonly workload: WorkloadFacts | undefined;
}

/** One earlier hop: its SPIFFE ID and the operation it served. */
export interface ViaHop {
  readonly s: SpiffeId;
  readonly o: string;
}

/** A restriction that a hop added; scopes are separated by one space, the empty string permits nothing. */
export interface Caveat {
  readonly scope?: string | undefined;
  /** Unix seconds. */
  readonly exp?: number | undefined;
}

export interface HopClaim {
  readonly op: string;
  /** Digest of the callee's pack list as the caller knows it. */
  readonly packs: string;
  /** `via.length + 1`. */
  readonly n: number;
  /** Oldest first, without the caller. */
  readonly via: readonly ViaHop[];
  readonly cav: Caveat | undefined;
}

/** Times are Unix seconds, as in the token. */
export interface WptClaims {
  readonly aud: string;
  readonly exp: number;
  readonly iat: number | undefined;
  readonly nbf: number | undefined;
  readonly jti: string;
  readonly wth: string;
  readonly tth: string | undefined;
  readonly ath: string | undefined;
  readonly x5tS256: string;
  readonly hop: HopClaim;
}

// Keys of all open objects, innermost last; undefined for an array.
type KeySets = (Set<string> | undefined)[];

/**
 * True when some object of a text that `JSON.parse` accepted names a key twice (after unescaping) or names `__proto__`.
 * Two readers of such a text may see different claims (RFC 8725 section 2.4), so it is refused.
 */
function hasAmbiguousKeys(json: string): boolean {
  const open: KeySets = [];
  // Long strings (tokens in tokens) are passed over at once: with escapes nowhere each ends at the next quote.
  const hasEscapes = json.includes("\\");
  let expectKey = false;
  for (let i = 0; i < json.length; i++) {
    const code = json.charCodeAt(i);
    if (code === 0x22) {
      const start = i++;
      if (hasEscapes) while (json.charCodeAt(i) !== 0x22) i += json.charCodeAt(i) === 0x5c ? 2 : 1;
      else i = json.indexOf('"', i);
      const keys = open.at(-1);
      if (!expectKey || keys === undefined) continue;
      const raw = json.slice(start, i + 1);
      const key = raw.includes("\\") ? String(JSON.parse(raw)) : raw.slice(1, -1);
      if (keys.has(key) || key === "__proto__") return true;
      keys.add(key);
      expectKey = false;
    } else if (code === 0x7b) {
      open.push(new Set());
      expectKey = true;
    } else if (code === 0x5b) {
      open.push(undefined);
      expectKey = false;
    } else if (code === 0x7d || code === 0x5d) {
      open.pop();
      expectKey = false;
    } else if (code === 0x2c) expectKey = open.at(-1) !== undefined;
  }
  return false;
}

/**
 * Parses one JSON object of a token (header or claims set): valid UTF-8, at most 4 KiB unless said otherwise, no key twice.
 *
 * @returns the object, still unknown inside, or what is wrong in words.
 */
export function parseClaimsJson(bytes: Buffer, maxBytes = MAX_TOKEN_BYTES): Result<Json, string> {
  if (bytes.length > maxBytes) return { ok: false, error: `larger than ${maxBytes / 1024} KiB` };
  const json = bytes.toString("utf8");
  // Invalid UTF-8 turns into U+FFFD; a text that does not encode back was not valid.
  if (json.includes("\ufffd") && !Buffer.from(json, "utf8").equals(bytes))
    return { ok: false, error: "not UTF-8" };
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch {
    return { ok: false, error: "not JSON" };
  }
  if (!isObject(value)) return { ok: false, error: "not a JSON object" };
  if (hasAmbiguousKeys(json)) return { ok: false, error: "a key appears twice or is not permitted" };
  return { ok: true, value };
}

/** Parses a public token key; coordinates must be the canonical base64url of 32 bytes. */
export function parseTokenJwk(value: unknown): Result<TokenJwk, string> {
  return parsed(() => {
    if (!isObject(value)) throw new ClaimError("the key is not an object");
    return readJwk(value);
  });
}

function readJwk(jwk: Json): TokenJwk {
  const alg = text(jwk, "alg");
  if (own(jwk, "kty") !== "EC" || own(jwk, "crv") !== "P-256")
    throw new ClaimError("the key is not an EC key on P-256");
  if (own(jwk, "d") !== undefined) throw new ClaimError("the key has a private part");
  return { alg, kty: "EC", crv: "P-256", x: coordinate(jwk, "x"), y: coordinate(jwk, "y") };
}

function coordinate(jwk: Json, name: string): string {
  const value = digest(jwk, name);
  if (Buffer.from(value, "base64url").toString("base64url") !== value)
    throw new ClaimError(`\`${name}\` is not canonical`);
  return value;
}

/** The workload claim as it goes into the token. */
export function encodeWorkloadFacts({ runAs, ...facts }: WorkloadFacts): Json {
  return runAs === undefined ? { ...facts } : { ...facts, run_as: runAs };
}

function readWorkload(claims: Json): WorkloadFacts | undefined {
  if (own(claims, WORKLOAD_CLAIM) === undefined) return undefined;
  const wl = object(claims, WORKLOAD_CLAIM);
  return {
    kind: text(wl, "kind"),
    name: text(wl, "name"),
    env: optionalText(wl, "env"),
    owner: optionalText(wl, "owner"),
    runAs: optionalText(wl, "run_as"),
    pod: optionalText(wl, "pod"),
    cluster: optionalText(wl, "cluster"),
  };
}

/** Types of a WIT's claims set (SPIFFE WIT-SVID: `sub`, `exp`, `cnf.jwk.alg` required, `aud` forbidden). */
export function parseWitClaims(claims: Json): Result<WitClaims, string> {
  return parsed(() => {
    if (Object.hasOwn(claims, "aud"))
      throw new ClaimError("claim `aud` is forbidden in a workload identity token");
    return {
      sub: spiffeId(claims, "sub"),
      exp: time(claims, "exp"),
      iat: optionalTime(claims, "iat"),
      nbf: optionalTime(claims, "nbf"),
      jti: optionalText(claims, "jti"),
      jwk: readJwk(object(object(claims, "cnf"), "jwk")),
      workload: readWorkload(claims),
    };
  });
}

function readVia(hop: Json): readonly ViaHop[] {
  const via = own(hop, "via");
  if (!Array.isArray(via)) throw new ClaimError("`via` is not a list");
  return via.map((entry: unknown) => {
    if (!isObject(entry)) throw new ClaimError("an entry of `via` is not an object");
    return { s: spiffeId(entry, "s"), o: text(entry, "o") };
  });
}

function readCaveat(hop: Json): Caveat | undefined {
  if (own(hop, "cav") === undefined) return undefined;
  const cav = object(hop, "cav");
  for (const name of Object.keys(cav)) {
    // An unknown restriction must not be dropped silently: that would widen the call.
    if (name !== "scope" && name !== "exp")
      throw new ClaimError(`caveat \`${name.slice(0, 32)}\` is not understood`);
  }
  const scope = optionalText(cav, "scope");
  const exp = optionalTime(cav, "exp");
  return { ...(scope === undefined ? {} : { scope }), ...(exp === undefined ? {} : { exp }) };
}

function readHop(claims: Json): HopClaim {
  const hop = object(claims, HOP_CLAIM);
  const via = readVia(hop);
  const n = own(hop, "n");
  if (n !== via.length + 1) throw new ClaimError("`n` does not count the hops");
  return { op: text(hop, "op"), packs: optionalText(hop, "packs") ?? "", n, via, cav: readCaveat(hop) };
}

/** Types of a WPT's claims set (WIMSE workload-proof-token section 3, with our hop claim). */
export function parseWptClaims(claims: Json): Result<WptClaims, string> {
  return parsed(() => ({
    aud: text(claims, "aud"),
    exp: time(claims, "exp"),
    iat: optionalTime(claims, "iat"),
    nbf: optionalTime(claims, "nbf"),
    jti: text(claims, "jti"),
    wth: digest(claims, "wth"),
    tth: own(claims, "tth") === undefined ? undefined : digest(claims, "tth"),
    ath: own(claims, "ath") === undefined ? undefined : digest(claims, "ath"),
    x5tS256: digest(object(claims, "cnf"), THUMBPRINT_CLAIM),
    hop: readHop(claims),
  }));
}
