// The trust bundle of one trust domain: a JWKS document (SPIFFE Trust Domain and Bundle) read into CA certificates and
// token keys. Several roots and keys may stand side by side during a rotation.
import { createPublicKey, hash, type KeyObject, X509Certificate } from "node:crypto";
import type { Result } from "../runtime/errors.ts";
import { parseTokenJwk, TOKEN_ALGORITHM } from "./claims.ts";
import { isTrustDomain } from "./spiffe-id.ts";

export interface TrustBundle {
  readonly trustDomain: string;
  /** Grows with each change of the content. */
  readonly sequence: number;
  readonly refreshHintSeconds: number;
  /** Root certificates, PEM, one after the other: the `ca` of a TLS context. */
  readonly caPem: string;
  readonly roots: readonly X509Certificate[];
  /** Those of `roots` that leave soon: who has a certificate below one renews it now. */
  readonly retiring: readonly X509Certificate[];
  /** Verification keys of WITs by `kid`. */
  readonly witKeys: ReadonlyMap<string, KeyObject>;
  /** Verification keys of transaction tokens by `kid`; empty: there is no token service. */
  readonly txnKeys: ReadonlyMap<string, KeyObject>;
  /** Digest over all keys and certificates: what was verified under another epoch counts no more. */
  readonly epoch: string;
  /** The document as received. */
  readonly json: string;
}

/** `use` of the token service's keys. */
export const TXN_KEY_USE = "txn-token";

/** Member of ours on an `x509-svid` key: this root is about to leave the bundle. Others ignore it, as JWK asks. */
export const RETIRING_MEMBER = "countersign.dev/retiring";

const MAX_BUNDLE_BYTES = 262_144;
const MAX_KEYS = 64;
const DEFAULT_REFRESH_SECONDS = 300;

type Json = Readonly<Record<string, unknown>>;

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** base64url SHA-256 of a certificate's public key: what join tokens pin. */
export function spkiSha256(certificate: X509Certificate): string {
  return hash("sha256", certificate.publicKey.export({ type: "spki", format: "der" }), "base64url");
}

/** The trust domain that a root names in its URI SAN (`spiffe://td`, without path), if it does. */
function trustDomainOfRoot(root: X509Certificate): string | undefined {
  const name = /^URI:spiffe:\/\/([a-z0-9._-]+)$/.exec(root.subjectAltName ?? "")?.[1];
  return name !== undefined && isTrustDomain(name) ? name : undefined;
}

function readRoot(jwk: Json): Result<X509Certificate, string> {
  const x5c = jwk["x5c"];
  if (!Array.isArray(x5c) || x5c.length !== 1 || typeof x5c[0] !== "string")
    return { ok: false, error: "`x5c` is not a list of one certificate" };
  const bytes = Buffer.from(x5c[0], "base64");
  try {
    const certificate = new X509Certificate(bytes);
    if (certificate.raw.length !== bytes.length)
      return { ok: false, error: "there are bytes behind a root certificate" };
    if (!certificate.ca) return { ok: false, error: "a root certificate is not a CA certificate" };
    return { ok: true, value: certificate };
  } catch {
    return { ok: false, error: "a root certificate cannot be read" };
  }
}

function readTokenKey(jwk: Json, use: string): Result<{ kid: string; key: KeyObject }, string> {
  const kid = jwk["kid"];
  if (typeof kid !== "string" || kid === "" || kid.length > 128)
    return { ok: false, error: `a ${use} key has no \`kid\`` };
  const parsed = parseTokenJwk({ alg: TOKEN_ALGORITHM, ...jwk });
  if (!parsed.ok) return { ok: false, error: `${use} key \`${kid}\`: ${parsed.error}` };
  if (parsed.value.alg !== TOKEN_ALGORITHM)
    return { ok: false, error: `${use} key \`${kid}\` is not for ES256` };
  try {
    const { kty, crv, x, y } = parsed.value;
    return { ok: true, value: { kid, key: createPublicKey({ key: { kty, crv, x, y }, format: "jwk" }) } };
  } catch {
    return { ok: false, error: `${use} key \`${kid}\` is not a point on the curve` };
  }
}

function wholeNumber(value: unknown, otherwise: number): number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0 ? value : otherwise;
}

/**
 * Parses a bundle document. Keys of other uses are skipped, as the standard asks; a broken key of a known use refuses
 * the whole document, so that a bad push never shrinks the set of trusted keys silently.
 *
 * @param trustDomain whose bundle it is; without it the name in the roots' URI SAN decides, and all must agree.
 * @returns the bundle, or what is wrong in words.
 */
export function parseTrustBundle(json: string, trustDomain?: string): Result<TrustBundle, string> {
  if (json.length > MAX_BUNDLE_BYTES) return { ok: false, error: "the trust bundle is larger than 256 KiB" };
  let document: unknown;
  try {
    document = JSON.parse(json);
  } catch {
    return { ok: false, error: "the trust bundle is not JSON" };
  }
  const keys = isObject(document) ? document["keys"] : undefined;
  if (!isObject(document) || !Array.isArray(keys) || keys.length > MAX_KEYS) {
    return { ok: false, error: "the trust bundle has no `keys`, or more than 64" };
  }
  const roots: X509Certificate[] = [];
  const retiring: X509Certificate[] = [];
  const witKeys = new Map<string, KeyObject>();
  const txnKeys = new Map<string, KeyObject>();
  const parts: string[] = [];
  for (const jwk of keys as readonly unknown[]) {
    if (!isObject(jwk)) return { ok: false, error: "an entry of `keys` is not an object" };
    if (jwk["use"] === "x509-svid") {
      const root = readRoot(jwk);
      if (!root.ok) return root;
      roots.push(root.value);
      const leaves = jwk[RETIRING_MEMBER] === true;
      if (leaves) retiring.push(root.value);
      parts.push(`x509 ${root.value.fingerprint256}${leaves ? " retiring" : ""}`);
    } else if (jwk["use"] === "wit-svid" || jwk["use"] === TXN_KEY_USE) {
      const entry = readTokenKey(jwk, jwk["use"]);
      if (!entry.ok) return entry;
      const { kid, key } = entry.value;
      const known = jwk["use"] === TXN_KEY_USE ? txnKeys : witKeys;
      if (known.has(kid)) return { ok: false, error: `two ${jwk["use"]} keys have the kid \`${kid}\`` };
      known.set(kid, key);
      const name = jwk["use"] === TXN_KEY_USE ? "txn" : "wit";
      parts.push(`${name} ${kid} ${key.export({ type: "spki", format: "der" }).toString("base64url")}`);
    }
  }
  if (roots.length === 0) return { ok: false, error: "the trust bundle has no x509-svid root" };
  const names = new Set(roots.map((root) => trustDomainOfRoot(root)));
  const name = trustDomain ?? (names.size === 1 ? names.values().next().value : undefined);
  if (name === undefined) return { ok: false, error: "the trust bundle's roots name no common trust domain" };
  for (const found of names) {
    if (found !== undefined && found !== name)
      return { ok: false, error: `the trust bundle is of \`${found}\`, not \`${name}\`` };
  }
  return {
    ok: true,
    value: {
      trustDomain: name,
      sequence: wholeNumber(document["spiffe_sequence"], 0),
      refreshHintSeconds: wholeNumber(document["spiffe_refresh_hint"], DEFAULT_REFRESH_SECONDS),
      caPem: roots.map((root) => root.toString()).join(""),
      roots,
      retiring,
      witKeys,
      txnKeys,
      epoch: hash("sha256", [name, ...parts.sort()].join("\n"), "base64url"),
      json,
    },
  };
}
