// Slows down who asks too often, by address: for ports that anyone may reach. PURE.

/** Token bucket per address; addresses that were quiet for a minute are forgotten. */
export class AddressLimiter {
  readonly #buckets = new Map<string, { credit: number; atMs: number }>();
  readonly #burst: number;
  readonly #perSecond: number;

  constructor(burst = 50, perSecond = 10) {
    this.#burst = burst;
    this.#perSecond = perSecond;
  }

  /** @param address the peer's, without port. */
  admit(address: string, nowMs: number): boolean {
    if (this.#buckets.size >= 4_096) {
      for (const [key, bucket] of this.#buckets) if (nowMs - bucket.atMs > 60_000) this.#buckets.delete(key);
      // Still full: an attacker with many addresses; new ones share one bucket then.
      if (address !== "" && this.#buckets.size >= 4_096 && !this.#buckets.has(address))
        return this.admit("", nowMs);
    }
    const bucket = this.#buckets.get(address) ?? { credit: this.#burst, atMs: nowMs };
    bucket.credit = Math.min(this.#burst, bucket.credit + ((nowMs - bucket.atMs) / 1000) * this.#perSecond);
    bucket.atMs = nowMs;
    this.#buckets.set(address, bucket);
    if (bucket.credit < 1) return false;
    bucket.credit -= 1;
    return true;
  }
}
