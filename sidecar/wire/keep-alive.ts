// PURE. Whether the other end of a connection is still there: silence is asked about with a ping, silence after that is
// death. Costs a flag per received chunk; the owner's periodic sweep does the rest.

/** Silence after which a ping is sent, and how long its answer may take, milliseconds. */
export const PING_AFTER_MS = 10_000;
const ANSWER_WITHIN_MS = 10_000;

export class KeepAlive {
  readonly #pingAfterMs: number;
  #heard = true;
  #heardAtMs = 0;
  #pingedAtMs = -1;

  /** @param pingAfterMs silence after which to ask. */
  constructor(pingAfterMs: number = PING_AFTER_MS) {
    this.#pingAfterMs = pingAfterMs;
  }

  /** Bytes arrived, whatever they are. */
  heard(): void {
    this.#heard = true;
  }

  /** Call it about twice a second. `ping`: send one now; `dead`: nothing came since the ping. */
  check(nowMs: number): "fine" | "ping" | "dead" {
    if (this.#heard) {
      this.#heard = false;
      this.#heardAtMs = nowMs;
      this.#pingedAtMs = -1;
      return "fine";
    }
    if (this.#pingedAtMs >= 0) return nowMs - this.#pingedAtMs >= ANSWER_WITHIN_MS ? "dead" : "fine";
    if (nowMs - this.#heardAtMs < this.#pingAfterMs) return "fine";
    this.#pingedAtMs = nowMs;
    return "ping";
  }
}
