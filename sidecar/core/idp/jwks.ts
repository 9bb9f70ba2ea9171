// A provider's published keys, read strictly: asymmetric ones for signatures only, each bound to the algorithms of its
// type. PURE.
import { createPublicKey, type KeyObject } from "node:crypto";
import type { Result } from "../runtime/errors.ts";

export interface IdpKey {
  readonly kid: string | undefined;
  readonly key: KeyObject;
  /** What it may verify (RFC 8725 section 3.1). */
  readonly algorithms: readonly string[];
}

const MAX_JWKS_CHARS = 524_288;
const MAX_KEYS = 64;
const MIN_RSA_BITS = 2048;
/** A larger one costs milliseconds per verification. */
const MAX_RSA_BITS = 8192;
const RSA = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];
const CURVES: ReadonlyMap<unknown, readonly string[]> = new Map([
  ["P-256", ["ES256"]],
  ["P-384", ["ES384"]],
  ["P-521", ["ES512"]],
]);

type Json = Readonly<Record<string, unknown>>;

/**
 * Parses a JWK set (RFC 7517 section 5). Keys of other uses and types, and weak or broken ones, are left out.
 *
 * @returns the keys, or what is wrong in words; a set in which no key can be used is wrong.
 */
export function parseJwks(json: string): Result<readonly IdpKey[], string> {
  if (json.length > MAX_JWKS_CHARS) return { ok: false, error: "the key set is larger than 512 KiB" };
  let document: unknown;
  try {
    document = JSON.parse(json);
  } catch {
    return { ok: false, error: "the key set is not JSON" };
  }
  const list: unknown = typeof document === "object" && document !== null && Reflect.get(document, "keys");
  if (!Array.isArray(list) || list.length > MAX_KEYS)
    return { ok: false, error: `the key set has no list \`keys\` of at most ${MAX_KEYS}` };
  const keys = list.map(readKey).filter((key) => key !== undefined);
  return keys.length === 0
    ? { ok: false, error: "no key of the set can verify signatures" }
    : { ok: true, value: keys };
}

function readKey(value: unknown): IdpKey | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const jwk = value as Json; // just checked; each member is read as unknown
  const { kid, use, alg, key_ops: operations } = jwk;
  if (use !== undefined && use !== "sig") return undefined;
  if (Array.isArray(operations) && !operations.includes("verify")) return undefined;
  if (kid !== undefined && (typeof kid !== "string" || kid.length > 256)) return undefined;
  const algorithms = algorithmsOf(jwk).filter((one) => alg === undefined || one === alg);
  if (algorithms.length === 0) return undefined;
  const { kty, crv, n, e, x, y } = jwk;
  try {
    // A private part that somebody published by mistake is not read.
    const publicJwk = JSON.parse(JSON.stringify({ kty, crv, n, e, x, y })) as Record<string, unknown>;
    const key = createPublicKey({ key: publicJwk, format: "jwk" });
    const bits = key.asymmetricKeyDetails?.modulusLength;
    if (bits !== undefined && (bits < MIN_RSA_BITS || bits > MAX_RSA_BITS)) return undefined;
    return { kid, key, algorithms };
  } catch {
    return undefined; // no point of the curve, or no number
  }
}

function algorithmsOf({ kty, crv }: Json): readonly string[] {
  if (kty === "RSA") return RSA;
  return kty === "EC" ? (CURVES.get(crv) ?? []) : [];
}
