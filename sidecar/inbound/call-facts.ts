// What became known of one call on the mesh port, and what is written down of it when it is over: counters, the
// memory of denials, the audit trail, the access log.
import type { Call } from "../core/policy/call.ts";
import type { Classified } from "../core/policy/classified.ts";
import type { CompiledProgram, Decision } from "../core/policy/decide.ts";
import { type EnforcedPort, type Enforcement, type InboundEdge, operationLabel } from "./authorize.ts";
import type { CallerSide } from "./caller-side.ts";
import type { RequestHead } from "./request-head.ts";
import type { InboundServices } from "./services.ts";
import type { IdentifiedCaller } from "./verify.ts";

export class CallFacts {
  readonly head: RequestHead;
  /** Monotonic milliseconds. */
  readonly startedMs: number;
  /** Control plane's time, Unix milliseconds: what the decision is made on. */
  readonly nowMs: number;
  enforcement: Enforcement | undefined;
  /** What decides on calls of this peer. */
  program: CompiledProgram | undefined;
  port: EnforcedPort | undefined;
  identified: IdentifiedCaller | undefined;
  classified: Classified | undefined;
  call: Call | undefined;
  decision: Decision | undefined;
  /** Empty: none was given to the caller. */
  decisionId = "";
  /** Known with the head: no body follows. */
  bodyless = false;
  requestBytes = 0;
  responseBytes = 0;
  /** 0: no answer has begun. */
  status = 0;
  /** Milliseconds the application took to begin its answer; -1: it was not asked. */
  upstreamMs = -1;
  error: string | undefined;

  constructor(head: RequestHead, startedMs: number, nowMs: number) {
    this.head = head;
    this.startedMs = startedMs;
    this.nowMs = nowMs;
  }

  /** Counts, remembers, audits and logs the call, once, when it is over. */
  record(services: InboundServices, peer: CallerSide): void {
    const enforcement = this.enforcement;
    const { metrics, trail, clock, accessLog } = services;
    const durationMs = clock.monotonicMs() - this.startedMs;
    const decision = this.decision;
    if (enforcement === undefined || decision === undefined) return;
    const operation = this.classified === undefined ? "unknown" : operationLabel(this.classified);
    const edge: InboundEdge =
      (this.identified ?? peer.byConnection(this.nowMs))?.edge(enforcement, operation) ??
      enforcement.edge(undefined, [], "", operation);
    const outcome = enforcement.outcome(edge, decision);
    metrics.decisions.add(outcome.series);
    edge.counters.count(this.status, decision.allowed ? "allow" : "deny", durationMs / 1_000);
    if (this.upstreamMs >= 0)
      metrics.overhead.observe(metrics.overheadInbound, Math.max(0, durationMs - this.upstreamMs) / 1_000);
    metrics.chainHops.observe(edge.chainSeries, (this.identified?.via.length ?? 0) + 1);
    if (!decision.allowed) {
      trail.remember({
        decisionId: this.decisionId,
        timeMs: this.nowMs,
        reason: decision.reason,
        policy: decision.policy,
        rule: decision.rule,
        call: this.call,
        detail: this.error,
      });
    }
    if (trail.wants(decision.allowed, decision.audit)) {
      const { resource } = this.classified ?? { resource: { kind: "none" as const } };
      trail.record(
        {
          timeMs: this.nowMs,
          traceparent: this.head.traceparent,
          edge: edge.audit,
          decision: outcome.auditDecision,
          decisionId: this.decisionId === "" ? trail.decisionId() : this.decisionId,
          requestId: this.head.header("x-request-id"),
          resourceType: resource.kind === "none" ? undefined : resource.type,
          resourceName: resource.kind === "known" ? resource.value : undefined,
          method: this.head.method,
          pathTemplate: this.classified?.template || this.head.path(),
          requestBytes: this.requestBytes,
          contentType: this.head.header("content-type"),
          sourceIp: peer.remoteAddress,
          userAgent: this.head.header("user-agent"),
          statusCode: this.status,
          responseBytes: this.responseBytes,
          durationMs,
          upstreamMs: this.upstreamMs,
          errorMessage: this.error,
        },
        decision.allowed,
      );
    }
    if (accessLog !== undefined) {
      accessLog.write({
        timeMs: this.nowMs,
        direction: "inbound",
        peer: peer.name,
        method: this.head.method,
        path: this.head.path(),
        operation,
        status: this.status,
        reason: decision.reason,
        requestBytes: this.requestBytes,
        responseBytes: this.responseBytes,
        durationMs,
        traceparent: this.head.traceparent,
      });
    }
  }
}
