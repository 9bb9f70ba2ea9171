// Proof that a certificate request's sender also holds the separate token key: an ES256 signature over the request.
import type { KeyObject } from "node:crypto";
import { signEs256, verifyEs256 } from "./ecdsa.ts";

/** Signs the DER of a certificate request with the token key (ECDSA on its SHA-256, r and s). */
export function signKeyProof(csrDer: Buffer, tokenKey: KeyObject): Buffer {
  return signEs256(csrDer, tokenKey);
}

/** True when `proof` was made by the owner of `tokenKey` for exactly this request. */
export function verifyKeyProof(csrDer: Buffer, tokenKey: KeyObject, proof: Buffer): boolean {
  return verifyEs256(csrDer, tokenKey, proof);
}
