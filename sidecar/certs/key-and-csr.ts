// The keys of a workload (made here, never leaving the process but to its own state directory) and the certificate
// request for them.
import { createPublicKey, generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import { TOKEN_ALGORITHM } from "../core/identity/claims.ts";
import { DerTag, der, derBitString, derOid, Oid } from "../core/identity/der.ts";
import { signKeyProof } from "../core/identity/key-proof.ts";

/** Two separate P-256 private keys: one for TLS, one for proof tokens. */
export interface WorkloadKeys {
  readonly tlsKey: KeyObject;
  readonly tokenKey: KeyObject;
}

/** What the control plane wants with a request for an identity (proto `CertificateRequest`, without its id). */
export interface CertificateRequestParts {
  readonly csrDer: Buffer;
  /** JSON Web Key, public part. */
  readonly tokenJwk: string;
  readonly tokenKeyProof: Buffer;
}

const ECDSA_SHA256 = der(DerTag.sequence, derOid(Oid.ecdsaWithSha256));
const VERSION_1 = Buffer.from("020100", "hex");

function generateKey(): KeyObject {
  return generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey;
}

/** Makes fresh keys; each renewal gets its own. */
export function createKeys(): WorkloadKeys {
  return { tlsKey: generateKey(), tokenKey: generateKey() };
}

/** A PKCS#10 request (RFC 2986) with an empty subject and no attributes: the CA uses nothing but the key. */
export function createCsr(tlsKey: KeyObject): Buffer {
  const spki = createPublicKey(tlsKey).export({ type: "spki", format: "der" });
  const info = der(DerTag.sequence, VERSION_1, der(DerTag.sequence), spki, der(DerTag.context0));
  return der(DerTag.sequence, info, ECDSA_SHA256, derBitString(sign("sha256", info, tlsKey)));
}

/** The whole request for these keys. */
export function createCertificateRequest(keys: WorkloadKeys): CertificateRequestParts {
  const csrDer = createCsr(keys.tlsKey);
  const { kty, crv, x, y } = createPublicKey(keys.tokenKey).export({ format: "jwk" });
  const tokenJwk = JSON.stringify({ alg: TOKEN_ALGORITHM, kty, crv, x, y });
  return { csrDer, tokenJwk, tokenKeyProof: signKeyProof(csrDer, keys.tokenKey) };
}
