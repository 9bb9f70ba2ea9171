// PURE. Memory for bytes that may have to wait. Node cuts buffers of less than 32 KiB out of pieces of 64 KiB, so that one
// which is held keeps all its neighbours: with a thousand slow readers that doubled what their sidecar took.

/** Below this the pool's piece is shared by so many that it does not matter, and an allocation costs more than the bytes. */
const SHARED_BELOW_BYTES = 2_048;

/** @returns a buffer with arbitrary content, which shares its memory with nobody when it is large. */
export function ownMemory(bytes: number): Buffer {
  return bytes < SHARED_BELOW_BYTES ? Buffer.allocUnsafe(bytes) : Buffer.allocUnsafeSlow(bytes);
}

/** @returns a copy in such a buffer. */
export function ownCopy(chunk: Buffer): Buffer {
  const copy = ownMemory(chunk.length);
  chunk.copy(copy);
  return copy;
}
