// The answer of the caller's own sidecar: a problem document (RFC 9457) with Proxy-Status (RFC 9209).
import { problemJson, proxyStatus } from "../core/http/problem.ts";
import type { AppSide, AppStream } from "./app-side.ts";
import type { CallFacts } from "./call-facts.ts";
import type { OutboundServices } from "./services.ts";

/**
 * Writes the whole answer to a refused call and ends the sending side of its stream.
 *
 * @param facts with reason and error; they get status, size and decision id.
 */
export function writeProblem(
  app: AppSide,
  stream: AppStream,
  facts: CallFacts,
  services: OutboundServices,
): void {
  const { reason, destination, head } = facts;
  const detail = facts.error;
  const program = services.state.directory?.table.program;
  const caller = program === undefined ? undefined : `${program.kind}/${program.name}`;
  facts.decisionId = services.trail.decisionId();
  const problem = problemJson({
    reason,
    operation: facts.classified === undefined ? undefined : facts.operation,
    target:
      destination === undefined ? facts.target() : `${destination.callee.kind}/${destination.callee.name}`,
    caller,
    decisionId: facts.decisionId,
    detail,
  });
  facts.status = problem.status;
  const isBodyless = head.method === "HEAD";
  // ASCII by construction (problem.ts).
  const body = Buffer.from(problem.body, "latin1");
  facts.responseBytes = isBodyless ? 0 : body.length;
  const { answers } = app;
  answers.beginHeaders(stream);
  answers.putStatus(problem.status);
  answers.putField(services.cache.get("content-type", problem.contentType));
  answers.putPair("content-length", String(body.length));
  answers.putPair("proxy-status", proxyStatus(reason, facts.decisionId, detail, caller));
  if (problem.status === 503) answers.putPair("retry-after", "1");
  answers.endHeaders(isBodyless);
  if (!isBodyless) answers.sendData(stream, body, true);
}
