// How an exchange writes its answer, whatever the connection speaks: an HTTP/2 connection has these methods itself,
// `Http1Answers` (http1-answers.ts) imitates them over HTTP/1.1.
import type { Field } from "./field.ts";

/** @typeParam S the place of one request on its connection, as its exchange got it. */
export interface AnswerWriter<S> {
  /** Begins an informational or final head, or the trailers; its fields follow, then `endHeaders`. */
  beginHeaders(stream: S): void;
  putStatus(status: number): void;
  putField(field: Field): void;
  putPair(name: string, value: string): void;
  endHeaders(endStream: boolean): void;
  /** @returns false: stop until the exchange is told that there is room. */
  sendData(stream: S, chunk: Buffer, endStream: boolean): boolean;
  /** The exchange has passed on `bytes` of the request's body. */
  consumed(stream: S, bytes: number): void;
  /** With NO_ERROR after a whole answer: the rest of the request is not wanted. */
  resetStream(stream: S, code: number): void;
}
