// Receive windows (RFC 9113 section 5.2): what the peer may still send, and when to let it send more. A window doubles
// while its consumer returns halves of it within a short time, so a fast stream is not held to 64 KiB a round trip; while
// all windows of the process are too much together, each shrinks with what is returned.
import { MAX_WINDOW } from "./frames.ts";

/** Half a window consumed faster than this lets the window grow; at 64 KiB that is 320 KB/s. */
const GROW_WITHIN_MS = 100;
/** So many halves in a row: with fewer, what the kernel takes for a reader that stands still would pass for reading. */
const GROW_AFTER = 4;

/** What bounds the windows of a process together. */
export interface WindowBudget {
  /** There is more than there should be: windows shrink. */
  readonly isTight: boolean;
  /** A window has begun with `bytes`, which cannot be refused. */
  add(bytes: number): void;
  /** Whether a window may grow by `bytes`; true takes them. */
  take(bytes: number): boolean;
  give(bytes: number): void;
}

export interface WindowSizes {
  readonly initial: number;
  /** To what it may shrink: less than the initial size cannot be announced, only come about. */
  readonly least: number;
  readonly most: number;
}

/** The receive window of a stream or a connection. */
export class ReceiveWindow {
  /** What the peer may still send. */
  available: number;
  readonly #sizes: WindowSizes;
  readonly #budget: WindowBudget | undefined;
  /** INVARIANT: `available`, what the owner has not passed on, and `#returned` make up the size. */
  #size: number;
  /** Consumed, but not yet announced to the peer. */
  #returned = 0;
  #updatedMs: number;
  /** Halves that were returned fast since the window last changed. */
  #fast = 0;

  constructor(sizes: WindowSizes, nowMs: number, budget: WindowBudget | undefined) {
    this.available = sizes.initial;
    this.#sizes = sizes;
    this.#size = sizes.initial;
    this.#updatedMs = nowMs;
    this.#budget = budget;
    budget?.add(sizes.initial);
  }

  /** Its stream or connection is over. */
  end(): void {
    this.#budget?.give(this.#size);
    this.#size = 0;
  }

  /**
   * The owner has passed `bytes` on.
   *
   * @returns the increment to announce with WINDOW_UPDATE; 0: not yet.
   */
  consumed(bytes: number, nowMs: () => number): number {
    this.#returned += bytes;
    if (this.#returned * 2 < this.#size) return 0;
    const now = nowMs();
    const change = this.#budget?.isTight === true ? -this.#shrink() : this.#grow(now - this.#updatedMs);
    const increment = Math.min(this.#returned + change, MAX_WINDOW - this.available);
    this.#returned = 0;
    this.#updatedMs = now;
    this.available += increment;
    return increment;
  }

  /** By so much of what was returned the peer hears nothing of. */
  #shrink(): number {
    const bytes = Math.max(0, Math.min(this.#returned, this.#size - this.#sizes.least));
    this.#size -= bytes;
    this.#budget?.give(bytes);
    return bytes;
  }

  #grow(spentMs: number): number {
    const { initial, most } = this.#sizes;
    this.#fast = spentMs < GROW_WITHIN_MS ? this.#fast + 1 : 0;
    const isSmall = this.#size < initial;
    const bytes = isSmall ? initial - this.#size : Math.min(this.#size, most - this.#size);
    if (bytes <= 0 || (!isSmall && this.#fast < GROW_AFTER)) return 0;
    if (this.#budget?.take(bytes) === false) return 0;
    this.#fast = 0;
    this.#size += bytes;
    return bytes;
  }
}
