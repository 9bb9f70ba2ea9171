// PURE. How many retries a service's callers may add to its load: a part of the requests of the last seconds, so that a
// service that fails altogether gets little more than its own load, not a multiple of it.

const SLOT_MS = 1_000;
const SLOTS = 10;

/** Retries that are always allowed, per second of the window. */
const MIN_PER_SECOND = 3;

/** Counts requests and retries of a window of ten seconds. */
export class RetryBudget {
  readonly #requests = new Float64Array(SLOTS);
  readonly #retries = new Float64Array(SLOTS);
  /** Number of the newest slot since the beginning of time. */
  #newest = Number.NEGATIVE_INFINITY;

  /** A request of the application, whatever becomes of it. */
  request(nowMs: number): void {
    const slot = this.#advance(nowMs);
    this.#requests[slot] = (this.#requests[slot] ?? 0) + 1;
  }

  /**
   * Takes one retry.
   *
   * @param percent retries per hundred requests.
   * @returns false when the budget is spent.
   */
  retry(nowMs: number, percent: number): boolean {
    const slot = this.#advance(nowMs);
    const spent = sum(this.#retries);
    // The floor is per second, not for the window at once: three in this second, or the part of the requests.
    const floor = this.#retries[slot] ?? 0;
    if (floor >= MIN_PER_SECOND && spent >= (sum(this.#requests) * percent) / 100) return false;
    this.#retries[slot] = floor + 1;
    return true;
  }

  /** Makes the slot of this second, forgetting what left the window. */
  #advance(nowMs: number): number {
    const now = Math.floor(nowMs / SLOT_MS);
    if (now > this.#newest) {
      const from = Math.max(this.#newest + 1, now - SLOTS + 1);
      for (let slot = from; slot <= now; slot++) {
        this.#requests[slot % SLOTS] = 0;
        this.#retries[slot % SLOTS] = 0;
      }
      this.#newest = now;
    }
    return this.#newest % SLOTS;
  }
}

function sum(values: Float64Array): number {
  let total = 0;
  for (const value of values) total += value;
  return total;
}
