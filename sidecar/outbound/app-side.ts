// The application in front of the sidecar, as an exchange sees it: the connection that its request came on, over HTTP/1.1
// (app-side-connection.ts) or HTTP/2 (app-http2-connection.ts). Exchanges know neither version.
import type { HeaderLookup } from "../core/policy/mcp.ts";
import type { AnswerWriter } from "../wire/answers.ts";
import type { Field } from "../wire/field.ts";
import type { OutboundExchange } from "./exchange.ts";

/** The head of a request. */
export interface OutboundHead {
  readonly method: string;
  /** Path and query as received, or `*`. */
  readonly target: string;
  /** Empty: the request names no host, which HTTP/1.0 may. */
  readonly authority: string;
  /** As received; those of framing, of one hop, and pseudo-headers are told by their flags. */
  readonly fields: readonly Field[];
  /** What the connection is asked to be turned into. */
  readonly upgrade: string | undefined;
  /** Lower-case names that belong to the application's connection. */
  readonly connectionNames: readonly string[];
}

/** The place of one request on its connection. */
export interface AppStream {
  context: OutboundExchange | undefined;
}

export interface AppSide {
  /** Tells the callee what its application is expected to speak on a port that declares nothing. */
  readonly protocol: "http" | "h2c";
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
  switchTo(upgrade: string, fields: readonly Field[]): void;
  /** The exchange is over. @param requestEnded whether all of the request had arrived. */
  finished(exchange: OutboundExchange, requestEnded: boolean): void;
}
