// The answer of the sidecar itself to a gRPC call: status, message and google.rpc.Status in fields, over HTTP 200 (DOMAIN
// 2.10; gRPC over HTTP/2, "Trailers-Only").
import { grpcCodeOf, grpcStatusFields } from "../core/http/grpc-status.ts";
import { proxyStatus } from "../core/http/problem.ts";
import type { Reason } from "../core/policy/reason.ts";
import type { FieldCache } from "../wire/field-cache.ts";
import type { CallFacts } from "./call-facts.ts";
import type { CallerSide, CallerStream } from "./caller-side.ts";
import { problemInput } from "./problem-input.ts";

interface GrpcEnd {
  readonly peer: CallerSide;
  readonly stream: CallerStream;
  readonly facts: CallFacts;
  readonly reason: Reason;
}

/** Writes the whole answer, which is a head alone, and ends the stream's sending side. */
export function writeGrpcProblem(
  end: GrpcEnd & { readonly cache: FieldCache; readonly retryAfterMs: number | undefined },
): void {
  const { peer, stream, facts, reason, retryAfterMs } = end;
  const { answers } = peer;
  facts.status = 200;
  facts.grpcStatus = grpcCodeOf(reason);
  answers.beginHeaders(stream);
  answers.putStatus(200);
  answers.putField(end.cache.get("content-type", "application/grpc"));
  for (const [name, value] of grpcStatusFields(problemInput(facts, peer, reason), retryAfterMs))
    answers.putPair(name, value);
  const target = facts.enforcement?.target;
  answers.putPair("proxy-status", proxyStatus(reason, facts.decisionId, facts.error, target));
  answers.endHeaders(true);
}

/** Ends an answer that has begun, with trailers that say why it goes no further. */
export function writeGrpcEnd({ peer, stream, facts, reason }: GrpcEnd): void {
  const { answers } = peer;
  facts.grpcStatus = grpcCodeOf(reason);
  answers.beginHeaders(stream);
  for (const [name, value] of grpcStatusFields(problemInput(facts, peer, reason)))
    answers.putPair(name, value);
  answers.endHeaders(true);
}
