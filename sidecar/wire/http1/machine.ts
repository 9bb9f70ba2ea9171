// PURE. What both roles of the HTTP/1.1 parser share (RFC 9112): the states of a message, pausing and holding. A head that
// lies whole in one chunk is cut out of it as one string; only what is incomplete is copied. Bodies are views.

import type { Field } from "../field.ts";
import type { FieldCache } from "../field-cache.ts";
import { ownMemory } from "../own-memory.ts";
import { ChunkedBody } from "./body.ts";
import { FieldReader } from "./fields.ts";
import { KeptFields } from "./kept-fields.ts";
import {
  DEFAULT_HTTP1_LIMITS,
  type Http1Handler,
  type Http1Limits,
  type RequestHead,
  type ResponseHead,
} from "./message.ts";
import { type Http1ProblemCode, http1Problem } from "./problem.ts";
import { Section, type SectionLimits } from "./section.ts";

const EMPTY = Buffer.alloc(0);
const HEAD_END = Buffer.from("\r\n\r\n");
/** Held pieces below this are copied together: an object for each would cost many times its bytes. */
const COPY_BELOW_BYTES = 1024;
const BLOCK_BYTES = 4096;
const NO_TRAILERS: readonly Field[] = [];

/** Between messages, or inside a head. */
export const HEAD = 0;
const FIXED = 1;
const CHUNKED = 2;
const TRAILERS = 3;
/** Opaque bytes until the connection ends. */
export const OPAQUE = 4;
/** The message is complete, `onEnd` is still to be called. */
export const END = 5;
const DEAD = 6;

/** What follows a head. */
export type Next = typeof HEAD | typeof FIXED | typeof CHUNKED | typeof OPAQUE | typeof END;

/**
 * Callbacks come from inside `push`, `resume` and `eof` only, and may call any method of the parser.
 */
export abstract class Http1Parser<H extends RequestHead | ResponseHead> {
  protected readonly handler: Http1Handler<H>;
  protected readonly limits: Http1Limits;
  protected readonly reader: FieldReader;
  readonly #headLimits: SectionLimits;
  readonly #trailerLimits: SectionLimits;
  readonly #chunked: ChunkedBody;
  readonly #section = new Section();
  #state: Next | typeof TRAILERS | typeof DEAD = HEAD;
  #remaining = 0;
  #trailers: readonly Field[] = NO_TRAILERS;
  /** What `reader` read last, once it came for the second time in a row. */
  readonly #kept = new KeptFields();
  #paused = false;
  #running = false;
  #ended = false;
  /** Inside `onEnd`: bytes of the same chunk lie behind the message. */
  #behind = false;
  #queue: Buffer[] = [];
  #queuedBytes = 0;
  /** Own buffer at the end of the queue that small pieces are copied into, with its bytes in use. */
  #block: Buffer | undefined;
  #blockUsed = 0;

  constructor(
    handler: Http1Handler<H>,
    cache: FieldCache,
    limits: Partial<Http1Limits>,
    firstLine: (limits: Http1Limits) => { bytes: number; problem: Http1ProblemCode },
  ) {
    this.handler = handler;
    this.limits = { ...DEFAULT_HTTP1_LIMITS, ...limits };
    this.reader = new FieldReader(cache);
    this.#chunked = new ChunkedBody(this.limits.chunkExtensionBytes);
    const { bytes, problem } = firstLine(this.limits);
    this.#headLimits = {
      bytes: this.limits.headBytes,
      lines: this.limits.fields + 1,
      firstLineBytes: bytes,
      tooLarge: "head_too_large",
      tooManyLines: "too_many_fields",
      firstLineTooLong: problem,
    };
    this.#trailerLimits = {
      bytes: this.limits.trailerBytes,
      lines: this.limits.fields,
      firstLineBytes: this.limits.trailerBytes,
      tooLarge: "trailers_too_large",
      tooManyLines: "trailers_too_large",
      firstLineTooLong: "trailers_too_large",
    };
  }

  /** Whether a head may begin now; else the bytes are refused. */
  protected abstract mayBegin(): boolean;
  /**
   * Parses a head, or says what is wrong with it.
   *
   * @param repeated `text` is the first line alone; the field lines are those that `reader` read last.
   */
  protected abstract head(
    text: string,
    bytes: Buffer,
    offset: number,
    repeated: boolean,
  ): H | Http1ProblemCode;
  /** What follows a head. */
  protected abstract next(head: H): Next;
  protected abstract report(head: H): void;
  /** An empty line stands before a head: what is wrong with that, if anything. */
  protected abstract emptyLine(): Http1ProblemCode | undefined;
  /** A message is over. @param more whether bytes behind it are already here. */
  protected abstract over(more: boolean): void;
  /** What the end of the connection means between messages. */
  protected abstract endBetween(): Http1ProblemCode | undefined;

  /** Between messages and nothing held: only then may a connection be used again, or be closed without loss. */
  get idle(): boolean {
    return this.#state === HEAD && !this.#behind && this.#section.length === 0 && this.#queuedBytes === 0;
  }

  /** Bytes kept back: an unfinished head, and what arrived while paused. */
  get heldBytes(): number {
    return this.#section.length + this.#queuedBytes;
  }

  /**
   * Takes bytes as they arrive.
   *
   * @param chunk must not be changed afterwards: while paused the parser keeps it instead of a copy.
   */
  push(chunk: Buffer): void {
    if (this.#state === DEAD || chunk.length === 0) return;
    if (this.#paused || this.#running || this.#queuedBytes > 0) {
      this.#hold(chunk);
      return;
    }
    this.#run(chunk);
    if (this.#queuedBytes > 0 || this.#ended) this.#drain();
  }

  #hold(chunk: Buffer): void {
    this.#queuedBytes += chunk.length;
    if (chunk.length >= COPY_BELOW_BYTES) {
      this.#block = undefined;
      this.#queue.push(chunk);
      return;
    }
    if (this.#block === undefined || this.#blockUsed + chunk.length > this.#block.length) {
      this.#block = ownMemory(BLOCK_BYTES);
      this.#blockUsed = chunk.copy(this.#block);
      this.#queue.push(this.#block.subarray(0, this.#blockUsed));
      return;
    }
    this.#blockUsed += chunk.copy(this.#block, this.#blockUsed);
    this.#queue[this.#queue.length - 1] = this.#block.subarray(0, this.#blockUsed);
  }

  /** No callback until `resume`. What is pushed meanwhile is held, so the owner stops reading its socket. */
  pause(): void {
    this.#paused = true;
  }

  /** Goes on; after a request this lets the next one begin. */
  resume(): void {
    this.#paused = false;
    if (!this.#running) this.#drain();
  }

  /** The peer will send no more. Inside a message that is a problem, but for a body that ends with the connection. */
  eof(): void {
    this.#ended = true;
    if (!this.#paused && !this.#running) this.#finish();
  }

  /** Ends everything silently: no further callback, nothing held. */
  close(): void {
    this.#state = DEAD;
    this.#kept.forget();
    this.#section.reset();
    this.#queue = [];
    this.#queuedBytes = 0;
    this.#block = undefined;
  }

  /** Like `close`, between messages. @returns what is held behind the last one. */
  takeHeld(): Buffer {
    const held = Buffer.concat(this.#queue);
    this.close();
    return held;
  }

  /** Whether a message can be turned into an opaque stream now. */
  protected makeOpaque(): boolean {
    if (this.#state !== HEAD || this.#section.length > 0) return false;
    this.#state = OPAQUE;
    return true;
  }

  protected fail(code: Http1ProblemCode): void {
    if (this.#state === DEAD) return;
    this.close();
    this.handler.onProblem(http1Problem(code));
  }

  #drain(): void {
    if (this.#state === END && !this.#paused) this.#run(EMPTY);
    while (!this.#paused && this.#queue.length > 0 && this.#state !== DEAD) {
      const chunk = this.#queue.shift() ?? EMPTY;
      if (this.#queue.length === 0) this.#block = undefined;
      this.#queuedBytes -= chunk.length;
      this.#run(chunk);
    }
    if (this.#ended) this.#finish();
  }

  #run(chunk: Buffer): void {
    this.#running = true;
    let pos = 0;
    try {
      while (!this.#paused && this.#state !== DEAD && (pos < chunk.length || this.#state === END)) {
        pos = this.#step(chunk, pos);
      }
    } finally {
      this.#running = false;
      this.#behind = false;
    }
    if (pos < chunk.length && this.#state !== DEAD) {
      this.#queue.unshift(chunk.subarray(pos));
      this.#queuedBytes += chunk.length - pos;
    }
  }

  #step(chunk: Buffer, pos: number): number {
    switch (this.#state) {
      case HEAD:
        return this.#readHead(chunk, pos);
      case FIXED:
        return this.#readFixed(chunk, pos);
      case CHUNKED:
        return this.#readChunked(chunk, pos);
      case TRAILERS:
        return this.#readTrailers(chunk, pos);
      case END:
        this.#endMessage(pos < chunk.length || this.#queuedBytes > 0);
        return pos;
      default:
        this.handler.onBody(pos === 0 ? chunk : chunk.subarray(pos));
        return chunk.length;
    }
  }

  #readHead(chunk: Buffer, pos: number): number {
    if (!this.mayBegin()) {
      this.fail("unexpected_response");
      return pos;
    }
    if (this.#section.length === 0 && chunk[pos] !== 13) {
      const line = this.#kept.firstLineEnd(chunk, pos);
      const end = line + this.#kept.length;
      if (line >= 0 && end - pos <= this.limits.headBytes) {
        this.#headRead(this.head(chunk.toString("latin1", pos, line + 2), chunk, pos, true));
        return end;
      }
      const empty = chunk.indexOf(HEAD_END, pos);
      if (empty >= 0 && empty + 4 - pos <= this.limits.headBytes) {
        const head = this.#newHead(chunk.toString("latin1", pos, empty + 2), chunk, pos);
        if (this.reader.repeated) this.#kept.keep(chunk, pos, empty + 4);
        this.#headRead(head);
        return empty + 4;
      }
    }
    return this.#readSlowHead(chunk, pos);
  }

  #newHead(text: string, bytes: Buffer, offset: number): H | Http1ProblemCode {
    this.#kept.forget();
    return this.head(text, bytes, offset, false);
  }

  #readSlowHead(chunk: Buffer, start: number): number {
    const section = this.#section;
    const pos = section.feed(chunk, start, this.#headLimits);
    if (section.problem !== undefined) {
      this.fail(section.problem);
    } else if (section.complete) {
      const { lines, bytes } = section;
      const text = section.text();
      section.reset();
      if (lines > 0) this.#headRead(this.#newHead(text, bytes, 0));
      else {
        const problem = this.emptyLine();
        if (problem !== undefined) this.fail(problem);
      }
    }
    return pos;
  }

  #headRead(head: H | Http1ProblemCode): void {
    if (typeof head === "string") {
      this.fail(head as Http1ProblemCode); // a head never is a string
      return;
    }
    this.#state = this.next(head);
    this.report(head);
  }

  /** For `next`: the body has this many bytes. */
  protected fixedBody(bytes: number): Next {
    this.#remaining = bytes;
    return bytes === 0 ? END : FIXED;
  }

  protected chunkedBody(): Next {
    this.#chunked.reset();
    return CHUNKED;
  }

  #readFixed(chunk: Buffer, pos: number): number {
    const end = Math.min(chunk.length, pos + this.#remaining);
    this.#remaining -= end - pos;
    if (this.#remaining === 0) this.#state = END;
    this.handler.onBody(pos === 0 && end === chunk.length ? chunk : chunk.subarray(pos, end));
    return end;
  }

  #readChunked(chunk: Buffer, pos: number): number {
    const decoder = this.#chunked;
    const end = decoder.step(chunk, pos);
    if (decoder.event === "data") this.handler.onBody(chunk.subarray(decoder.dataStart, end));
    else if (decoder.event === "last") this.#state = TRAILERS;
    else if (decoder.event === "problem") this.fail(decoder.problem);
    return end;
  }

  #readTrailers(chunk: Buffer, start: number): number {
    const section = this.#section;
    const pos = section.feed(chunk, start, this.#trailerLimits);
    if (section.problem !== undefined) {
      this.fail(section.problem);
      return pos;
    }
    if (!section.complete) return pos;
    if (section.lines > 0) {
      this.#kept.forget();
      const problem = this.reader.readTrailers(section.text(), this.limits.fields);
      if (problem !== undefined) {
        this.fail(problem);
        return pos;
      }
      this.#trailers = this.reader.fields;
    }
    section.reset();
    this.#state = END;
    return pos;
  }

  #endMessage(more: boolean): void {
    const trailers = this.#trailers;
    this.#trailers = NO_TRAILERS;
    this.#state = HEAD;
    this.#behind = more;
    this.over(more);
    this.handler.onEnd(trailers);
    this.#behind = false;
  }

  #finish(): void {
    if (this.#paused || this.#queuedBytes > 0 || this.#state === DEAD) return;
    if (this.#state === OPAQUE) {
      this.close();
      this.handler.onEnd(NO_TRAILERS);
    } else if (this.#state === HEAD && this.#section.length === 0) {
      const problem = this.endBetween();
      if (problem !== undefined) this.fail(problem);
    } else if (this.#state !== END) this.fail("truncated");
  }
}
