// PURE. Whether one endpoint has failed so often in a row that it rests for a while.
import type { OutlierSettings } from "../core/traffic/traffic.ts";

type Settings = Pick<OutlierSettings, "consecutive5xx" | "ejectForMs">;

const MAX_EJECTION_MS = 300_000;

/** The failures of one endpoint. Times are monotonic milliseconds. */
export class OutlierRecord {
  #inARow = 0;
  /** Rests that count for the length of the next one. */
  #rests = 0;
  #untilMs = Number.NEGATIVE_INFINITY;
  /** From when on quiet time makes the next rest shorter. */
  #forgivenAtMs = Number.POSITIVE_INFINITY;
  #ejected = false;

  get ejected(): boolean {
    return this.#ejected;
  }

  /** When the rest ends; meaningful while `ejected`. */
  get untilMs(): number {
    return this.#untilMs;
  }

  get failuresInARow(): number {
    return this.#inARow;
  }

  succeed(): void {
    this.#inARow = 0;
  }

  /** @returns whether it has failed often enough to be ejected. What fails during a rest says nothing new. */
  fail(settings: Settings): boolean {
    if (this.#ejected) return false;
    this.#inARow++;
    return this.#inARow >= settings.consecutive5xx;
  }

  /** Rests from now on. */
  eject(settings: Settings, nowMs: number): void {
    this.#rests++;
    this.#inARow = 0;
    this.#ejected = true;
    this.#untilMs = nowMs + Math.min(MAX_EJECTION_MS, settings.ejectForMs * this.#rests);
  }

  /**
   * Lets a rest end, and forgives one for each time of the first rest's length without another.
   *
   * @returns whether a rest ended just now.
   */
  sweep(settings: Settings, nowMs: number): boolean {
    if (this.#ejected) {
      if (nowMs < this.#untilMs) return false;
      this.release();
      this.#forgivenAtMs = nowMs + settings.ejectForMs;
      return true;
    }
    while (this.#rests > 0 && nowMs >= this.#forgivenAtMs) {
      this.#rests--;
      this.#forgivenAtMs += settings.ejectForMs;
    }
    return false;
  }

  /** Ends a rest before its time. */
  release(): void {
    this.#ejected = false;
  }
}

/**
 * Whether one more endpoint may be ejected. One always may, where there are two: a bound of 10 % must not protect the one
 * broken endpoint of three.
 */
export function mayEject(ejected: number, endpoints: number, maxEjectPercent: number): boolean {
  if (endpoints < 2 || maxEjectPercent <= 0) return false;
  return ejected < Math.max(1, Math.floor((endpoints * maxEjectPercent) / 100));
}

/**
 * Panic: so few are usable that sending everything to them would bring them down too, so health counts no more.
 *
 * @param panicPercent panic begins below this many percent; 0: never.
 */
export function isPanic(usable: number, endpoints: number, panicPercent: number): boolean {
  return endpoints > 0 && usable * 100 < endpoints * panicPercent;
}
