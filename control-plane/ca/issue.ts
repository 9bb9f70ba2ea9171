// Issues an identity: the leaf certificate by our own DER writer (10 times faster than a library, strict-valid) and the
// WIT of the same lifetime. Nothing of the request but its two public keys ends up in either.
import { hash, randomBytes, sign } from "node:crypto";
import {
  encodeWorkloadFacts,
  parseClaimsJson,
  parseTokenJwk,
  TOKEN_TYPES,
  type TokenJwk,
  WORKLOAD_CLAIM,
  type WorkloadFacts,
} from "../../sidecar/core/identity/claims.ts";
import {
  DerTag,
  der,
  derBitString,
  derOid,
  derTime,
  derUnsigned,
  Oid,
  P256_SPKI_PREFIX,
} from "../../sidecar/core/identity/der.ts";
import { verifyKeyProof } from "../../sidecar/core/identity/key-proof.ts";
import { SVID_BACKDATE_MS } from "../../sidecar/core/identity/renewal.ts";
import { type SpiffeId, trustDomainOf } from "../../sidecar/core/identity/spiffe-id.ts";
import { signToken, tokenKeyOf } from "../../sidecar/core/identity/token.ts";
import { MeshError, type Result } from "../../sidecar/core/runtime/errors.ts";
import { ECDSA_SHA256, extension, MAX_IDENTITY_TTL_MS, randomSerial } from "./certificates.ts";
import { parseCsr } from "./csr.ts";
import type { CertificateAuthority } from "./root.ts";

/** Lifetime of an SVID and its WIT unless configured otherwise: 6 h. */
export const DEFAULT_TTL_MS = 6 * 3_600_000;

export interface IssueInput {
  /** What was attested; the request has no say in it. */
  readonly spiffeId: SpiffeId;
  readonly csrDer: Buffer;
  /** JSON text of the public token key. */
  readonly tokenJwk: string;
  /** `signKeyProof` of the request by the token key. */
  readonly tokenKeyProof: Buffer;
  /** `pod` becomes the leaf's subject serial number (pod UID or instance). */
  readonly workloadFacts: WorkloadFacts;
  /** Above 0, at most 7 days; shortened to the end of the issuing certificate. */
  readonly ttlMs: number;
  readonly nowMs: number;
}

export interface IssuedIdentity {
  readonly spiffeId: SpiffeId;
  /** DER: leaf, then the issuing certificate and what stands between it and the root. */
  readonly chainDer: readonly Buffer[];
  readonly wit: string;
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
}

export interface LeafInput {
  readonly spiffeId: SpiffeId;
  /** SubjectPublicKeyInfo of a P-256 key, DER. */
  readonly spki: Buffer;
  /** Letters, digits, `.` and `-`; empty leaves the subject empty and makes the SAN critical. */
  readonly instance: string;
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
}

const KEY_USAGE = extension(Oid.keyUsage, true, Buffer.from("03020780", "hex")); // digitalSignature alone
const BASIC_CONSTRAINTS = extension(Oid.basicConstraints, true, der(DerTag.sequence)); // CA=false is the default
const EXTENDED_KEY_USAGE = extension(
  Oid.extendedKeyUsage,
  false,
  der(DerTag.sequence, derOid(Oid.serverAuth), derOid(Oid.clientAuth)),
);
const VERSION_3 = Buffer.from("a003020102", "hex");
/** Context tag [0], primitive: keyIdentifier of AuthorityKeyIdentifier. */
const KEY_IDENTIFIER = 0x80;
// Where the point begins in a P-256 SubjectPublicKeyInfo: its SHA-1 is the key identifier (RFC 5280 section 4.2.1.2).
const POINT_OFFSET = 26;

function subjectOf(instance: string): Buffer {
  if (instance === "") return der(DerTag.sequence);
  const value = der(DerTag.printableString, Buffer.from(instance, "latin1"));
  return der(DerTag.sequence, der(DerTag.set, der(DerTag.sequence, derOid(Oid.subjectSerialNumber), value)));
}

/** Writes and signs a leaf. The input is trusted: `issueIdentity` checks it. */
export function writeLeaf(ca: Pick<CertificateAuthority, "issuing">, leaf: LeafInput): Buffer {
  const { issuing } = ca;
  const uri = der(DerTag.sequence, der(DerTag.uri, Buffer.from(leaf.spiffeId, "latin1")));
  const keyIdentifier = hash("sha1", leaf.spki.subarray(POINT_OFFSET), "buffer");
  const extensions = der(
    DerTag.sequence,
    extension(Oid.subjectAltName, leaf.instance === "", uri),
    BASIC_CONSTRAINTS,
    KEY_USAGE,
    EXTENDED_KEY_USAGE,
    extension(
      Oid.authorityKeyIdentifier,
      false,
      der(DerTag.sequence, der(KEY_IDENTIFIER, issuing.keyIdentifier)),
    ),
    extension(Oid.subjectKeyIdentifier, false, der(DerTag.octetString, keyIdentifier)),
  );
  const tbs = der(
    DerTag.sequence,
    VERSION_3,
    derUnsigned(randomSerial()),
    ECDSA_SHA256,
    issuing.nameDer,
    der(DerTag.sequence, derTime(leaf.notBeforeMs), derTime(leaf.notAfterMs)),
    subjectOf(leaf.instance),
    leaf.spki,
    der(DerTag.context3, extensions),
  );
  return der(DerTag.sequence, tbs, ECDSA_SHA256, derBitString(sign("sha256", tbs, issuing.key)));
}

/** Start (5 minutes back) and end of what is issued now, in whole seconds. */
export function validity(
  ca: Pick<CertificateAuthority, "issuing">,
  nowMs: number,
  ttlMs: number,
): { notBeforeMs: number; notAfterMs: number } {
  const second = Math.floor(nowMs / 1000) * 1000;
  return {
    notBeforeMs: second - SVID_BACKDATE_MS,
    notAfterMs: Math.min(second + ttlMs, ca.issuing.notAfterMs),
  };
}

function rejected(message: string): { ok: false; error: MeshError } {
  return { ok: false, error: new MeshError("csr_rejected", message) };
}

function coordinate(text: string): Buffer {
  return Buffer.from(text, "base64url");
}

function readTokenKey(input: IssueInput, tlsSpki: Buffer): Result<TokenJwk, MeshError> {
  const json = parseClaimsJson(Buffer.from(input.tokenJwk, "utf8"));
  const jwk = json.ok ? parseTokenJwk(json.value) : json;
  if (!jwk.ok) return rejected(`the token key cannot be used: ${jwk.error}`);
  if (jwk.value.alg !== "ES256") return rejected("the token key is not for ES256");
  const key = tokenKeyOf(jwk.value);
  if (key === undefined) return rejected("the token key is not a point on the curve");
  // Compared as coordinates: exporting a key object costs as much as a signature.
  const point = tlsSpki.subarray(P256_SPKI_PREFIX.length);
  if (
    point.toString("base64url") ===
    Buffer.concat([coordinate(jwk.value.x), coordinate(jwk.value.y)]).toString("base64url")
  ) {
    return rejected("the token key is the TLS key; make a separate one");
  }
  if (!verifyKeyProof(input.csrDer, key, input.tokenKeyProof)) {
    return rejected("the proof of the token key does not verify");
  }
  return { ok: true, value: jwk.value };
}

/**
 * Issues SVID and WIT for an attested workload (about 0.3 ms of CPU on an idle core; test/bench/sidecar/core/identity.bench.ts).
 *
 * @returns the chain and the WIT, or MeshError `csr_rejected` with what is wrong with the request.
 */
export function issueIdentity(
  ca: CertificateAuthority,
  input: IssueInput,
): Result<IssuedIdentity, MeshError> {
  const { spiffeId, workloadFacts, ttlMs, nowMs } = input;
  const instance = workloadFacts.pod ?? "";
  if (trustDomainOf(spiffeId) !== ca.trustDomain)
    return rejected(`\`${spiffeId}\` is not in trust domain \`${ca.trustDomain}\``);
  if (!(ttlMs >= 1000 && ttlMs <= MAX_IDENTITY_TTL_MS))
    return rejected("the lifetime is not between 1 s and 7 days");
  if (!/^[A-Za-z0-9.-]{0,64}$/.test(instance))
    return rejected(`instance \`${instance.slice(0, 64)}\` has characters a certificate cannot carry`);
  const request = parseCsr(input.csrDer);
  if (!request.ok) return request;
  const jwk = readTokenKey(input, request.value.spki);
  if (!jwk.ok) return jwk;
  const { notBeforeMs, notAfterMs } = validity(ca, nowMs, ttlMs);
  if (notAfterMs <= nowMs) return rejected("the issuing certificate has expired; rotate it");
  const leaf = writeLeaf(ca, { spiffeId, spki: request.value.spki, instance, notBeforeMs, notAfterMs });
  const wit = signToken(
    { typ: TOKEN_TYPES.wit, kid: ca.wit.kid },
    {
      sub: spiffeId,
      iat: Math.floor(nowMs / 1000),
      nbf: notBeforeMs / 1000,
      exp: notAfterMs / 1000,
      jti: randomBytes(16).toString("base64url"),
      cnf: { jwk: jwk.value },
      [WORKLOAD_CLAIM]: encodeWorkloadFacts(workloadFacts),
    },
    ca.wit.key,
  );
  return {
    ok: true,
    value: { spiffeId, chainDer: [leaf, ...ca.issuing.chainDer], wit, notBeforeMs, notAfterMs },
  };
}
