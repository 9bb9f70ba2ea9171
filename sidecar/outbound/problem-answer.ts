// The answer of the caller's own sidecar over HTTP/1.1: a problem document (RFC 9457) with Proxy-Status (RFC 9209).
import { problemJson, proxyStatus } from "../core/http/problem.ts";
import { CLOSE_LINE, statusLine } from "../wire/http1/serializer.ts";
import type { CallFacts } from "./call-facts.ts";
import type { OutboundServices } from "./services.ts";

/** The whole answer to a refused call, whose reason and error are in the facts; they get status, size and decision id. */
export function problemAnswer(facts: CallFacts, services: OutboundServices, mustClose: boolean): string {
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
  const body = head.method === "HEAD" ? "" : problem.body;
  facts.responseBytes = body.length;
  const retry = problem.status === 503 ? "retry-after: 1\r\n" : "";
  const close = mustClose ? CLOSE_LINE : "";
  return (
    `${statusLine(problem.status)}content-type: ${problem.contentType}\r\ncontent-length: ${problem.body.length}\r\n` +
    `proxy-status: ${proxyStatus(reason, facts.decisionId, detail, caller)}\r\n${retry}${close}\r\n${body}`
  );
}
