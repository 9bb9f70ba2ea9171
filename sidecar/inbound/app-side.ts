// The application behind the sidecar, as an exchange sees it: something to take a place for one request from, over
// HTTP/1.1 (app-http1.ts) or HTTP/2 (app-http2.ts). Exchanges know neither version.
import type { Field } from "../wire/field.ts";
import type { CallFacts } from "./call-facts.ts";

/** The head of an answer of the application. */
export interface AnswerHead {
  readonly status: number;
  /** As received; those of framing, of one hop, and pseudo-headers are told by their flags. */
  readonly fields: readonly Field[];
  /** -1: not announced. */
  readonly contentLength: number;
  /** Lower-case names that belong to the application's connection. */
  readonly connectionNames: readonly string[];
}

/**
 * `reset`: the application ended this request alone, with a code of RFC 9113 section 7. `upgrade`: it speaks HTTP/2 without
 * extended CONNECT (RFC 8441), and was asked for nothing.
 */
export type AppFailure = "connect" | "closed" | "protocol" | "timeout" | "reset" | "upgrade";

/**
 * What may be done again after a failure: everything when the application certainly did not look at the request,
 * idempotent requests when it closed a kept connection without a byte of an answer, otherwise nothing.
 */
export type Repeatable = "all" | "idempotent" | "nothing";

/** What an exchange is told by the application's side. Exactly one of `onAppEnd` and `onAppFailed` comes last. */
export interface AppExchange {
  readonly method: string;
  /** What the connection is to be turned into; empty: nothing. After `onAppSwitched` both directions are bytes. */
  readonly upgrade: string;
  /** The place is there: write the request now. Comes again for a retry. */
  onAppReady(place: AppPlace): void;
  /** A 1xx answer; never 101. */
  onAppInformational(head: AnswerHead): void;
  /** The application agreed to the upgrade that was asked for: in place of `onAppHead`. */
  onAppSwitched(head: AnswerHead): void;
  /**
   * @param head never 101.
   * @param ended whether the answer ends with it, as HTTP/2 says; undefined: its length and status say so. `onAppEnd` comes
   *   in any case.
   */
  onAppHead(head: AnswerHead, ended: boolean | undefined): void;
  /** @param chunk never empty. */
  onAppBody(chunk: Buffer): void;
  onAppEnd(trailers: readonly Field[]): void;
  /** The place is not congested any more. */
  onAppDrain(): void;
  /** @param code of a reset; 0 otherwise. */
  onAppFailed(kind: AppFailure, detail: string, repeatable: Repeatable, code: number): void;
}

/** The place of one request. After `release`, `abandon` or `onAppFailed` it is not to be used again. */
export interface AppPlace {
  /** Writes the request's head: framing, host and identity headers are ours. */
  sendHead(facts: CallFacts): void;
  sendBody(chunk: Buffer): void;
  /** The request is complete. */
  sendEnd(trailers: readonly Field[]): void;
  /** The application does not keep up: no more body until `onAppDrain`. */
  readonly congested: boolean;
  /** Something moved: the response timeout starts again. @param nowMs monotonic. */
  touch(nowMs: number): void;
  pauseResponse(): void;
  resumeResponse(): void;
  /** The caller wants no more of it. */
  abandon(): void;
  /** The answer is complete. @param requestSent whether the whole request was written; @param nowMs monotonic. */
  release(requestSent: boolean, nowMs: number): void;
}

/** One port of the application. */
export interface AppSide {
  /**
   * Gives an exchange a place, which is ready now or later (`onAppReady`).
   *
   * @param fresh true: on a connection that was not used before.
   * @param nowMs monotonic. Here and below: reading the clock costs 60 ns, so those who have read it say what it was.
   * @returns undefined at the limit.
   */
  take(exchange: AppExchange, fresh: boolean, nowMs: number): AppPlace | undefined;
  /** Ends what took too long. */
  sweep(nowMs: number): void;
  close(): void;
}
