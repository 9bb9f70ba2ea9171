// In which order and how fast objects are written. PURE: time comes in. What was just edited goes first, then what people
// may wait for (a mass of it after a leader began), then what only counts; in each the oldest first; an object not again too soon, and all together no faster than the rate.

export interface QueueLimits {
  /** Writes a second in the long run. */
  readonly ratePerSecond: number;
  /** So many may come at once after a quiet time. */
  readonly burst: number;
  /** Between two writes of one object. */
  readonly urgentEveryMs: number;
  readonly countsEveryMs: number;
}

export type Urgency = "edited" | "urgent" | "counts";

export type Next =
  | { readonly kind: "write"; readonly key: string }
  | { readonly kind: "wait"; readonly ms: number };

const IDLE_MS = 60_000;

export class WriteQueue {
  readonly #limits: QueueLimits;
  /** In the order in which they were asked for. */
  readonly #waiting: Readonly<Record<Urgency, Set<string>>> = {
    edited: new Set(),
    urgent: new Set(),
    counts: new Set(),
  };
  /** Start of the last write, monotonic; forgotten when it no longer matters. */
  readonly #written = new Map<string, number>();
  #tokens: number;
  #filledMs = 0;

  constructor(limits: QueueLimits) {
    this.#limits = limits;
    this.#tokens = limits.burst;
  }

  get size(): number {
    return this.#waiting.edited.size + this.#waiting.urgent.size + this.#waiting.counts.size;
  }

  /** Keeps its place when it waits already; what became more urgent moves to the end of those. */
  add(key: string, urgency: Urgency): void {
    if (this.#waiting[urgency].has(key)) return;
    this.drop(key);
    this.#waiting[urgency].add(key);
  }

  drop(key: string): void {
    this.#waiting.edited.delete(key);
    this.#waiting.urgent.delete(key);
    this.#waiting.counts.delete(key);
  }

  /** Takes the next object out; it counts as written now. */
  next(nowMs: number): Next {
    this.#fill(nowMs);
    const { urgentEveryMs, countsEveryMs, ratePerSecond } = this.#limits;
    let waitMs = IDLE_MS;
    for (const [urgency, everyMs] of [
      ["edited", urgentEveryMs],
      ["urgent", urgentEveryMs],
      ["counts", countsEveryMs],
    ] as const) {
      for (const key of this.#waiting[urgency]) {
        const dueMs = (this.#written.get(key) ?? Number.NEGATIVE_INFINITY) + everyMs;
        if (dueMs > nowMs) {
          waitMs = Math.min(waitMs, dueMs - nowMs);
          continue;
        }
        if (this.#tokens < 1) return { kind: "wait", ms: ((1 - this.#tokens) * 1000) / ratePerSecond };
        this.#tokens -= 1;
        this.drop(key);
        this.#written.delete(key);
        this.#written.set(key, nowMs);
        return { kind: "write", key };
      }
    }
    return { kind: "wait", ms: waitMs };
  }

  #fill(nowMs: number): void {
    const { ratePerSecond, burst, countsEveryMs } = this.#limits;
    const passedMs = this.#filledMs === 0 ? 0 : nowMs - this.#filledMs;
    this.#filledMs = nowMs;
    this.#tokens = Math.min(burst, this.#tokens + (passedMs * ratePerSecond) / 1000);
    // Oldest first, so the first that still matters ends it.
    for (const [key, atMs] of this.#written) {
      if (nowMs - atMs < countsEveryMs) break;
      this.#written.delete(key);
    }
  }
}
