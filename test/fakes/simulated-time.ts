// Virtual time for simulations of several machines: events in order, and a clock per machine with a speed of its own.
import { setImmediate } from "node:timers/promises";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";

export class SimulatedTime {
  #nowMs = 0;
  #order = 0;
  readonly #events: { readonly atMs: number; readonly order: number; readonly run: () => void }[] = [];

  get nowMs(): number {
    return this.#nowMs;
  }

  after(ms: number, run: () => void): void {
    this.#events.push({ atMs: this.#nowMs + Math.max(0, ms), order: this.#order++, run });
  }

  wait(ms: number): Promise<void> {
    return new Promise((resolve) => this.after(ms, resolve));
  }

  /** Runs what is due until then, one moment after the other; `check` is called after each. */
  async runUntil(untilMs: number, check: () => void): Promise<void> {
    await setImmediate();
    for (;;) {
      this.#events.sort((a, b) => a.atMs - b.atMs || a.order - b.order);
      const next = this.#events[0];
      if (next === undefined || next.atMs > untilMs) break;
      this.#events.shift();
      this.#nowMs = next.atMs;
      next.run();
      // All promises of this moment, which are microtasks.
      await setImmediate();
      check();
    }
    this.#nowMs = untilMs;
  }

  /** @param speed of the machine's clock, 1 is exact. `isDead` machines never wake. */
  clock(speed: number, offsetMs: number, isDead: () => boolean): Clock {
    const read = (): number => offsetMs + this.#nowMs * speed;
    return {
      nowMs: read,
      monotonicMs: read,
      sleep: (ms, signal) =>
        new Promise<void>((resolve) => {
          const wake = (): void => {
            if (!isDead()) resolve();
          };
          if (signal?.aborted) return wake();
          signal?.addEventListener("abort", wake, { once: true });
          this.after(ms / speed, wake);
        }),
    };
  }
}
