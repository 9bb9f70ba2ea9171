// PURE. Buffers for the output of connections: taken for a turn of the event loop and given back once written, so that a
// busy process allocates none and an idle connection holds none.

/** Powers of two that are kept; anything else is made and forgotten. */
const LEAST_BYTES = 1024;
const MOST_BYTES = 131_072;
/** Of each size: 16 large ones are 2 MiB. */
const KEPT = 16;

export class BufferPool {
  /** By binary logarithm of the size. */
  readonly #free: Buffer[][] = Array.from({ length: 32 }, () => []);

  /** @param bytes a power of two. @returns a buffer of that size with arbitrary content. */
  take(bytes: number): Buffer {
    return this.#free[31 - Math.clz32(bytes)]?.pop() ?? Buffer.allocUnsafeSlow(bytes);
  }

  /** Nobody may use the buffer any more. */
  give(buffer: Buffer): void {
    const bytes = buffer.length;
    if (bytes < LEAST_BYTES || bytes > MOST_BYTES || (bytes & (bytes - 1)) !== 0) return;
    const free = this.#free[31 - Math.clz32(bytes)];
    if (free !== undefined && free.length < KEPT) free.push(buffer);
  }
}
