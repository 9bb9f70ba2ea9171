// Random ids for traces, decisions and events, cut from a pool so that a request does not pay for a system call.
import { randomFillSync } from "node:crypto";

const POOL_BYTES = 8_192;

/** Hexadecimal ids from one pool of random bytes; each byte is used once. */
export class RandomIds {
  readonly #pool = Buffer.allocUnsafeSlow(POOL_BYTES);
  #next = POOL_BYTES;

  /** @param bytes 1 to 32; the id has twice as many characters. */
  hex(bytes: number): string {
    if (this.#next + bytes > POOL_BYTES) {
      randomFillSync(this.#pool);
      this.#next = 0;
    }
    const start = this.#next;
    this.#next = start + bytes;
    return this.#pool.toString("hex", start, start + bytes);
  }
}
