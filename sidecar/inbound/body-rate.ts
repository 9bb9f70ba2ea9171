// PURE. Whether the body of a request comes fast enough: a caller that drips it holds a connection, a stream and a place in
// the application for as long as it likes. Costs nothing until the first sweep that finds a body incomplete.

export interface BodyPace {
  /** Bytes a second; 0: any pace will do. */
  readonly bodyRate: number;
  /** Over which it is measured, milliseconds. */
  readonly bodyMs: number;
}

export class BodyRate {
  #sinceMs: number;
  #bytes: number;

  /** @param bytes received so far. */
  constructor(nowMs: number, bytes: number) {
    this.#sinceMs = nowMs;
    this.#bytes = bytes;
  }

  /**
   * Call it about twice a second.
   *
   * @param bytes received so far.
   * @param isHeld it is us who hold the caller back, or the caller waits for a word of ours.
   * @returns whether it came too slowly for `bodyMs`.
   */
  isTooSlow(nowMs: number, bytes: number, isHeld: boolean, pace: BodyPace): boolean {
    const spentMs = nowMs - this.#sinceMs;
    if (!isHeld && spentMs < pace.bodyMs) return false;
    const slow = !isHeld && (bytes - this.#bytes) * 1_000 < pace.bodyRate * spentMs;
    this.#sinceMs = nowMs;
    this.#bytes = bytes;
    return slow;
  }
}
