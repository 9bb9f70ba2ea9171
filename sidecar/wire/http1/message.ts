// PURE. The parts of an HTTP/1.1 message as the parser tells them, and its limits.
import type { Field } from "../field.ts";
import type { Http1Problem } from "./problem.ts";

/** Limits of one message, all in bytes but `fields`. */
export interface Http1Limits {
  /** Request or status line and all field lines with their line ends; more is 431. */
  readonly headBytes: number;
  /** Field lines in a head, and again in a trailer section; more is 431. */
  readonly fields: number;
  /** Request target; more is 414. */
  readonly targetBytes: number;
  /** All chunk extensions of one message together. */
  readonly chunkExtensionBytes: number;
  readonly trailerBytes: number;
}

export const DEFAULT_HTTP1_LIMITS: Http1Limits = {
  headBytes: 16_384,
  fields: 100,
  targetBytes: 8192,
  chunkExtensionBytes: 4096,
  trailerBytes: 8192,
};

/** A request head that broke no rule. */
export interface RequestHead {
  readonly method: string;
  /** Origin-form (path and query, as received), `*`, or the authority of CONNECT. */
  readonly target: string;
  /** The Host field, or the authority of an absolute-form or CONNECT target; empty for HTTP/1.0 without Host. */
  readonly authority: string;
  /** Whether the target came in absolute-form, as proxies get it. */
  readonly absolute: boolean;
  readonly minor: 0 | 1;
  /** In the order received, Host and framing fields included (their flags tell them). */
  readonly fields: readonly Field[];
  /** -1: no Content-Length. */
  readonly contentLength: number;
  readonly chunked: boolean;
  readonly keepAlive: boolean;
  /** `Expect: 100-continue` on HTTP/1.1. Any other expectation is the owner's to refuse; the field is in `fields`. */
  readonly expectContinue: boolean;
  /** Value of Upgrade when Connection names it. */
  readonly upgrade: string | undefined;
  /** Lower-case names that Connection lists besides `close` and `keep-alive`: not to be forwarded. */
  readonly connectionNames: readonly string[];
}

/** A response head that broke no rule. */
export interface ResponseHead {
  readonly status: number;
  readonly reason: string;
  readonly minor: 0 | 1;
  readonly fields: readonly Field[];
  /** -1: no Content-Length. For HEAD and 304 it describes a body that does not follow. */
  readonly contentLength: number;
  readonly chunked: boolean;
  /** The body ends with the connection; also set for 101 and a 2xx to CONNECT, where opaque bytes follow. */
  readonly untilClose: boolean;
  readonly keepAlive: boolean;
  /** Value of Upgrade when Connection names it (101, 426). */
  readonly upgrade: string | undefined;
  readonly connectionNames: readonly string[];
}

/** Where a parser reports. Callbacks come in the order of the bytes, all from inside `push`, `resume` or `eof`. */
export interface Http1Handler<H> {
  onHead(head: H): void;
  /** Responses only: 1xx except 101. */
  onInformational?(head: H): void;
  /** @param chunk a view of what was pushed: valid in the call only, so copy what is to stay. Never empty. */
  onBody(chunk: Buffer): void;
  onEnd(trailers: readonly Field[]): void;
  /** The parser is dead afterwards: it ignores everything. */
  onProblem(problem: Http1Problem): void;
}
