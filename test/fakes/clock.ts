// A clock that moves only when told: whoever sleeps on it wakes when its time has come.
import type { Clock } from "../../sidecar/core/runtime/clock.ts";

export class FakeClock implements Clock {
  #nowMs: number;
  readonly #sleepers = new Set<{ readonly untilMs: number; readonly wake: () => void }>();

  constructor(nowMs: number) {
    this.#nowMs = nowMs;
  }

  nowMs(): number {
    return this.#nowMs;
  }

  monotonicMs(): number {
    return this.#nowMs;
  }

  async sleep(ms: number, signal?: AbortSignal): Promise<void> {
    if (signal?.aborted) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const sleeper = { untilMs: this.#nowMs + ms, wake: resolve };
    this.#sleepers.add(sleeper);
    const end = (): void => {
      this.#sleepers.delete(sleeper);
      resolve();
    };
    signal?.addEventListener("abort", end, { once: true });
    await promise;
    signal?.removeEventListener("abort", end);
  }

  /** Sleepers at this moment. */
  get sleeping(): number {
    return this.#sleepers.size;
  }

  advance(ms: number): void {
    this.#nowMs += ms;
    for (const sleeper of this.#sleepers) {
      if (sleeper.untilMs > this.#nowMs) continue;
      this.#sleepers.delete(sleeper);
      sleeper.wake();
    }
  }
}
