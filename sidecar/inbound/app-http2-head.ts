// The head of a request as an application that speaks HTTP/2 gets it: fields as objects, so that HPACK writes what repeats
// in one or two bytes. Says the same as the HTTP/1.1 head of `forwarded-heads.ts`.
import { formatGrpcTimeout } from "../core/http/grpc.ts";
import { WEBSOCKET, WEBSOCKET_HOP_FIELDS } from "../core/http/websocket.ts";
import { createField, type Field, FieldFlag } from "../wire/field.ts";
import type { FieldCache } from "../wire/field-cache.ts";
import type { CallFacts } from "./call-facts.ts";
import { identityFields } from "./identity-fields.ts";
import { type RequestHead, STRIPPED } from "./request-head.ts";

interface HeadWriter {
  putField(field: Field): void;
  putPair(name: string, value: string): void;
}

const LINE_END = "\r\n";
const SCHEME: Field = createField(":scheme", "http");
const TE: Field = createField("te", "trailers");

/**
 * Writes every field of the head.
 *
 * @param nowMs monotonic milliseconds: a deadline goes on with what is left of it.
 */
export function writeAppHead(h2: HeadWriter, facts: CallFacts, cache: FieldCache, nowMs: number): void {
  const { head } = facts;
  const { target } = head;
  h2.putField(cache.get(":method", head.upgrade === "" ? head.method : "CONNECT"));
  // RFC 8441 section 4.
  if (head.upgrade !== "") h2.putField(cache.get(":protocol", head.upgrade));
  h2.putField(SCHEME);
  // Query strings differ from call to call and may hold secrets: never in a table.
  if (target.includes("?")) h2.putPair(":path", target);
  else h2.putField(cache.get(":path", target));
  h2.putField(cache.get(":authority", head.authority));
  if (head.isChanged) putLines(h2, head, cache);
  else putFields(h2, head);
  if (head.contentLength >= 0) h2.putField(cache.get("content-length", String(head.contentLength)));
  if (head.takesTrailers) h2.putField(TE);
  if (head.grpcTimeoutMs >= 0)
    h2.putPair("grpc-timeout", formatGrpcTimeout(facts.startedMs + head.grpcTimeoutMs - nowMs));
  for (const [name, value] of identityFields(facts)) h2.putPair(name, value);
}

/** What `RequestHead.lines` was made of. */
function putFields(h2: HeadWriter, head: RequestHead): void {
  const { fields } = head;
  for (let i = 0; i < fields.length; i++) {
    const field = fields[i];
    if (field === undefined || (field.flags & STRIPPED) !== 0) continue;
    if (head.upgrade === WEBSOCKET && WEBSOCKET_HOP_FIELDS.has(field.name)) continue;
    if ((field.flags & FieldFlag.neverIndex) !== 0) {
      const { name } = field;
      if (name === "grpc-timeout" && head.grpcTimeoutMs >= 0) continue;
      // A trace of ours replaces what could not be read, and what belonged to it.
      if (head.ownTrace && (name === "traceparent" || name === "tracestate")) continue;
    }
    h2.putField(field);
  }
  if (head.ownTrace) h2.putPair("traceparent", head.traceparent);
}

/** Lines that a policy has changed. */
function putLines(h2: HeadWriter, head: RequestHead, cache: FieldCache): void {
  for (const line of head.lines.split(LINE_END)) {
    const colon = line.indexOf(": ");
    const name = line.slice(0, colon);
    if (colon <= 0 || (name === "grpc-timeout" && head.grpcTimeoutMs >= 0)) continue;
    h2.putField(cache.get(name, line.slice(colon + 2)));
  }
}
