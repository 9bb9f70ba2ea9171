// Receive windows (RFC 9113 section 5.2): what the peer may still send, and when to let it send more. A window doubles
// while its consumer returns half of it within a short time, so a fast stream is not held to 64 KiB a round trip.
import { MAX_WINDOW } from "./frames.ts";

/** Half a window consumed faster than this lets the window grow; at 64 KiB that is 320 KB/s. */
const GROW_WITHIN_MS = 100;

/** Bytes by which the windows of a process may grow beyond their initial size, in all. */
export interface WindowBudget {
  /** Whether `bytes` more may be granted; true takes them. */
  take(bytes: number): boolean;
  give(bytes: number): void;
}

/** The receive window of a stream or a connection. */
export class ReceiveWindow {
  /** What the peer may still send. */
  available: number;
  #size: number;
  /** Consumed, but not yet announced to the peer. */
  #returned = 0;
  #updatedMs: number;
  #grown = 0;

  constructor(size: number, nowMs: number) {
    this.available = size;
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
    let increment = this.#returned;
    this.#returned = 0;
    const now = nowMs();
    const growth = Math.min(this.#size, maxSize - this.#size);
    if (
      growth > 0 &&
      now - this.#updatedMs < GROW_WITHIN_MS &&
      (budget === undefined || budget.take(growth))
    ) {
      this.#size += growth;
      if (budget !== undefined) this.#grown += growth;
      increment += growth;
    }
    this.#updatedMs = now;
    increment = Math.min(increment, MAX_WINDOW - this.available);
    this.available += increment;
    return increment;
  }
}
