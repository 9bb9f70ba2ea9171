// PURE. Collects a header or trailer section that arrives in pieces. Each byte is looked at once, whatever the pieces are,
// and what can already be refused is refused, so a slow or endless section costs neither time nor memory.
import type { Http1ProblemCode } from "./problem.ts";

/** When a section is refused. */
export interface SectionLimits {
  readonly bytes: number;
  /** Lines before the empty one. */
  readonly lines: number;
  /** Bytes of the first line; only for heads. */
  readonly firstLineBytes: number;
  readonly tooLarge: Http1ProblemCode;
  readonly tooManyLines: Http1ProblemCode;
  readonly firstLineTooLong: Http1ProblemCode;
}

const EMPTY = Buffer.alloc(0);
const FIRST_CAPACITY = 1024;

/** A growing copy of an unfinished section; its memory is freed by `reset`. */
export class Section {
  #buffer: Buffer = EMPTY;
  #length = 0;
  #lines = 0;
  #lineStart = 0;
  #afterCr = false;
  /** The empty line has been read; `text` is whole. */
  complete = false;
  problem: Http1ProblemCode | undefined;

  get length(): number {
    return this.#length;
  }

  /** Lines read so far, without the empty one. */
  get lines(): number {
    return this.#lines;
  }

  /** The bytes read so far; only the first `length` count. */
  get bytes(): Buffer {
    return this.#buffer;
  }

  reset(): void {
    this.#buffer = EMPTY;
    this.#length = 0;
    this.#lines = 0;
    this.#lineStart = 0;
    this.#afterCr = false;
    this.complete = false;
    this.problem = undefined;
  }

  /** All lines, each with its CRLF, without the empty line at the end. */
  text(): string {
    return this.#buffer.toString("latin1", 0, this.#length - 2);
  }

  /** Takes bytes up to the end of the section and returns where it stopped; look at `complete` and `problem` then. */
  feed(chunk: Buffer, start: number, limits: SectionLimits): number {
    const stop = Math.min(chunk.length, start + limits.bytes + 1 - this.#length);
    let pos = start;
    while (pos < stop && !this.complete && this.problem === undefined) {
      this.#byte(chunk[pos] ?? 0, this.#length + pos - start, limits);
      pos++;
    }
    this.#append(chunk, start, pos);
    if (this.problem === undefined && this.#length > limits.bytes) this.problem = this.#overflow(limits);
    return pos;
  }

  /** @param at index of this byte in the section. */
  #byte(byte: number, at: number, limits: SectionLimits): void {
    if (this.#afterCr) {
      if (byte !== 10) {
        this.problem = "bare_cr";
        return;
      }
      this.#afterCr = false;
      if (at - this.#lineStart === 1) {
        this.complete = true;
        return;
      }
      this.#lines++;
      this.#lineStart = at + 1;
      if (this.#lines > limits.lines) this.problem = limits.tooManyLines;
    } else if (byte === 13) this.#afterCr = true;
    else if (byte === 10) this.problem = "bare_lf";
    else if ((byte < 32 && byte !== 9) || byte === 127) this.problem = "control_character";
    else if (this.#lines === 0 && at >= limits.firstLineBytes) this.problem = limits.firstLineTooLong;
  }

  #overflow(limits: SectionLimits): Http1ProblemCode {
    return this.#lines === 0 ? limits.firstLineTooLong : limits.tooLarge;
  }

  #append(chunk: Buffer, start: number, end: number): void {
    const needed = this.#length + end - start;
    if (needed > this.#buffer.length) {
      const larger = Buffer.allocUnsafe(Math.max(FIRST_CAPACITY, needed, this.#buffer.length * 2));
      this.#buffer.copy(larger, 0, 0, this.#length);
      this.#buffer = larger;
    }
    chunk.copy(this.#buffer, this.#length, start, end);
    this.#length = needed;
  }
}
