// The head of a request as a host outside the mesh gets it: the application's fields without what belongs to its hop, and
// nothing of the mesh but the trace.
import { formatGrpcTimeout } from "../core/http/grpc.ts";
import { WEBSOCKET_HOP_FIELDS } from "../core/http/websocket.ts";
import { createField, type Field, FieldFlag } from "../wire/field.ts";
import type { FieldCache } from "../wire/field-cache.ts";
import { CHUNKED_LINE, requestLine } from "../wire/http1/serializer.ts";
import type { OutboundHead } from "./app-side.ts";
import type { HostHandshake } from "./external-upgrade.ts";
import { STRIPPED } from "./mesh-request.ts";

/** What a host is to be asked. */
export interface HostRequest {
  readonly head: OutboundHead;
  /** Of the URL: without the port where it is that of the scheme. */
  readonly authority: string;
  /** Of a WebSocket that is asked for. */
  readonly handshake: HostHandshake | undefined;
  /** The head is all there is. */
  readonly bodyless: boolean;
  readonly traceparent: string;
  /** Of a gRPC call: what is left of its time, milliseconds; infinite: it has no end. */
  readonly grpcLeftMs: number;
}

const TE: Field = createField("te", "trailers");

/** What does not go on as it came, whatever the host speaks. */
function isDropped(field: Field, { head }: HostRequest): boolean {
  return (
    (field.flags & (STRIPPED | FieldFlag.methodOverride)) !== 0 ||
    head.connectionNames.includes(field.name) ||
    field.name === "traceparent"
  );
}

/** The head of the request over HTTP/1.1, and whether its body goes in chunks. */
export function http1Request(request: HostRequest): { readonly text: string; readonly isChunked: boolean } {
  const { handshake } = request;
  const { method, target, fields } = request.head;
  let text = `${requestLine(method, target)}host: ${request.authority}\r\n`;
  let hasLength = false;
  // HTTP/2 may have them apart, HTTP/1.1 may not (RFC 9113 section 8.2.3).
  let cookies = "";
  for (const field of fields) {
    if (handshake !== undefined && (field.name === "content-length" || WEBSOCKET_HOP_FIELDS.has(field.name)))
      continue;
    if (field.name === "content-length") {
      hasLength = true;
      text += field.line;
    }
    if (isDropped(field, request)) continue;
    if (field.name === "cookie") cookies += cookies === "" ? field.value : `; ${field.value}`;
    else text += field.line;
  }
  if (cookies !== "") text += `cookie: ${cookies}\r\n`;
  const isChunked = handshake === undefined && !request.bodyless && !hasLength;
  if (handshake !== undefined) text += handshake.lines;
  else if (isChunked) text += CHUNKED_LINE;
  return { text: `${text}traceparent: ${request.traceparent}\r\n\r\n`, isChunked };
}

interface HeadWriter {
  putField(field: Field): void;
  putPair(name: string, value: string): void;
}

/** Writes every field of the head over HTTP/2; no WebSocket is asked for there. */
export function writeHttp2Request(
  h2: HeadWriter,
  request: HostRequest,
  scheme: "http" | "https",
  cache: FieldCache,
): void {
  const { method, target, fields } = request.head;
  h2.putField(cache.get(":method", method));
  h2.putField(cache.get(":scheme", scheme));
  // Query strings differ from call to call and may hold secrets: never in a table.
  if (target.includes("?")) h2.putPair(":path", target);
  else h2.putField(cache.get(":path", target));
  h2.putField(cache.get(":authority", request.authority));
  const isTimed = request.grpcLeftMs !== Number.POSITIVE_INFINITY;
  for (const field of fields) {
    if (field.name === "content-length") h2.putField(field);
    else if (field.name === "te" && field.value === "trailers") h2.putField(TE);
    else if (!isDropped(field, request) && !(isTimed && field.name === "grpc-timeout")) h2.putField(field);
  }
  if (isTimed) h2.putPair("grpc-timeout", formatGrpcTimeout(request.grpcLeftMs));
  h2.putPair("traceparent", request.traceparent);
}
