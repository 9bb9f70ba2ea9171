// PURE. Counts what streams hold for peers that do not read, over all connections of a process, and says when that is much.

export class HeldBytes {
  readonly #much: number;
  #bytes = 0;
  #isMuch = false;

  /** @param much bytes from which on it is much, until there is only half of it. */
  constructor(much: number) {
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
