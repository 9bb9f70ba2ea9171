// Runs a deadline wheel while there is something in it: the one timer of all requests that have short limits.
import type { Clock } from "../core/runtime/clock.ts";
import { DeadlineWheel, type Timed } from "./deadline-wheel.ts";

/** How late a request may be told that its time is over. */
const TICK_MS = 16;

export class Deadlines {
  readonly #clock: Clock;
  readonly #wheel: DeadlineWheel;
  #timer: NodeJS.Timeout | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#wheel = new DeadlineWheel(TICK_MS, clock.monotonicMs());
  }

  /** Tells `entry` when its deadline comes; one that moves its deadline on is told later. */
  add(entry: Timed): void {
    this.#wheel.add(entry, this.#clock.monotonicMs());
    this.#timer ??= setInterval(() => this.#tick(), TICK_MS).unref();
  }

  remove(entry: Timed): void {
    this.#wheel.remove(entry);
  }

  close(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  #tick(): void {
    this.#wheel.expire(this.#clock.monotonicMs());
    if (this.#wheel.size === 0) this.close();
  }
}
