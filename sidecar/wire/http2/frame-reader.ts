// Cuts the byte stream into frames (RFC 9113 section 4.1). Only an unfinished frame is held, at most 16 KiB + 9 bytes.
import { ownMemory } from "../own-memory.ts";
import { FRAME_HEADER_BYTES, MAX_FRAME_BYTES, PREFACE, readUint32 } from "./frames.ts";

/** Where frames go. */
export interface FrameSink {
  /** Nothing more is delivered once true. */
  readonly closed: boolean;
  /** One whole frame; its payload is buffer[start, end), which is never written again. */
  frame(type: number, flags: number, streamId: number, buffer: Buffer, start: number, end: number): void;
  /** A frame larger than we allow (section 4.2). */
  frameTooLarge(streamId: number, length: number): void;
  /** The client did not begin with the preface (section 3.4). */
  badPreface(): void;
}

export class FrameReader {
  readonly #sink: FrameSink;
  #prefaceLeft: number;
  #held: Buffer | undefined;
  #heldBytes = 0;

  constructor(sink: FrameSink, expectPreface: boolean) {
    this.#sink = sink;
    this.#prefaceLeft = expectPreface ? PREFACE.length : 0;
  }

  /** Whether the input so far ends within a frame or the preface. */
  get partial(): boolean {
    return this.#held !== undefined || (this.#prefaceLeft > 0 && this.#prefaceLeft < PREFACE.length);
  }

  /** Type of the frame that is held; -1: none, or not known yet. */
  get partialType(): number {
    return this.#heldBytes > 3 ? (this.#held?.[3] ?? -1) : -1;
  }

  push(chunk: Buffer): void {
    let at = this.#prefaceLeft > 0 ? this.#preface(chunk) : 0;
    if (this.#held !== undefined) at = this.#complete(chunk, at);
    const sink = this.#sink;
    while (!sink.closed && chunk.length - at >= FRAME_HEADER_BYTES) {
      const length = frameLength(chunk, at);
      if (length > MAX_FRAME_BYTES) {
        sink.frameTooLarge(readUint32(chunk, at + 5) & 0x7fff_ffff, length);
        return;
      }
      const end = at + FRAME_HEADER_BYTES + length;
      if (end > chunk.length) break;
      this.#deliver(chunk, at, end);
      at = end;
    }
    if (!sink.closed && at < chunk.length) this.#hold(chunk, at);
  }

  #deliver(buffer: Buffer, at: number, end: number): void {
    const streamId = readUint32(buffer, at + 5) & 0x7fff_ffff;
    this.#sink.frame(
      buffer[at + 3] ?? 0,
      buffer[at + 4] ?? 0,
      streamId,
      buffer,
      at + FRAME_HEADER_BYTES,
      end,
    );
  }

  #preface(chunk: Buffer): number {
    const from = PREFACE.length - this.#prefaceLeft;
    const count = Math.min(chunk.length, this.#prefaceLeft);
    if (PREFACE.compare(chunk, 0, count, from, from + count) !== 0) {
      this.#sink.badPreface();
      return chunk.length;
    }
    this.#prefaceLeft -= count;
    return count;
  }

  /** Keeps the beginning of a frame, in a buffer of the frame's size as soon as that is known. */
  #hold(chunk: Buffer, at: number): void {
    const bytes = chunk.length - at;
    const size =
      bytes < FRAME_HEADER_BYTES ? FRAME_HEADER_BYTES : FRAME_HEADER_BYTES + frameLength(chunk, at);
    this.#held = ownMemory(size);
    this.#heldBytes = chunk.copy(this.#held, 0, at);
  }

  /** Adds to the held frame from `at`; delivers it when whole. Returns where the rest of the chunk begins. */
  #complete(chunk: Buffer, start: number): number {
    let at = start;
    let held = this.#held;
    if (held === undefined) return at;
    if (this.#heldBytes < FRAME_HEADER_BYTES) {
      at += this.#fill(held, chunk, at, FRAME_HEADER_BYTES);
      if (this.#heldBytes < FRAME_HEADER_BYTES) return at;
    }
    const length = frameLength(held, 0);
    if (length > MAX_FRAME_BYTES) {
      this.#held = undefined;
      this.#sink.frameTooLarge(readUint32(held, 5) & 0x7fff_ffff, length);
      return chunk.length;
    }
    const size = FRAME_HEADER_BYTES + length;
    if (held.length < size) {
      const whole = ownMemory(size);
      held.copy(whole, 0, 0, this.#heldBytes);
      this.#held = whole;
      held = whole;
    }
    at += this.#fill(held, chunk, at, size);
    if (this.#heldBytes < size) return at;
    this.#held = undefined;
    this.#heldBytes = 0;
    this.#deliver(held, 0, size);
    return at;
  }

  #fill(held: Buffer, chunk: Buffer, at: number, size: number): number {
    const count = Math.min(size - this.#heldBytes, chunk.length - at);
    chunk.copy(held, this.#heldBytes, at, at + count);
    this.#heldBytes += count;
    return count;
  }
}

function frameLength(buffer: Buffer, at: number): number {
  return ((buffer[at] ?? 0) << 16) | ((buffer[at + 1] ?? 0) << 8) | (buffer[at + 2] ?? 0);
}
