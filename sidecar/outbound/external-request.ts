// The head of a request as a host outside the mesh gets it over HTTP/1.1: the application's fields without what belongs to
// its hop, and nothing of the mesh but the trace.
import { WEBSOCKET_HOP_FIELDS } from "../core/http/websocket.ts";
import { FieldFlag } from "../wire/field.ts";
import { CHUNKED_LINE, requestLine } from "../wire/http1/serializer.ts";
import type { OutboundHead } from "./app-side.ts";
import type { HostHandshake } from "./external-upgrade.ts";
import { STRIPPED } from "./mesh-request.ts";

/** What a host is to be asked. */
export interface HostRequest {
  readonly head: OutboundHead;
  /** Of the URL: without the port where it is that of `https`. */
  readonly authority: string;
  /** Of a WebSocket that is asked for. */
  readonly handshake: HostHandshake | undefined;
  /** The head is all there is. */
  readonly bodyless: boolean;
  readonly traceparent: string;
}

/** The head of the request, and whether its body goes in chunks. */
export function http1Request(request: HostRequest): { readonly text: string; readonly isChunked: boolean } {
  const { handshake } = request;
  const { method, target, fields, connectionNames } = request.head;
  let text = `${requestLine(method, target)}host: ${request.authority}\r\n`;
  let hasLength = false;
  for (const field of fields) {
    if (handshake !== undefined && (field.name === "content-length" || WEBSOCKET_HOP_FIELDS.has(field.name)))
      continue;
    if (field.name === "content-length") {
      hasLength = true;
      text += field.line;
    }
    if ((field.flags & (STRIPPED | FieldFlag.methodOverride)) !== 0) continue;
    if (connectionNames.includes(field.name) || field.name === "traceparent") continue;
    text += field.line;
  }
  const isChunked = handshake === undefined && !request.bodyless && !hasLength;
  if (handshake !== undefined) text += handshake.lines;
  else if (isChunked) text += CHUNKED_LINE;
  return { text: `${text}traceparent: ${request.traceparent}\r\n\r\n`, isChunked };
}
