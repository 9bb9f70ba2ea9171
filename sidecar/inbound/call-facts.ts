// What became known of one call on the mesh port, and what is written down of it when it is over: counters, the
// memory of denials, the audit trail, the access log.
import type { AuditPayload } from "../audit/payload.ts";
import type { AuditInput } from "../audit/trail.ts";
import type { Call } from "../core/policy/call.ts";
import type { Classified } from "../core/policy/classified.ts";
import type { CompiledProgram, Decision } from "../core/policy/decide.ts";
import type { ModelUse } from "../telemetry/model-meter.ts";
import {
  type EdgeOutcome,
  type EnforcedPort,
  type Enforcement,
  type InboundEdge,
  operationLabel,
} from "./authorize.ts";
import type { CallerSide } from "./caller-side.ts";
import type { Duties } from "./duties.ts";
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
  /** Empty: none was given to the caller, nor written down. */
  decisionId = "";
  /** Known with the head: no body follows. */
  bodyless = false;
  requestBytes = 0;
  responseBytes = 0;
  /** 0: no answer has begun. */
  status = 0;
  /** Of a gRPC call, 0 to 16; -1: none was seen. */
  grpcStatus = -1;
  /** Milliseconds the application took to begin its answer; -1: it was not asked. */
  upstreamMs = -1;
  /** Milliseconds from the request's arrival until it was passed on; -1: it was not, or nothing answered. */
  overheadMs = -1;
  error: string | undefined;
  /** What winning rules demand of the call; undefined: nothing. */
  duties: Duties | undefined;
  payload: AuditPayload | undefined;
  /** What a call to a model took, when it is over. */
  modelUse: ModelUse | undefined;
  /** The proof was used up, see `ReplayMemory`. */
  proofUsed = false;

  constructor(head: RequestHead, startedMs: number, nowMs: number) {
    this.head = head;
    this.startedMs = startedMs;
    this.nowMs = nowMs;
  }

  /** The application's answer begins. @param nowMs monotonic. @param sentMs monotonic, when it was asked. */
  answerBegins(nowMs: number, sentMs: number): void {
    this.upstreamMs = nowMs - sentMs;
    this.overheadMs = Math.max(0, sentMs - this.startedMs);
  }

  /** Counts, remembers, audits and logs the call, once, when it is over. @param endedMs monotonic. */
  record(services: InboundServices, peer: CallerSide, endedMs: number): void {
    const enforcement = this.enforcement;
    const { metrics, trail, accessLog } = services;
    const durationMs = endedMs - this.startedMs;
    const decision = this.decision;
    if (enforcement === undefined || decision === undefined) return;
    const operation = this.classified === undefined ? "unknown" : operationLabel(this.classified);
    const edge = this.#edge(enforcement, peer, operation);
    const outcome = enforcement.outcome(edge, decision);
    metrics.decisions.add(outcome.series);
    edge.counters.count(this.status, decision.allowed ? "allow" : "deny", durationMs / 1_000);
    if (this.grpcStatus >= 0) edge.counters.countGrpc(this.grpcStatus);
    if (this.overheadMs >= 0) metrics.overhead.observe(metrics.overheadInbound, this.overheadMs / 1_000);
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
    if (trail.wants(decision.allowed, decision.audit))
      trail.record(this.#event(services, peer, edge, outcome, durationMs), decision.allowed);
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

  /**
   * Writes down that the call is about to be forwarded, under the decision id that its event will have too.
   *
   * @param done see `AuditTrail.intend`.
   */
  intend(services: InboundServices, peer: CallerSide, done: (ok: boolean) => void): void {
    const { enforcement, decision, classified } = this;
    if (enforcement === undefined || decision === undefined || classified === undefined) {
      setImmediate(done, false);
      return;
    }
    const { trail, clock } = services;
    this.decisionId = trail.decisionId();
    const edge = this.#edge(enforcement, peer, operationLabel(classified));
    const durationMs = clock.monotonicMs() - this.startedMs;
    trail.intend(this.#event(services, peer, edge, enforcement.outcome(edge, decision), durationMs), done);
  }

  #edge(enforcement: Enforcement, peer: CallerSide, operation: string): InboundEdge {
    return (
      (this.identified ?? peer.byConnection(this.nowMs))?.edge(enforcement, operation) ??
      enforcement.edge(undefined, [], "", operation)
    );
  }

  #event(
    { trail }: InboundServices,
    peer: CallerSide,
    edge: InboundEdge,
    outcome: EdgeOutcome,
    durationMs: number,
  ): AuditInput {
    const { resource } = this.classified ?? { resource: { kind: "none" as const } };
    return {
      timeMs: this.nowMs,
      traceparent: this.head.traceparent,
      edge: edge.audit,
      decision: outcome.auditDecision,
      decisionId: this.decisionId === "" ? trail.decisionId() : this.decisionId,
      person: this.identified?.person,
      requestId: this.head.header("x-request-id"),
      resourceType: resource.kind === "none" ? undefined : resource.type,
      resourceName: resource.kind === "known" ? resource.value : undefined,
      method: this.head.method,
      pathTemplate: this.classified?.template || this.head.path(),
      requestBytes: this.requestBytes,
      mirrored: this.head.mirrored,
      contentType: this.head.header("content-type"),
      sourceIp:
        this.identified === undefined ? peer.remoteAddress : this.identified.sourceIp(peer.remoteAddress),
      userAgent: this.head.header("user-agent"),
      statusCode: this.status,
      grpcStatus: this.grpcStatus < 0 ? undefined : this.grpcStatus,
      responseBytes: this.responseBytes,
      durationMs,
      upstreamMs: this.upstreamMs,
      errorMessage: this.error,
      payload: this.payload?.text(),
      model: this.modelUse,
    };
  }
}
