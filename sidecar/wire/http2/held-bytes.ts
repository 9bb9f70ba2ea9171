// PURE. Counts what streams hold for peers that do not read, over all connections of a process, and says when that is much.

/** From here on each stream is given little; what is already held stays. */
const MUCH_BYTES = 16 * 1024 * 1024;

export class HeldBytes {
  readonly #much: number;
  #bytes = 0;
  #isMuch = false;

  /** @param much bytes from which on it is much, until there is only half of it. */
  constructor(much: number = MUCH_BYTES) {
    this.#much = much;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get isMuch(): boolean {
    return this.#isMuch;
  }

  add(bytes: number): void {
    this.#bytes += bytes;
    if (this.#bytes >= this.#much) this.#isMuch = true;
  }

  remove(bytes: number): void {
    this.#bytes -= bytes;
    if (this.#bytes * 2 < this.#much) this.#isMuch = false;
  }
}
