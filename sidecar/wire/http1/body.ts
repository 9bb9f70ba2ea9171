// PURE. The chunked transfer coding (RFC 9112 section 7.1) as a state machine over bytes: no copies, no white space, no
// repair. Extensions are checked and dropped; trailers are the parser's part.
import { isTokenByte } from "../field-syntax.ts";
import type { Http1ProblemCode } from "./problem.ts";

/** 2^53 - 1 has 14 hexadecimal digits; two more may be leading zeros. */
const MAX_SIZE_DIGITS = 16;

const FIRST_DIGIT = 0;
const DIGITS = 1;
const SIZE_LF = 2;
const DATA = 3;
const DATA_CR = 4;
const DATA_LF = 5;
const EXT_NAME_START = 6;
const EXT_NAME = 7;
const EXT_VALUE_START = 8;
const EXT_TOKEN = 9;
const EXT_QUOTED = 10;
const EXT_ESCAPED = 11;
const EXT_AFTER_QUOTED = 12;

const CR = 13;
const LF = 10;
const SEMICOLON = 59;
const EQUALS = 61;
const QUOTE = 34;
const BACKSLASH = 92;

/** What `step` came to. */
export type ChunkedEvent = "more" | "data" | "last" | "problem";

/** Value of a hexadecimal digit, or -1. */
function hexValue(byte: number): number {
  if (byte >= 48 && byte <= 57) return byte - 48;
  const folded = byte | 32;
  return folded >= 97 && folded <= 102 ? folded - 87 : -1;
}

function isQuotedByte(byte: number): boolean {
  return byte === 9 || (byte >= 32 && byte !== 127);
}

/** Decoder of one chunked body at a time. */
export class ChunkedBody {
  readonly #maxExtensionBytes: number;
  #state = FIRST_DIGIT;
  #size = 0;
  #digits = 0;
  #extensionBytes = 0;
  event: ChunkedEvent = "more";
  problem: Http1ProblemCode = "bad_chunk_size";
  /** After "data": the bytes of the chunk given to `step` from here to the returned position. */
  dataStart = 0;

  /** @param maxExtensionBytes for all extensions of one message. */
  constructor(maxExtensionBytes: number) {
    this.#maxExtensionBytes = maxExtensionBytes;
  }

  reset(): void {
    this.#state = FIRST_DIGIT;
    this.#size = 0;
    this.#digits = 0;
    this.#extensionBytes = 0;
    this.event = "more";
  }

  /** Reads up to the next event and returns where it stopped. After "last" the trailer section follows. */
  step(chunk: Buffer, start: number): number {
    this.event = "more";
    let pos = start;
    while (pos < chunk.length) {
      if (this.#state === DATA) return this.#data(chunk, pos);
      this.#byte(chunk[pos] ?? 0);
      pos++;
      if (this.event !== "more") break;
    }
    return pos;
  }

  #data(chunk: Buffer, pos: number): number {
    const end = Math.min(chunk.length, pos + this.#size);
    this.#size -= end - pos;
    if (this.#size === 0) this.#state = DATA_CR;
    this.dataStart = pos;
    this.event = "data";
    return end;
  }

  #byte(byte: number): void {
    switch (this.#state) {
      case FIRST_DIGIT:
      case DIGITS:
        this.#digit(byte);
        break;
      case SIZE_LF:
        if (byte !== LF) this.#fail("bad_chunk_size");
        else this.#sizeRead();
        break;
      case DATA_CR:
        if (byte !== CR) this.#fail("bad_chunk_end");
        this.#state = DATA_LF;
        break;
      case DATA_LF:
        if (byte !== LF) this.#fail("bad_chunk_end");
        this.#state = FIRST_DIGIT;
        break;
      default:
        this.#extension(byte);
    }
  }

  #digit(byte: number): void {
    const value = hexValue(byte);
    if (value >= 0) {
      this.#size = this.#size * 16 + value;
      this.#digits++;
      if (this.#digits > MAX_SIZE_DIGITS || this.#size > Number.MAX_SAFE_INTEGER)
        this.#fail("bad_chunk_size");
      this.#state = DIGITS;
    } else if (this.#state === FIRST_DIGIT) this.#fail("bad_chunk_size");
    else if (byte === CR) this.#state = SIZE_LF;
    else if (byte === SEMICOLON) this.#extension(byte);
    else this.#fail("bad_chunk_size");
  }

  #sizeRead(): void {
    this.#digits = 0;
    if (this.#size === 0) {
      this.event = "last";
      this.#state = FIRST_DIGIT;
    } else this.#state = DATA;
  }

  /** `;name`, `;name=token` or `;name="quoted"`, any number of times, without white space between. */
  #extension(byte: number): void {
    this.#extensionBytes++;
    if (this.#extensionBytes > this.#maxExtensionBytes) {
      this.#fail("chunk_extensions_too_long");
      return;
    }
    const next = this.#nextExtensionState(byte);
    if (next < 0) this.#fail("bad_chunk_extension");
    else this.#state = next;
  }

  #nextExtensionState(byte: number): number {
    switch (this.#state) {
      case EXT_NAME_START:
        return isTokenByte(byte) ? EXT_NAME : -1;
      case EXT_NAME:
        if (isTokenByte(byte)) return EXT_NAME;
        return byte === EQUALS ? EXT_VALUE_START : extensionEnd(byte);
      case EXT_VALUE_START:
        if (byte === QUOTE) return EXT_QUOTED;
        return isTokenByte(byte) ? EXT_TOKEN : -1;
      case EXT_TOKEN:
        return isTokenByte(byte) ? EXT_TOKEN : extensionEnd(byte);
      case EXT_QUOTED:
        if (byte === QUOTE) return EXT_AFTER_QUOTED;
        if (byte === BACKSLASH) return EXT_ESCAPED;
        return isQuotedByte(byte) ? EXT_QUOTED : -1;
      case EXT_ESCAPED:
        return isQuotedByte(byte) ? EXT_QUOTED : -1;
      default:
        return extensionEnd(byte);
    }
  }

  #fail(problem: Http1ProblemCode): void {
    this.problem = problem;
    this.event = "problem";
  }
}

function extensionEnd(byte: number): number {
  if (byte === SEMICOLON) return EXT_NAME_START;
  return byte === CR ? SIZE_LF : -1;
}
