// PURE. HTTP/1.1 messages out of bytes, for both roles (RFC 9112): strict, never repairing. Stub until implemented.
import { MeshError } from "../../core/runtime/errors.ts";
import type { FieldCache } from "../field-cache.ts";
import {
  DEFAULT_HTTP1_LIMITS,
  type Http1Handler,
  type Http1Limits,
  type RequestHead,
  type ResponseHead,
} from "./message.ts";

export type { Http1Handler, Http1Limits, RequestHead, ResponseHead } from "./message.ts";
export type { Http1Problem, Http1ProblemCode } from "./problem.ts";

class Http1Parser<H> {
  readonly handler: Http1Handler<H>;
  readonly cache: FieldCache;
  readonly limits: Http1Limits;
  constructor(handler: Http1Handler<H>, cache: FieldCache, limits?: Partial<Http1Limits>) {
    this.handler = handler;
    this.cache = cache;
    this.limits = { ...DEFAULT_HTTP1_LIMITS, ...limits };
  }
  /** Between messages, nothing held: only then may a connection be reused or closed without loss. */
  get idle(): boolean {
    return true;
  }
  get heldBytes(): number {
    return 0;
  }
  push(_chunk: Buffer): void {
    throw new MeshError("unsupported", "the parser is not written yet");
  }
  pause(): void {}
  resume(): void {}
  eof(): void {}
  /** No further callback, whatever is held or pushed. */
  close(): void {}
}

export class RequestParser extends Http1Parser<RequestHead> {
  /** From the next `resume` on everything is opaque and goes to `onBody` (101, a tunnel). Call it after `onEnd`. */
  tunnel(): void {}
}

export class ResponseParser extends Http1Parser<ResponseHead> {
  expect(_method: string): void {}
}
