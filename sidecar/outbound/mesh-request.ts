// The head of a request as it crosses to the callee's sidecar: the application's fields without what belongs to its hop,
// with the proof of who asks for what.
import { randomBytes } from "node:crypto";
import { formatGrpcTimeout } from "../core/http/grpc.ts";
import { WEBSOCKET, WEBSOCKET_HOP_FIELDS } from "../core/http/websocket.ts";
import { COUNTERSIGN_PROTOCOL } from "../core/identity/claims.ts";
import { createField, type Field, FieldFlag } from "../wire/field.ts";
import type { FieldCache } from "../wire/field-cache.ts";
import type { Http2Connection } from "../wire/http2/connection.ts";
import type { ProofFields } from "./attach.ts";
import type { CallFacts } from "./call-facts.ts";
import type { Destination } from "./resolve.ts";
import type { UpstreamExchange } from "./upstream-connection.ts";

/** Fields that never go on as they came, in either direction. */
export const STRIPPED = FieldFlag.hopByHop | FieldFlag.framing | FieldFlag.identity | FieldFlag.pseudo;
const METHOD_FIELDS: ReadonlyMap<string, Field> = new Map(
  ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"].map((method) => [
    method,
    createField(":method", method),
  ]),
);
const GET: Field = METHOD_FIELDS.get("GET") ?? createField(":method", "GET");
const CONNECT: Field = createField(":method", "CONNECT");
const SCHEME: Field = createField(":scheme", "http");
const TE: Field = createField("te", "trailers");
const SPEAKS_HTTP2: Field = createField(COUNTERSIGN_PROTOCOL, "h2c");

type Writer = Pick<Http2Connection<UpstreamExchange | undefined>, "putField" | "putPair">;

/** What of a head depends on more than the call. */
interface HeadContext {
  readonly proof: ProofFields;
  readonly cache: FieldCache;
  /** What the application speaks. */
  readonly protocol: "http" | "h2c";
  /** What is left of the call's time, milliseconds; infinite: it has no end. */
  readonly leftMs: number;
}

/**
 * Writes every field of the head.
 *
 * @param facts of a call that has its destination.
 */
export function writeMeshHead(h2: Writer, facts: CallFacts, context: HeadContext): void {
  const { proof, cache, protocol, leftMs } = context;
  const { destination, ownTrace, traceparent, upgrade } = facts;
  const edit = facts.route?.requestEdit;
  if (destination === undefined) return;
  const { method, target, authority, fields, connectionNames } = facts.head;
  if (upgrade === "")
    h2.putField(method === "GET" ? GET : (METHOD_FIELDS.get(method) ?? cache.get(":method", method)));
  else {
    // RFC 8441 section 4.
    h2.putField(CONNECT);
    h2.putField(cache.get(":protocol", upgrade));
  }
  h2.putField(SCHEME);
  // Query strings differ from call to call and may hold secrets: never in a table.
  if (target.includes("?")) h2.putPair(":path", target);
  else h2.putField(destination.pathField(target));
  h2.putField(destination.authorityField(authority === "" ? hostOf(facts, destination) : authority, cache));
  // RFC 8441 needs none; a callee that is a proxy without our sidecar gives it to its application (Envoy does).
  if (upgrade === WEBSOCKET) h2.putPair("sec-websocket-key", randomBytes(16).toString("base64"));
  for (let i = 0; i < fields.length; i++) {
    const field = fields[i];
    if (field === undefined) continue;
    if ((field.flags & STRIPPED) === 0) {
      if (upgrade === WEBSOCKET && WEBSOCKET_HOP_FIELDS.has(field.name)) continue;
      // A trace of ours replaces what could not be used, and what belonged to it.
      if (
        ownTrace &&
        (field.flags & FieldFlag.neverIndex) !== 0 &&
        (field.name === "traceparent" || field.name === "tracestate")
      )
        continue;
      if (field.name === "grpc-timeout" && facts.isGrpc) continue;
      if (edit?.dropped.has(field.name) === true) continue;
      if (connectionNames.length === 0 || !connectionNames.includes(field.name)) h2.putField(field);
    } else if (field.name === "content-length" && upgrade === "") h2.putField(field);
    else if (field.name === "te" && field.value === "trailers") h2.putField(TE);
  }
  if (edit !== undefined) for (const field of edit.put) h2.putField(field);
  h2.putField(proof.wit);
  h2.putField(proof.wpt);
  if (proof.txn !== undefined) h2.putField(proof.txn);
  h2.putField(destination.portField);
  if (protocol === "h2c" && destination.port.protocol === "auto") h2.putField(SPEAKS_HTTP2);
  if (leftMs !== Number.POSITIVE_INFINITY && facts.isGrpc)
    h2.putPair("grpc-timeout", formatGrpcTimeout(leftMs));
  if (ownTrace && traceparent !== undefined) h2.putPair("traceparent", traceparent);
}

/** For a request of HTTP/1.0 without Host. */
function hostOf(facts: CallFacts, { service }: Destination): string {
  return facts.fixed?.kind === "address" ? facts.target() : service.id.replace("/", ".");
}
