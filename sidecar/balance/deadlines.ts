// Runs a deadline wheel while there is something in it: the one timer of all requests that have short limits.
import type { Clock } from "../core/runtime/clock.ts";
import { DeadlineWheel, type Timed } from "./deadline-wheel.ts";

/** How late a request may be told that its time is over. */
const TICK_MS = 16;
/** A tick so late tells that this process stood still (a throttled container, a busy machine). */
const LATE_MS = 4 * TICK_MS;
/** Let by after a standstill: each needs a turn of the event loop, and an answer may have several sockets of ours to pass. */
const GRACE_TICKS = 4;

export class Deadlines {
  readonly #clock: Clock;
  readonly #wheel: DeadlineWheel;
  #timer: NodeJS.Timeout | undefined;
  #tickedMs = 0;
  #graceTicks = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#wheel = new DeadlineWheel(TICK_MS, clock.monotonicMs());
  }

  /** Tells `entry` when its deadline comes; one that moves its deadline on is told later. */
  add(entry: Timed): void {
    const nowMs = this.#clock.monotonicMs();
    this.#wheel.add(entry, nowMs);
    if (this.#timer !== undefined) return;
    this.#tickedMs = nowMs;
    this.#timer = setInterval(() => this.#tick(), TICK_MS).unref();
  }

  remove(entry: Timed): void {
    this.#wheel.remove(entry);
  }

  close(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  /** After a standstill of ours a few ticks are let by: what came meanwhile is read before it is called missing. */
  #tick(): void {
    const nowMs = this.#clock.monotonicMs();
    const isLate = nowMs - this.#tickedMs > LATE_MS;
    this.#tickedMs = nowMs;
    if (this.#graceTicks > 0) this.#graceTicks--;
    else if (isLate) this.#graceTicks = GRACE_TICKS;
    if (this.#graceTicks > 0) return;
    this.#wheel.expire(nowMs);
    if (this.#wheel.size === 0) this.close();
  }
}
