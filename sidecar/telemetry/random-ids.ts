// Random ids for traces, decisions and events, cut from a pool so that a request does not pay for a system call.
import { randomFillSync } from "node:crypto";

const POOL_BYTES = 8_192;

/**
 * Hexadecimal ids from one pool of random bytes; each byte is used once. They are slices of the pool's text (a quarter of
 * what a text of its own costs), so one that is kept keeps 16 KiB: together with all others that were cut from it.
 */
export class RandomIds {
  readonly #pool = Buffer.allocUnsafeSlow(POOL_BYTES);
  #text = "";
  /** Characters of it that were used. */
  #used = 0;

  /** @param bytes 1 to 32; the id has twice as many characters. */
  hex(bytes: number): string {
    const end = this.#used + bytes * 2;
    if (end > this.#text.length) {
      this.#text = randomFillSync(this.#pool).toString("hex");
      this.#used = bytes * 2;
      return this.#text.slice(0, bytes * 2);
    }
    const id = this.#text.slice(this.#used, end);
    this.#used = end;
    return id;
  }
}
