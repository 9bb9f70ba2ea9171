// Time as an argument: everything outside main.ts takes a Clock, so that tests never wait.
import { setTimeout as sleepMs } from "node:timers/promises";

export interface Clock {
  /** Wall clock, Unix milliseconds. */
  nowMs(): number;
  /** Monotonic milliseconds, for durations. */
  monotonicMs(): number;
  /** Resolves after `ms`, or at once (without throwing) when `signal` aborts. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

export const systemClock: Clock = {
  nowMs: () => Date.now(),
  monotonicMs: () => performance.now(),
  async sleep(ms, signal) {
    try {
      // A timer of more than 2^31-1 ms fires at once; long sleeps are cut and the caller's loop looks again.
      await sleepMs(Math.max(0, Math.min(ms, 2_147_483_647)), undefined, signal ? { signal } : {});
    } catch (error) {
      if (!signal?.aborted) throw error;
    }
  },
};
