// The answer of the caller's own sidecar: a problem document (RFC 9457), or a gRPC status, with Proxy-Status (RFC 9209).
import { grpcCodeOf, grpcStatusFields } from "../core/http/grpc-status.ts";
import { type ProblemInput, problemJson, proxyStatus } from "../core/http/problem.ts";
import type { AppSide, AppStream } from "./app-side.ts";
import type { CallFacts } from "./call-facts.ts";
import type { OutboundServices } from "./services.ts";

/**
 * Writes the whole answer to a refused call and ends the sending side of its stream.
 *
 * @param facts with reason and error; they get status, size and decision id.
 */
export function writeProblem(
  app: Pick<AppSide, "answers">,
  stream: AppStream,
  facts: CallFacts,
  services: OutboundServices,
): void {
  const { reason, head } = facts;
  facts.decisionId = services.trail.decisionId();
  const input = problemInput(facts, services);
  const status = proxyStatus(reason, facts.decisionId, facts.error, input.caller);
  const { answers } = app;
  if (facts.isGrpc) {
    facts.status = 200;
    facts.grpcStatus = grpcCodeOf(reason);
    answers.beginHeaders(stream);
    answers.putStatus(200);
    answers.putField(services.cache.get("content-type", "application/grpc"));
    for (const [name, value] of grpcStatusFields(input)) answers.putPair(name, value);
    answers.putPair("proxy-status", status);
    answers.endHeaders(true);
    return;
  }
  const problem = problemJson(input);
  facts.status = problem.status;
  const isBodyless = head.method === "HEAD";
  // ASCII by construction (problem.ts).
  const body = Buffer.from(problem.body, "latin1");
  facts.responseBytes = isBodyless ? 0 : body.length;
  answers.beginHeaders(stream);
  answers.putStatus(problem.status);
  answers.putField(services.cache.get("content-type", problem.contentType));
  answers.putPair("content-length", String(body.length));
  answers.putPair("proxy-status", status);
  if (problem.status === 503) answers.putPair("retry-after", "1");
  answers.endHeaders(isBodyless);
  if (!isBodyless) answers.sendData(stream, body, true);
}

/** Ends the answer to a gRPC call that has begun, with trailers that say why it goes no further. */
export function writeGrpcEnd(
  { answers }: AppSide,
  stream: AppStream,
  facts: CallFacts,
  services: OutboundServices,
): void {
  facts.decisionId = services.trail.decisionId();
  facts.grpcStatus = grpcCodeOf(facts.reason);
  answers.beginHeaders(stream);
  for (const [name, value] of grpcStatusFields(problemInput(facts, services))) answers.putPair(name, value);
  answers.endHeaders(true);
}

function problemInput(facts: CallFacts, { state }: OutboundServices): ProblemInput {
  const { reason, destination, decisionId, error } = facts;
  const program = state.directory?.table.program;
  return {
    reason,
    operation: facts.classified === undefined ? undefined : facts.operation,
    target:
      destination === undefined ? facts.target() : `${destination.callee.kind}/${destination.callee.name}`,
    caller: program === undefined ? undefined : `${program.kind}/${program.name}`,
    decisionId,
    detail: error,
  };
}
