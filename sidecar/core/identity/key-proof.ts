// Proof that a certificate request's sender also holds the separate token key: an ES256 signature over the request.
import { type KeyObject, sign, verify } from "node:crypto";

const PROOF_BYTES = 64;

/** Signs the DER of a certificate request with the token key (ECDSA on its SHA-256, r and s). */
export function signKeyProof(csrDer: Buffer, tokenKey: KeyObject): Buffer {
  return sign("sha256", csrDer, { key: tokenKey, dsaEncoding: "ieee-p1363" });
}

/** True when `proof` was made by the owner of `tokenKey` for exactly this request. */
export function verifyKeyProof(csrDer: Buffer, tokenKey: KeyObject, proof: Buffer): boolean {
  return (
    proof.length === PROOF_BYTES &&
    verify("sha256", csrDer, { key: tokenKey, dsaEncoding: "ieee-p1363" }, proof)
  );
}
