// The connection that a request came on, as its exchange sees it: who is at the other end, and how answers are written.
// HTTP/2 over mutual TLS from another sidecar (peer-connection.ts), or HTTP/1.1 (http1-connection.ts).
import type { CompiledProgram } from "../core/policy/decide.ts";
import type { HeaderLookup } from "../core/policy/mcp.ts";
import type { AnswerWriter } from "../wire/answers.ts";
import type { Field } from "../wire/field.ts";
import type { Slotted } from "../wire/slot-list.ts";
import type { Enforcement } from "./authorize.ts";
import type { IdentifiedCaller, IdentityRefusal, ShownTokens } from "./verify.ts";

/** A request, or a connection that is passed on unseen, as the connection it came on sees it. */
export interface InboundStream extends Slotted {
  onRequestBody(chunk: Buffer, endStream: boolean): void;
  onRequestTrailers(fields: readonly Field[]): void;
  onPeerWritable(): void;
  /** The caller reset the stream or its connection is gone. */
  onPeerGone(): void;
  /** Ends what took too long. @param nowMs monotonic. */
  sweep(nowMs: number): void;
  /** Table or time changed: ends with what can still be said when it is not allowed any more. */
  redecide(): void;
}

/** The place of one request on its connection. */
export interface CallerStream {
  context: InboundStream | undefined;
}

export interface CallerSide {
  readonly answers: AnswerWriter<CallerStream>;
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
  /** An upgrade is asked for by extended CONNECT (RFC 8441): bytes may come before its answer, and a 2xx agrees to it. */
  readonly upgradesByConnect: boolean;
  /** Agrees to an upgrade: from now on both directions are bytes. @param fields of the answer that may go on. */
  switchTo(stream: CallerStream, upgrade: string, fields: readonly Field[]): void;
  /** The exchange is over. @param nowMs monotonic. */
  finished(stream: InboundStream, nowMs: number): void;
}
