// PURE. How many requests one address or one user may make: a token bucket each.
import type { GatewayLimit } from "../core/gateway/gateway.ts";

interface Bucket {
  credit: number;
  atMs: number;
}

/** Who is remembered in one generation; beyond, newcomers share one bucket. */
const MAX_KEYS = 50_000;
const LEAST_TURN_MS = 1_000;

/**
 * Buckets in two generations that turn when a bucket has had time to fill up: who is forgotten then had a full one, so
 * forgetting changes nothing.
 */
export class RequestLimit {
  readonly #burst: number;
  readonly #perMs: number;
  readonly #turnMs: number;
  #current = new Map<string, Bucket>();
  #previous = new Map<string, Bucket>();
  #turnsAtMs = Number.NEGATIVE_INFINITY;

  constructor({ requests, perMs, burst }: GatewayLimit) {
    this.#burst = Math.max(1, burst);
    this.#perMs = requests / perMs;
    this.#turnMs = Math.max(LEAST_TURN_MS, this.#burst / this.#perMs);
  }

  /** @returns 0: admitted; else seconds after which the next request is. */
  take(key: string, nowMs: number): number {
    if (nowMs >= this.#turnsAtMs) {
      this.#previous = nowMs >= this.#turnsAtMs + this.#turnMs ? new Map() : this.#current;
      this.#current = new Map();
      this.#turnsAtMs = nowMs + this.#turnMs;
    }
    const bucket = this.#bucket(key, nowMs);
    bucket.credit = Math.min(this.#burst, bucket.credit + (nowMs - bucket.atMs) * this.#perMs);
    bucket.atMs = nowMs;
    if (bucket.credit < 1) return Math.max(1, Math.ceil((1 - bucket.credit) / this.#perMs / 1_000));
    bucket.credit -= 1;
    return 0;
  }

  #bucket(key: string, nowMs: number): Bucket {
    const known = this.#current.get(key);
    if (known !== undefined) return known;
    const before = this.#previous.get(key);
    if (before === undefined && this.#current.size >= MAX_KEYS && key !== "") return this.#bucket("", nowMs);
    const bucket = before ?? { credit: this.#burst, atMs: nowMs };
    this.#current.set(key, bucket);
    return bucket;
  }
}
