// Receive windows (RFC 9113 section 5.2): what the peer may still send, and when to let it send more. A window doubles
// while its consumer returns half of it within a short time, so a fast stream is not held to 64 KiB a round trip; while
// the process holds much for consumers that stand still, it shrinks with what is returned.
import { MAX_WINDOW } from "./frames.ts";

/** Half a window consumed faster than this lets the window grow; at 64 KiB that is 320 KB/s. */
const GROW_WITHIN_MS = 100;

/** What bounds the windows of a process together. */
export interface WindowBudget {
  /** Much waits for consumers: windows shrink. */
  readonly isTight: boolean;
  /** Whether a window may grow by `bytes` beyond its initial size; true takes them. */
  take(bytes: number): boolean;
  give(bytes: number): void;
}

/** The receive window of a stream or a connection. */
export class ReceiveWindow {
  /** What the peer may still send. */
  available: number;
  readonly #initial: number;
  readonly #least: number;
  /** INVARIANT: `available`, what the owner has not passed on, and `#returned` make up the size. */
  #size: number;
  /** Consumed, but not yet announced to the peer. */
  #returned = 0;
  #updatedMs: number;
  #grown = 0;

  /** @param least to what it may shrink: less than `size` cannot be announced, only come about. */
  constructor(size: number, least: number, nowMs: number) {
    this.available = size;
    this.#initial = size;
    this.#least = least;
    this.#size = size;
    this.#updatedMs = nowMs;
  }

  /** Bytes taken from the budget, to give back when the window ends. */
  get grown(): number {
    return this.#grown;
  }

  /**
   * The owner has passed `bytes` on.
   *
   * @returns the increment to announce with WINDOW_UPDATE; 0: not yet.
   */
  consumed(bytes: number, maxSize: number, nowMs: () => number, budget: WindowBudget | undefined): number {
    this.#returned += bytes;
    if (this.#returned * 2 < this.#size) return 0;
    const now = nowMs();
    const wanted =
      this.#returned +
      (budget?.isTight === true ? -this.#shrink(budget) : this.#grow(now - this.#updatedMs, maxSize, budget));
    this.#returned = 0;
    this.#updatedMs = now;
    const increment = Math.min(wanted, MAX_WINDOW - this.available);
    this.available += increment;
    return increment;
  }

  /** By so much of what was returned the peer hears nothing of. */
  #shrink(budget: WindowBudget): number {
    const bytes = Math.min(this.#returned, this.#size - this.#least);
    this.#size -= bytes;
    const given = Math.min(bytes, this.#grown);
    this.#grown -= given;
    if (given > 0) budget.give(given);
    return bytes;
  }

  #grow(spentMs: number, maxSize: number, budget: WindowBudget | undefined): number {
    let bytes = this.#initial - this.#size;
    if (bytes <= 0) {
      bytes = Math.min(this.#size, maxSize - this.#size);
      if (bytes <= 0 || spentMs >= GROW_WITHIN_MS) return 0;
      if (budget !== undefined) {
        if (!budget.take(bytes)) return 0;
        this.#grown += bytes;
      }
    }
    this.#size += bytes;
    return bytes;
  }
}
