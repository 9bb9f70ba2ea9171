// PURE. The field lines of the last head, as bytes: most heads of a connection differ in their first line alone, and as
// long as they do, what was read of the lines still stands. Comparing 1 KB costs a twentieth of reading it.

/** Longer ones are read each time. */
const MAX_KEPT_BYTES = 8_192;
const EMPTY = Buffer.alloc(0);
const CR = 13;

/** From the line end of a valid head's first line to its empty line. One per connection. */
export class KeptFields {
  #bytes: Buffer = EMPTY;

  get length(): number {
    return this.#bytes.length;
  }

  /**
   * Where the first line of the head that begins at `pos` ends, when exactly the lines that are kept follow it; else -1.
   *
   * INVARIANT: what is kept begins with CRLF and ends with the first empty line, and no CR comes before it, so the head
   * ends where it would if it were read anew.
   */
  firstLineEnd(chunk: Buffer, pos: number): number {
    const kept = this.#bytes;
    if (kept.length === 0) return -1;
    const line = chunk.indexOf(CR, pos);
    const end = line + kept.length;
    if (line < 0 || end > chunk.length) return -1;
    return chunk.compare(kept, 0, kept.length, line, end) === 0 ? line : -1;
  }

  /** Keeps the lines of a valid head, chunk[pos, end), which has no CR in its first line. */
  keep(chunk: Buffer, pos: number, end: number): void {
    const line = chunk.indexOf(CR, pos);
    if (end - line > MAX_KEPT_BYTES) return;
    // Not out of Node's pool: it stays, and would keep its neighbours.
    this.#bytes = Buffer.allocUnsafeSlow(end - line);
    chunk.copy(this.#bytes, 0, line, end);
  }

  forget(): void {
    this.#bytes = EMPTY;
  }
}
