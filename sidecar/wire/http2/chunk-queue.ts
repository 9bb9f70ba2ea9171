// Body bytes of one stream that wait for window or for their turn. Large chunks are kept as they are, small ones are
// copied together: a one-byte chunk must not keep a 64 KiB read buffer, nor an object of its own, alive.

import { ownCopy, ownMemory } from "../own-memory.ts";

const COPY_BELOW_BYTES = 4096;
const BLOCK_BYTES = 16_384;

/** A queue of bytes. */
export class ChunkQueue {
  bytes = 0;
  readonly #chunks: Buffer[] = [];
  /** Bytes of the first chunk that were taken. */
  #taken = 0;
  /** Own block at the end of the queue that small chunks are copied into. */
  #block: Buffer | undefined;
  #blockUsed = 0;

  /** @param chunk at least one byte; copied when small, else kept and not to be changed by anybody. */
  push(chunk: Buffer): void {
    this.bytes += chunk.length;
    if (chunk.length >= COPY_BELOW_BYTES) {
      this.#seal();
      this.#chunks.push(chunk);
      return;
    }
    if (this.#block !== undefined && this.#blockUsed + chunk.length > this.#block.length) this.#seal();
    // The first block is small, as most streams queue little.
    this.#block ??= ownMemory(this.#chunks.length === 0 ? COPY_BELOW_BYTES : BLOCK_BYTES);
    chunk.copy(this.#block, this.#blockUsed);
    this.#blockUsed += chunk.length;
  }

  /** Moves `count` bytes, at most `bytes`, to target[at, at + count). */
  take(target: Buffer, at: number, count: number): void {
    let to = at;
    let rest = count;
    this.bytes -= count;
    while (rest > 0) {
      if (this.#chunks.length === 0) this.#seal();
      const chunk = this.#chunks[0];
      if (chunk === undefined) return;
      const part = Math.min(rest, chunk.length - this.#taken);
      chunk.copy(target, to, this.#taken, this.#taken + part);
      to += part;
      rest -= part;
      this.#taken += part;
      if (this.#taken === chunk.length) {
        this.#chunks.shift();
        this.#taken = 0;
      }
    }
  }

  /** It will wait for long: what is left must not keep alive what was cut off, or taken. */
  unpin(): void {
    for (const [at, whole] of this.#chunks.entries()) {
      const chunk = at === 0 ? whole.subarray(this.#taken) : whole;
      this.#chunks[at] = chunk.length * 2 <= chunk.buffer.byteLength ? ownCopy(chunk) : chunk;
    }
    this.#taken = 0;
  }

  clear(): void {
    this.bytes = 0;
    this.#chunks.length = 0;
    this.#taken = 0;
    this.#block = undefined;
    this.#blockUsed = 0;
  }

  #seal(): void {
    if (this.#block === undefined) return;
    this.#chunks.push(this.#block.subarray(0, this.#blockUsed));
    this.#block = undefined;
    this.#blockUsed = 0;
  }
}
