// PURE. HTTP/1.1 messages out of bytes, strict and never repairing (RFC 9112): the two roles on top of the machine that they
// share. All types that an owner needs can be had here.
import { MeshError } from "../../core/runtime/errors.ts";
import type { FieldCache } from "../field-cache.ts";
import { END, HEAD, Http1Parser, type Next, OPAQUE } from "./machine.ts";
import type { Http1Handler, Http1Limits, RequestHead, ResponseHead } from "./message.ts";
import type { Http1ProblemCode } from "./problem.ts";
import { MAX_METHOD_BYTES, parseRequestHead, VERSION_BYTES } from "./request-head.ts";
import { isBodiless, parseResponseHead } from "./response-head.ts";

export type { Http1Handler, Http1Limits, RequestHead, ResponseHead } from "./message.ts";
export type { Http1Problem, Http1ProblemCode } from "./problem.ts";

/** More 1xx answers than this before the final one are an attack or a loop. */
const MAX_INFORMATIONAL = 32;
/** Characters of a first line that each connection may keep to compare the next with. */
const MAX_KEPT_LINE = 2_048;

/** Reads requests. It pauses by itself after each one, so a pipelined request is held until `resume`. */
export class RequestParser extends Http1Parser<RequestHead> {
  #emptyLineSeen = false;
  /** The head that came last with the fields of the one before, and its first line. */
  #last: RequestHead | undefined;
  #lastLine = "";

  /**
   * @param cache shared by all parsers of the process.
   * @param limits those not given have the values of `DEFAULT_HTTP1_LIMITS`.
   */
  constructor(handler: Http1Handler<RequestHead>, cache: FieldCache, limits: Partial<Http1Limits> = {}) {
    super(handler, cache, limits, ({ targetBytes }) => {
      return { bytes: MAX_METHOD_BYTES + 1 + targetBytes + VERSION_BYTES, problem: "target_too_long" };
    });
  }

  /** Makes everything from the next `resume` on opaque (101, a tunnel); call it after `onEnd`. False: not between messages. */
  tunnel(): boolean {
    return this.makeOpaque();
  }

  protected mayBegin(): boolean {
    return true;
  }

  protected head(
    text: string,
    bytes: Buffer,
    offset: number,
    repeated: boolean,
  ): RequestHead | Http1ProblemCode {
    // The same head as before says the same.
    if (repeated && this.#last !== undefined && text === this.#lastLine) return this.#last;
    const head = parseRequestHead(text, bytes, offset, this.reader, this.limits, repeated);
    const isKept = repeated && typeof head !== "string" && text.length <= MAX_KEPT_LINE;
    this.#last = isKept ? head : undefined;
    this.#lastLine = isKept ? text : "";
    return head;
  }

  protected next(head: RequestHead): Next {
    this.#emptyLineSeen = false;
    if (head.chunked) return this.chunkedBody();
    return this.fixedBody(Math.max(0, head.contentLength));
  }

  protected report(head: RequestHead): void {
    this.handler.onHead(head);
  }

  /** One empty line before a request line is ignored (RFC 9112 section 2.2), a second is not. */
  protected emptyLine(): Http1ProblemCode | undefined {
    if (this.#emptyLineSeen) return "bad_request_line";
    this.#emptyLineSeen = true;
    return undefined;
  }

  protected over(_more: boolean): void {
    this.pause();
  }

  protected endBetween(): undefined {
    return undefined;
  }
}

/** Reads responses, each announced by `expect`; bytes that answer no request are a problem, never the next response. */
export class ResponseParser extends Http1Parser<ResponseHead> {
  #method: string | undefined;
  #informational = 0;
  #stale = false;
  /** The final head that came last with the fields of the one before, its first line and what it answered. */
  #last: ResponseHead | undefined;
  #lastLine = "";
  #lastMethod = "";

  /** @param cache and limits as for requests. */
  constructor(handler: Http1Handler<ResponseHead>, cache: FieldCache, limits: Partial<Http1Limits> = {}) {
    super(handler, cache, limits, ({ headBytes }) => ({ bytes: headBytes, problem: "head_too_large" }));
  }

  /**
   * Announces the response to a request that is being sent; needed before each response.
   *
   * @throws MeshError protocol_error when the response before is still outstanding.
   */
  expect(method: string): void {
    if (this.#method !== undefined) throw new MeshError("protocol_error", "a response is still outstanding");
    this.#method = method;
    this.#informational = 0;
  }

  /** As for requests; false also when bytes behind the last response are here: that connection must not be used again. */
  override get idle(): boolean {
    return super.idle && !this.#stale && this.#method === undefined;
  }

  protected mayBegin(): boolean {
    return this.#method !== undefined && !this.#stale;
  }

  protected head(
    text: string,
    _bytes: Buffer,
    _offset: number,
    repeated: boolean,
  ): ResponseHead | Http1ProblemCode {
    const method = this.#method ?? "";
    // The same head as before says the same: most answers of a second differ in nothing.
    if (repeated && this.#last !== undefined && text === this.#lastLine && method === this.#lastMethod)
      return this.#last;
    const head = parseResponseHead(text, method, this.reader, this.limits, repeated);
    this.#last = undefined;
    this.#lastLine = "";
    if (typeof head === "string") return head;
    if (head.status < 200 && head.status !== 101) {
      this.#informational++;
      return this.#informational > MAX_INFORMATIONAL ? "too_many_informational" : head;
    }
    if (repeated && text.length <= MAX_KEPT_LINE) {
      this.#last = head;
      this.#lastLine = text;
      this.#lastMethod = method;
    }
    return head;
  }

  protected next(head: ResponseHead): Next {
    if (head.status < 200 && head.status !== 101) return HEAD;
    if (head.untilClose) return OPAQUE;
    if (isBodiless(head.status, this.#method ?? "")) return END;
    return head.chunked ? this.chunkedBody() : this.fixedBody(head.contentLength);
  }

  protected report(head: ResponseHead): void {
    if (head.status < 200 && head.status !== 101) this.handler.onInformational?.(head);
    else this.handler.onHead(head);
  }

  protected emptyLine(): Http1ProblemCode {
    return "bad_status_line";
  }

  protected over(more: boolean): void {
    this.#method = undefined;
    this.#stale = more;
  }

  protected endBetween(): Http1ProblemCode | undefined {
    return this.#method === undefined ? undefined : "closed_before_response";
  }
}
