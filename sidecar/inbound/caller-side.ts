// The connection that a request came on, as its exchange sees it: who is at the other end, and how answers are written.
// HTTP/2 over mutual TLS from another sidecar (peer-connection.ts), or HTTP/1.1 (http1-connection.ts).
import type { CompiledProgram } from "../core/policy/decide.ts";
import type { HeaderLookup } from "../core/policy/mcp.ts";
import type { Field } from "../wire/field.ts";
import type { Enforcement } from "./authorize.ts";
import type { InboundExchange } from "./exchange.ts";
import type { IdentifiedCaller, IdentityRefusal, ShownTokens } from "./verify.ts";

/** The place of one request on its connection. */
export interface CallerStream {
  context: InboundExchange | undefined;
}

/** Writes answers: the part of `Http2Connection` that an exchange uses, also over HTTP/1.1. */
export interface AnswerWriter {
  /** Begins an informational or final head, or the trailers; its fields follow, then `endHeaders`. */
  beginHeaders(stream: CallerStream): void;
  putStatus(status: number): void;
  putField(field: Field): void;
  putPair(name: string, value: string): void;
  endHeaders(endStream: boolean): void;
  /** @returns false: stop until `onPeerWritable`. */
  sendData(stream: CallerStream, chunk: Buffer, endStream: boolean): boolean;
  /** The exchange has passed on `bytes` of the request's body. */
  consumed(stream: CallerStream, bytes: number): void;
  /** With NO_ERROR after a whole answer: the rest of the request is not wanted. */
  resetStream(stream: CallerStream, code: number): void;
}

export interface CallerSide {
  readonly answers: AnswerWriter;
  readonly remoteAddress: string | undefined;
  /** SPIFFE ID of the peer, or `plaintext`; for logs. */
  readonly name: string;
  /** The application's port that the connection was made to; undefined: each request names one. */
  readonly port: number | undefined;
  /** What decides on calls of this peer; undefined: it needs an identity. */
  programOf(enforcement: Enforcement): CompiledProgram | undefined;
  /** @param bundleEpoch of the bundle in force. */
  identify(shown: ShownTokens, bundleEpoch: string, nowMs: number): IdentifiedCaller | IdentityRefusal;
  /** The peer by its connection alone, for denials that come before or instead of a verified proof. */
  byConnection(nowMs: number): IdentifiedCaller | undefined;
  /** Looks fields up by name until it is called again. */
  lookup(fields: readonly Field[]): HeaderLookup;
  countBadProof(): void;
  /** The exchange is over. */
  finished(exchange: InboundExchange): void;
}
