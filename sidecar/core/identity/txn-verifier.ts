// Step V5 for the transaction token itself: signature, audience, time. Once per token and key set; a repeat is a look-up,
// and time is looked at on every use. That it belongs to the proof beside it (`tth`) is verifyWpt's to say.
import { MAX_TOKEN_BYTES, parseClaimsJson, TOKEN_TYPES } from "./claims.ts";
import { GenerationCache } from "./generation-cache.ts";
import type { HeldTxn } from "./held-txn.ts";
import { isSigned, openToken, type Refusal, SKEW_SECONDS, tokenHash, type Verified } from "./token.ts";
import type { TrustBundle } from "./trust-bundle.ts";
import { parseTxnClaims } from "./txn.ts";

function refuse(detail: string): Refusal {
  return { ok: false, error: "AUTHN_TXN_INVALID", detail };
}

/** Everything but time. @param bundle of the own trust domain: no other one's users are known here. */
function readTxn(text: string, bundle: TrustBundle): Verified<HeldTxn> {
  const opened = openToken(text, TOKEN_TYPES.txn);
  if (!opened.ok) return refuse(opened.detail);
  const { parts, kid } = opened.value;
  const json = parseClaimsJson(Buffer.from(parts.payload, "base64url"));
  if (!json.ok) return refuse(json.error);
  const claims = parseTxnClaims(json.value);
  if (!claims.ok) return refuse(claims.error);
  if (claims.value.aud !== bundle.trustDomain) return refuse("`aud` is another trust domain");
  const key = kid === undefined ? undefined : bundle.txnKeys.get(kid);
  if (key === undefined) return refuse("no key of the token service has this `kid`");
  if (!isSigned(parts, key)) return refuse("the signature does not verify");
  return { ok: true, value: { token: text, tth: tokenHash(text), claims: claims.value } };
}

export class TxnVerifier {
  readonly #held: GenerationCache<HeldTxn>;
  #epoch = "";
  /** Counts since the start, for metrics. */
  readonly stats = { hits: 0, misses: 0, refused: 0 };

  /** @param limits tokens and their characters that are kept. */
  constructor(
    limits: { readonly maxEntries: number; readonly maxBytes: number } = {
      maxEntries: 4_000,
      maxBytes: 4 * 1024 * 1024,
    },
  ) {
    this.#held = new GenerationCache({ maxEntries: limits.maxEntries, maxWeight: limits.maxBytes });
  }

  /**
   * Verifies a token that a caller sent.
   *
   * @returns `AUTHN_TXN_EXPIRED` from `exp` on, without any skew: both times are the control plane's, and 300 s are the
   *   longest that anybody acts for a user behind the token service's back. Else the first thing wrong.
   */
  verify(text: string, bundle: TrustBundle, nowMs: number): Verified<HeldTxn> {
    if (text.length > MAX_TOKEN_BYTES) return refuse("the token is larger than 4 KiB");
    if (this.#epoch !== bundle.epoch) {
      this.#epoch = bundle.epoch;
      this.#held.clear();
    }
    let held = this.#held.get(text);
    if (held === undefined) {
      this.stats.misses++;
      const read = readTxn(text, bundle);
      if (!read.ok) {
        this.stats.refused++;
        return read;
      }
      held = read.value;
      this.#held.set(text, held, text.length);
    } else this.stats.hits++;
    const { iat, exp } = held.claims;
    if (nowMs >= exp * 1_000)
      return { ok: false, error: "AUTHN_TXN_EXPIRED", detail: "the transaction token has expired" };
    if (iat > nowMs / 1_000 + SKEW_SECONDS) return refuse("the token was issued in the future");
    return { ok: true, value: held };
  }
}
