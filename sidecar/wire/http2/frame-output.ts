// Gathers the frames of one turn of the event loop into one buffer and hands it over whole: one write, one TLS record.
import { MeshError } from "../../core/runtime/errors.ts";
import type { BufferPool } from "./buffer-pool.ts";
import { FRAME_HEADER_BYTES, FrameFlag, FrameType, writeFrameHeader, writeUint32 } from "./frames.ts";

const LEAST_BYTES = 1024;
/**
 * A full buffer of this size is written at once, so a turn that sends much does not grow without bound. Holds seven full
 * frames; bulk DATA through both ends: 1.5 GB/s at 64 KiB, 1.9 at 128, 2.0 at 256.
 */
const MOST_BYTES = 131_072;
const EMPTY = Buffer.alloc(0);

/** Where output goes. */
export interface FrameSocket {
  /** Takes bytes for the socket; they are never changed again. */
  readonly write: (bytes: Buffer) => void;
  /** In its place where buffers are used again: true says that nobody looks at the bytes any more. */
  readonly writeNow?: ((bytes: Buffer) => boolean) | undefined;
}

/**
 * The buffer is handed to `write` and another one taken in the next turn, sized after the last: copying into an exact
 * buffer costs a buffer too, and the copy. An idle connection holds none.
 */
export class FrameOutput {
  /** Frames so far are buffer[0, length). */
  buffer: Buffer = EMPTY;
  length = 0;
  readonly #socket: FrameSocket;
  readonly #pool: BufferPool | undefined;
  readonly #requestFlush: () => void;
  #requested = false;
  #nextBytes = LEAST_BYTES;
  /** Start of the header block being written, its frame header included; -1: none. */
  #blockStart = -1;

  /** @param pool where buffers come from and, after `writeNow` answered true, go to. */
  constructor(socket: FrameSocket, requestFlush: () => void, pool: BufferPool | undefined) {
    this.#socket = socket;
    this.#pool = pool;
    this.#requestFlush = requestFlush;
  }

  get inBlock(): boolean {
    return this.#blockStart >= 0;
  }

  /** Asks the owner for a flush, once until it comes. */
  requestFlush(): void {
    if (this.#requested) return;
    this.#requested = true;
    this.#requestFlush();
  }

  /** Makes room for `bytes` behind `length`. */
  reserve(bytes: number): void {
    if (this.buffer.length - this.length < bytes) this.#makeRoom(bytes);
    if (!this.#requested) this.requestFlush();
  }

  /** Writes a frame header with room for its payload; returns where the payload goes. */
  frame(type: number, flags: number, streamId: number, payloadBytes: number): number {
    if (this.#blockStart >= 0)
      throw new MeshError("protocol_error", "a frame was written within a header block");
    this.reserve(FRAME_HEADER_BYTES + payloadBytes);
    const at = this.length;
    writeFrameHeader(this.buffer, at, payloadBytes, type, flags, streamId);
    this.length = at + FRAME_HEADER_BYTES + payloadBytes;
    return at + FRAME_HEADER_BYTES;
  }

  /** A frame whose payload is one number: RST_STREAM, WINDOW_UPDATE. */
  numberFrame(type: number, streamId: number, value: number): void {
    const at = this.frame(type, 0, streamId, 4);
    writeUint32(this.buffer, at, value);
  }

  bytesFrame(type: number, flags: number, payload: Uint8Array): void {
    const at = this.frame(type, flags, 0, payload.length);
    this.buffer.set(payload, at);
  }

  goaway(lastStreamId: number, code: number): void {
    const at = this.frame(FrameType.goaway, 0, 0, 8);
    writeUint32(this.buffer, at, lastStreamId);
    writeUint32(this.buffer, at + 4, code);
  }

  /** Begins a header block; nothing else may be written until `endBlock`. */
  beginBlock(): void {
    this.reserve(FRAME_HEADER_BYTES + 16);
    this.#blockStart = this.length;
    this.length += FRAME_HEADER_BYTES;
  }

  /** Ends the block: one HEADERS frame, or with CONTINUATION frames where it exceeds the peer's frame size. */
  endBlock(streamId: number, endStream: boolean, maxFrameBytes: number): void {
    const start = this.#blockStart;
    this.#blockStart = -1;
    const bytes = this.length - start - FRAME_HEADER_BYTES;
    const end = endStream ? FrameFlag.endStream : 0;
    if (bytes <= maxFrameBytes) {
      writeFrameHeader(this.buffer, start, bytes, FrameType.headers, end | FrameFlag.endHeaders, streamId);
      return;
    }
    const block = Buffer.from(this.buffer.subarray(start + FRAME_HEADER_BYTES, this.length));
    this.length = start;
    for (let at = 0; at < bytes; at += maxFrameBytes) {
      const part = block.subarray(at, at + maxFrameBytes);
      const last = at + maxFrameBytes >= bytes ? FrameFlag.endHeaders : 0;
      const type = at === 0 ? FrameType.headers : FrameType.continuation;
      const to = this.frame(type, (at === 0 ? end : 0) | last, streamId, part.length);
      this.buffer.set(part, to);
    }
  }

  /** Writes what was gathered; an unfinished header block stays. */
  flush(): void {
    this.#requested = false;
    this.#writeOut();
    if (this.length > 0) this.requestFlush();
  }

  #writeOut(): void {
    const end = this.#blockStart < 0 ? this.length : this.#blockStart;
    if (end === 0) return;
    const bytes = this.buffer.subarray(0, end);
    const rest = this.buffer.subarray(end, this.length);
    this.#nextBytes = nextSize(end);
    const whole = this.buffer;
    this.buffer = EMPTY;
    this.length = 0;
    if (rest.length > 0) {
      this.buffer = Buffer.allocUnsafe(Math.max(LEAST_BYTES, rest.length * 2));
      rest.copy(this.buffer);
      this.length = rest.length;
      this.#blockStart = 0;
    }
    if (this.#pool === undefined || this.#socket.writeNow === undefined) this.#socket.write(bytes);
    else if (this.#socket.writeNow(bytes)) this.#pool.give(whole);
  }

  #makeRoom(bytes: number): void {
    if (
      this.length + bytes > MOST_BYTES &&
      (this.#blockStart > 0 || (this.#blockStart < 0 && this.length > 0))
    ) {
      this.#writeOut();
    }
    if (this.buffer.length - this.length >= bytes) return;
    let size = Math.max(this.#nextBytes, this.buffer.length * 2);
    while (size < this.length + bytes) size *= 2;
    const pool = this.#pool;
    const grown = pool === undefined ? Buffer.allocUnsafe(size) : pool.take(size);
    if (this.length > 0) this.buffer.copy(grown, 0, 0, this.length);
    pool?.give(this.buffer);
    this.buffer = grown;
  }
}

/** A power of two a little above the last size. */
function nextSize(bytes: number): number {
  let size = LEAST_BYTES;
  while (size < bytes && size < MOST_BYTES) size *= 2;
  return size;
}
