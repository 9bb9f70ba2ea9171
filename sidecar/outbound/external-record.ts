// What is written down of a call to a host outside the mesh: no callee's sidecar records it, so everything is recorded
// here, allowed calls too.
import type { Call } from "../core/policy/call.ts";
import type { Decision } from "../core/policy/decide.ts";
import { REASONS } from "../core/policy/reason.ts";
import { personTexts } from "../telemetry/person-texts.ts";
import type { CallFacts } from "./call-facts.ts";
import type { ExternalDestination } from "./external.ts";
import type { OutboundServices } from "./services.ts";

export interface ExternalCall {
  readonly facts: CallFacts;
  readonly external: ExternalDestination;
  /** undefined: it was refused before it could be decided on. */
  readonly call: Call | undefined;
  readonly decision: Decision | undefined;
}

/** Counts, remembers, audits and logs the call, once, when it is over. */
export function recordExternal(
  { facts, external, call, decision }: ExternalCall,
  { metrics, trail, clock, accessLog }: OutboundServices,
): void {
  const durationMs = clock.monotonicMs() - facts.startedMs;
  const txn = facts.chain?.txn;
  const isDenied = decision?.allowed === false || REASONS[facts.reason].http === 403;
  const isCarried = decision?.allowed === true && facts.reason === "ALLOWED";
  const counters = external.counters(facts.operation);
  counters.count(facts.status, isDenied ? "deny" : "allow", durationMs / 1_000);
  if (facts.grpcStatus >= 0) counters.countGrpc(facts.grpcStatus);
  if (facts.overheadMs >= 0) metrics.overhead.observe(metrics.overheadOutbound, facts.overheadMs / 1_000);
  const { allowed, reason, policy, rule, would } =
    isCarried || decision?.allowed === false
      ? decision
      : { allowed: false, reason: facts.reason, policy: undefined, rule: undefined, would: undefined };
  const { decisions } = metrics;
  const callee = `external/${external.external.program.name}`;
  decisions.add(
    decisions.series(callee, facts.operation, allowed ? "allow" : "deny", reason, policy ?? "", rule ?? ""),
  );
  if (facts.decisionId === "") facts.decisionId = trail.decisionId();
  if (!allowed)
    trail.remember({
      decisionId: facts.decisionId,
      timeMs: facts.nowMs,
      reason,
      policy,
      rule,
      call,
      detail: `${facts.head.method} ${callee}: ${facts.error ?? ""}`,
    });
  if (trail.wants(allowed, decision?.audit)) {
    const resource = facts.classified?.resource ?? { kind: "none" as const };
    trail.record(
      {
        timeMs: facts.nowMs,
        traceparent: facts.traceparent,
        edge: external.edge(facts.operation, call?.via ?? [], call?.caller.runAs),
        decision: trail.decisionText({ allowed, reason, policy, rule, would }, external.revision),
        decisionId: facts.decisionId,
        person: txn === undefined ? undefined : personTexts(txn),
        requestId: facts.header("x-request-id"),
        resourceType: resource.kind === "none" ? undefined : resource.type,
        resourceName: resource.kind === "known" ? resource.value : undefined,
        method: facts.head.method,
        pathTemplate: facts.classified?.template || facts.path(),
        requestBytes: facts.requestBytes,
        contentType: facts.header("content-type"),
        sourceIp: call?.sourceIp,
        userAgent: facts.header("user-agent"),
        statusCode: facts.status,
        grpcStatus: facts.grpcStatus < 0 ? undefined : facts.grpcStatus,
        responseBytes: facts.responseBytes,
        durationMs,
        upstreamMs: facts.upstreamMs,
        errorMessage: facts.error,
      },
      !allowed,
    );
  }
  accessLog?.write({
    timeMs: facts.nowMs,
    direction: "outbound",
    peer: callee,
    method: facts.head.method,
    path: facts.path(),
    operation: facts.operation,
    status: facts.status,
    reason,
    requestBytes: facts.requestBytes,
    responseBytes: facts.responseBytes,
    durationMs,
    traceparent: facts.traceparent,
  });
}
