// PURE. What the results of active checks say of one endpoint, and when the next check is due.
import type { HealthCheckSettings } from "../core/traffic/traffic.ts";

type Thresholds = Pick<HealthCheckSettings, "healthyThreshold" | "unhealthyThreshold">;

/** One endpoint under active checks. It counts as healthy until they say otherwise: a call need not wait for a check. */
export class HealthRecord {
  #healthy = true;
  #inARow = 0;
  #dueMs: number;

  /** @param dueMs monotonic milliseconds of the first check. */
  constructor(dueMs: number) {
    this.#dueMs = dueMs;
  }

  get healthy(): boolean {
    return this.#healthy;
  }

  get dueMs(): number {
    return this.#dueMs;
  }

  /** @returns whether this result changed what is thought of it. */
  note(good: boolean, thresholds: Thresholds): boolean {
    if (good === this.#healthy) {
      this.#inARow = 0;
      return false;
    }
    this.#inARow++;
    if (this.#inARow < (good ? thresholds.healthyThreshold : thresholds.unhealthyThreshold)) return false;
    this.#healthy = good;
    this.#inARow = 0;
    return true;
  }

  /**
   * The next check, up to a tenth of the interval sooner or later, so that a thousand callers do not check together.
   *
   * @param random in [0, 1).
   */
  schedule(nowMs: number, intervalMs: number, random: number): void {
    this.#dueMs = nowMs + intervalMs * (0.9 + 0.2 * random);
  }
}
