// The application in front of the sidecar, as an exchange sees it: the connection that its request came on, over HTTP/1.1
// (app-side-connection.ts) or HTTP/2 (app-http2-connection.ts). Exchanges know neither version.
import type { HeaderLookup } from "../core/policy/mcp.ts";
import type { AnswerWriter } from "../wire/answers.ts";
import type { Field } from "../wire/field.ts";
import type { AppSlotted } from "./app-exchanges.ts";
import type { FixedDestination } from "./resolve.ts";

/** The head of a request. */
export interface OutboundHead {
  readonly method: string;
  /** Path and query as received, or `*`. */
  readonly target: string;
  /** Empty: the request names no host, which HTTP/1.0 may. */
  readonly authority: string;
  /** The request named its host in its target too (RFC 9112 section 3.2.2), as clients do that take us for a proxy. */
  readonly absolute?: boolean;
  /** As received; those of framing, of one hop, and pseudo-headers are told by their flags. */
  readonly fields: readonly Field[];
  /** What the connection is asked to be turned into. */
  readonly upgrade: string | undefined;
  /** Lower-case names that belong to the application's connection. */
  readonly connectionNames: readonly string[];
}

/** One request, as the connection that it came on sees it: by itself an exchange with the mesh (exchange.ts). */
export interface AppExchange extends AppSlotted {
  readonly head: OutboundHead;
  /** Monotonic milliseconds after which `timeOut` is due. */
  readonly deadlineMs: number;
  /**
   * @param fixed what a local listener or a captured connection means; undefined on the proxy port.
   * @param bodyless known with the head: no body follows.
   */
  start(fixed: FixedDestination | undefined, bodyless: boolean): void;
  onRequestBody(chunk: Buffer, endStream: boolean): void;
  /** The request is complete. */
  onRequestTrailers(trailers: readonly Field[]): void;
  /**
   * The rest of the request cannot be read.
   *
   * @returns whether the application was told; false: an answer had begun, only the end of the connection says it.
   */
  onRequestMalformed(detail: string): boolean;
  /** The application went away. */
  onAppGone(detail: string): void;
  /** The application takes bytes again. */
  onAppDrain(): void;
  timeOut(): void;
}

/** Makes what answers a request; the connection starts it. */
export type CreateExchange = (app: AppSide, stream: AppStream, head: OutboundHead) => AppExchange;

/** The place of one request on its connection. */
export interface AppStream {
  context: AppExchange | undefined;
}

export interface AppSide {
  /** Tells the callee what its application is expected to speak on a port that declares nothing. */
  readonly protocol: "http" | "h2c";
  /** The request came over HTTP/2: an upgrade is an extended CONNECT there, without a key of its own (RFC 8441). */
  readonly isHttp2: boolean;
  readonly answers: AnswerWriter<AppStream>;
  /** Looks fields up by name until it is called again. */
  lookup(fields: readonly Field[]): HeaderLookup;
  /** The answer that is written next comes before the end of its request, which nobody will read. */
  closeAfterAnswer(): void;
  /**
   * The connection becomes what its request asked for: from now on bytes, no messages.
   *
   * @param fields of the answer, those of the hop left out.
   */
  switchTo(stream: AppStream, upgrade: string, fields: readonly Field[]): void;
  /** The exchange is over. @param requestEnded whether all of the request had arrived; @param nowMs monotonic, if it is known. */
  finished(exchange: AppExchange, requestEnded: boolean, nowMs?: number): void;
}
