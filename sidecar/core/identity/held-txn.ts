// A transaction token that this process may attach to calls: it was verified on arrival, or came from the token service.
import type { Result } from "../runtime/errors.ts";
import { parseClaimsJson } from "./claims.ts";
import { splitToken, tokenHash } from "./token.ts";
import { parseTxnClaims, type TxnClaims } from "./txn.ts";

export interface HeldTxn {
  readonly token: string;
  /** base64url SHA-256 of the token, which proofs name. */
  readonly tth: string;
  readonly claims: TxnClaims;
}

/**
 * Takes a token from the token service, whose certificate vouches for it: types are checked, the signature is not.
 *
 * @returns the token, or what is wrong in words.
 */
export function holdTxn(token: string): Result<HeldTxn, string> {
  const split = splitToken(token);
  if (!split.ok) return split;
  const json = parseClaimsJson(Buffer.from(split.value.payload, "base64url"));
  if (!json.ok) return json;
  const claims = parseTxnClaims(json.value);
  return claims.ok ? { ok: true, value: { token, tth: tokenHash(token), claims: claims.value } } : claims;
}
