// PURE. Bodies that wait, for the decision that needs them or for the application: bounded for the whole process, since each
// caller may have many requests that nobody has allowed yet.

const FIRST_BYTES = 1024;
const EMPTY = Buffer.alloc(0);

/** What all waiting bodies may take together. */
export class WaitingBytes {
  readonly #most: number;
  #taken = 0;

  constructor(most: number) {
    this.#most = most;
  }

  /** Bytes in use. */
  get taken(): number {
    return this.#taken;
  }

  /** Whether there is room for `bytes` more; true takes it. */
  take(bytes: number): boolean {
    if (this.#taken + bytes > this.#most) return false;
    this.#taken += bytes;
    return true;
  }

  give(bytes: number): void {
    this.#taken -= bytes;
  }
}

/** The body of one request so far. Pieces are copied together: their views would keep whole received buffers alive. */
export class WaitingBody {
  readonly #budget: WaitingBytes;
  #buffer: Buffer = EMPTY;
  #length = 0;

  constructor(budget: WaitingBytes) {
    this.#budget = budget;
  }

  get length(): number {
    return this.#length;
  }

  /** Not to be changed, and not to be used after the next `add`. */
  get bytes(): Buffer {
    return this.#buffer.subarray(0, this.#length);
  }

  /** @returns false: there is no room for it. */
  add(chunk: Buffer): boolean {
    const needed = this.#length + chunk.length;
    if (needed > this.#buffer.length) {
      const size = Math.max(FIRST_BYTES, needed, this.#buffer.length * 2);
      if (!this.#budget.take(size - this.#buffer.length)) return false;
      const larger = Buffer.allocUnsafe(size);
      this.#buffer.copy(larger, 0, 0, this.#length);
      this.#buffer = larger;
    }
    chunk.copy(this.#buffer, this.#length);
    this.#length = needed;
    return true;
  }

  /** It waits no more: its room is free again. @returns the bytes. */
  release(): Buffer {
    const { bytes } = this;
    this.#budget.give(this.#buffer.length);
    this.#buffer = EMPTY;
    this.#length = 0;
    return bytes;
  }
}
