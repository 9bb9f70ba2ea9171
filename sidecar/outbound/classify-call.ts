// What is read of the application's request before it goes anywhere: its trace, its deadline, its token; and, once its
// destination is known, which operation it asks for there.
import { parseGrpcTimeout } from "../core/http/grpc.ts";
import { joinedField } from "../core/http/headers.ts";
import { isWebSocketKey, WEBSOCKET } from "../core/http/websocket.ts";
import type { Classified } from "../core/policy/classified.ts";
import type { Result } from "../core/runtime/errors.ts";
import type { RandomIds } from "../telemetry/random-ids.ts";
import { createTraceparent, isTraceparent } from "../telemetry/trace.ts";
import { FieldFlag } from "../wire/field.ts";
import type { AppSide } from "./app-side.ts";
import type { CallFacts } from "./call-facts.ts";
import { type OutboundRefusal, refused } from "./locate.ts";
import { labelOf } from "./operation-label.ts";
import type { Destination } from "./resolve.ts";

/** First of all, so that a refusal is recorded under its trace too. @param ids of a trace that begins here. */
export function readFields(facts: CallFacts, ids: RandomIds): void {
  const { fields } = facts.head;
  let traces = 0;
  for (let i = 0; i < fields.length; i++) {
    const field = fields[i];
    if (field === undefined || (field.flags & FieldFlag.neverIndex) === 0) continue;
    if (field.name === "authorization") {
      if (facts.authorization !== undefined) facts.malformed = "there is more than one Authorization field";
      facts.authorization = field.value;
    } else if (field.name === "traceparent") {
      traces++;
      facts.traceparent = traces === 1 && isTraceparent(field.value) ? field.value : undefined;
    } else if (field.name === "grpc-timeout" && facts.isGrpc) readTimeout(facts, field.value);
  }
  if (facts.traceparent !== undefined) return;
  // None, a broken one, or two of them: a new trace begins here (W3C Trace Context section 3.2).
  facts.traceparent = createTraceparent(ids);
  facts.ownTrace = true;
}

function readTimeout(facts: CallFacts, text: string): void {
  const timeoutMs = parseGrpcTimeout(text);
  if (timeoutMs === undefined || facts.timeoutMs !== Number.POSITIVE_INFINITY)
    facts.malformed = "the grpc-timeout is malformed";
  else facts.timeoutMs = timeoutMs;
}

/**
 * Finds the operation that a call asks for, and puts it into the facts.
 *
 * @returns why the call cannot go there; undefined: nothing is against it.
 */
export function classifyCall(
  facts: CallFacts,
  app: Pick<AppSide, "isHttp2" | "lookup">,
  destination: Destination,
): OutboundRefusal | undefined {
  const { protocol } = destination.port;
  if (protocol === "tcp" || protocol === "tls")
    return refused("UNSUPPORTED", `requests are not carried to a port of protocol \`${protocol}\``);
  if (facts.upgrade === WEBSOCKET && !app.isHttp2) {
    const key = joinedField(facts.head.fields, "sec-websocket-key") ?? "";
    if (!isWebSocketKey(key))
      return refused("REQ_MALFORMED", "the handshake has no Sec-WebSocket-Key of 16 bytes");
  }
  const classified = classifyFor(facts, app, destination);
  if (!classified.ok) return refused("REQ_MALFORMED", classified.error);
  facts.classified = classified.value;
  facts.operation = labelOf(classified.value);
  return undefined;
}

/** What the call would ask for at a destination. */
export function classifyFor(
  facts: CallFacts,
  app: Pick<AppSide, "lookup">,
  destination: Destination,
): Result<Classified, string> {
  const { head, upgrade } = facts;
  return destination.classifier.classify({
    method: head.method,
    websocket: upgrade !== "",
    target: head.target,
    contentType: joinedField(head.fields, "content-type"),
    header: app.lookup(head.fields),
    corsMethod:
      head.method === "OPTIONS" && facts.header("origin") !== undefined
        ? joinedField(head.fields, "access-control-request-method")
        : undefined,
  });
}
