// What became known of one call of the application, and what is written down of it when it is over. The callee records
// what it decides; what never got there is audited here.
import type { AuditTrail } from "../audit/trail.ts";
import { isGrpc } from "../core/http/grpc.ts";
import { joinedField } from "../core/http/headers.ts";
import { upgradeOf } from "../core/http/websocket.ts";
import type { Classified } from "../core/policy/classified.ts";
import { REASONS, type Reason } from "../core/policy/reason.ts";
import type { CallChain } from "../telemetry/correlation.ts";
import { personTexts } from "../telemetry/person-texts.ts";
import type { OutboundHead } from "./app-side.ts";
import type { Destination, Directory, FixedDestination } from "./resolve.ts";
import type { RuleEffects } from "./route.ts";
import type { OutboundServices } from "./services.ts";
import type { Upstream } from "./upstream.ts";

export class CallFacts {
  readonly head: OutboundHead;
  /** Monotonic milliseconds. */
  readonly startedMs: number;
  /** Control plane's time, Unix milliseconds. */
  readonly nowMs: number;
  /** Where the call really goes when the request does not choose; what it calls its host is then a claim. */
  fixed: FixedDestination | undefined;
  destination: Destination | undefined;
  /** What the rule of a route that was followed says. */
  route: RuleEffects | undefined;
  classified: Classified | undefined;
  operation = "unknown";
  traceparent: string | undefined;
  /** The application's own bearer token: the call's identity says whose it is. */
  authorization: string | undefined;
  /** What the request asks its connection to be turned into; empty: nothing. */
  readonly upgrade: string;
  /** What is wrong with its fields; empty: nothing. */
  malformed = "";
  /** The hops and the person that the call goes on for; undefined: it begins here, on nobody's behalf. */
  chain: CallChain | undefined;
  /** The trace begins here: the application sent none that could be read. */
  ownTrace = false;
  upstream: Upstream | undefined;
  /** Milliseconds that the application gives the whole call; route or policy may give less. */
  timeoutMs = Number.POSITIVE_INFINITY;
  requestBytes = 0;
  responseBytes = 0;
  /** 0: no answer has begun. */
  status = 0;
  /** Of a gRPC call, 0 to 16; -1: none was seen. */
  grpcStatus = -1;
  #isGrpc: boolean | undefined;
  /** Milliseconds the callee took to begin its answer; -1: it was not asked. */
  upstreamMs = -1;
  /** Milliseconds from the request's arrival until it was passed on; -1: it was not, or nothing answered. */
  overheadMs = -1;
  reason: Reason = "ALLOWED";
  error: string | undefined;
  /** Empty: none was given to the application. */
  decisionId = "";

  constructor(head: OutboundHead, startedMs: number, nowMs: number) {
    this.head = head;
    this.upgrade = upgradeOf(head.upgrade) ?? "";
    this.startedMs = startedMs;
    this.nowMs = nowMs;
  }

  /** Whether it is a gRPC call, which gets its answers in gRPC's form. */
  get isGrpc(): boolean {
    this.#isGrpc ??= this.head.method === "POST" && isGrpc(joinedField(this.head.fields, "content-type"));
    return this.#isGrpc;
  }

  /** Value of a request field. */
  header(name: string): string | undefined {
    const fields = this.head.fields;
    for (let i = 0; i < fields.length; i++) {
      const field = fields[i];
      if (field !== undefined && field.name === name) return field.value;
    }
    return undefined;
  }

  /** The name that decides where the call goes, for calls that end before they have a destination. */
  target(): string {
    const { fixed } = this;
    if (fixed === undefined) return this.head.authority;
    if (fixed.kind === "service") return fixed.service;
    return fixed.address.includes(":")
      ? `[${fixed.address}]:${fixed.port}`
      : `${fixed.address}:${fixed.port}`;
  }

  /** The callee's answer begins. @param nowMs monotonic. @param sentMs monotonic, when it was asked. */
  answerBegins(nowMs: number, sentMs: number): void {
    this.upstreamMs = nowMs - sentMs;
    this.overheadMs = Math.max(0, sentMs - this.startedMs);
  }

  /** Counts the call, and audits and logs it, once, when it is over. @param endedMs monotonic. */
  record(services: OutboundServices, endedMs = services.clock.monotonicMs()): void {
    const { metrics, accessLog, state } = services;
    const durationMs = endedMs - this.startedMs;
    const { directory } = state;
    if (directory !== undefined) {
      const edge = this.destination?.edge(this.operation) ?? directory.stranger(this.target().slice(0, 256));
      edge.counters.count(
        this.status,
        REASONS[this.reason].http === 403 ? "deny" : "allow",
        durationMs / 1_000,
      );
      if (this.grpcStatus >= 0) edge.counters.countGrpc(this.grpcStatus);
      if (this.overheadMs >= 0) metrics.overhead.observe(metrics.overheadOutbound, this.overheadMs / 1_000);
      // The callee records what it decided; what never got there is recorded here.
      if (this.reason !== "ALLOWED") this.#recordFailure(services.trail, directory, edge.audit, durationMs);
    }
    if (accessLog !== undefined) {
      accessLog.write({
        timeMs: this.nowMs,
        direction: "outbound",
        peer: this.upstream?.endpoint.spiffeId ?? this.target(),
        method: this.head.method,
        path: this.path(),
        operation: this.operation,
        status: this.status,
        reason: this.reason,
        requestBytes: this.requestBytes,
        responseBytes: this.responseBytes,
        durationMs,
        traceparent: this.traceparent,
      });
    }
  }

  #recordFailure(
    trail: AuditTrail,
    directory: Directory,
    edge: Parameters<AuditTrail["record"]>[0]["edge"],
    durationMs: number,
  ): void {
    if (this.decisionId === "") this.decisionId = trail.decisionId();
    const target = this.target();
    const claimed = target === this.head.authority ? "" : ` (host \`${this.head.authority.slice(0, 256)}\`)`;
    trail.remember({
      decisionId: this.decisionId,
      timeMs: this.nowMs,
      reason: this.reason,
      policy: undefined,
      rule: undefined,
      call: undefined,
      detail: `${this.head.method} ${target}${claimed}: ${this.error ?? ""}`,
    });
    if (!trail.wants(false, undefined)) return;
    const resource = this.classified?.resource ?? { kind: "none" as const };
    trail.record(
      {
        timeMs: this.nowMs,
        traceparent: this.traceparent,
        edge,
        decision: trail.decisionText(
          { allowed: false, reason: this.reason, policy: undefined, rule: undefined, would: undefined },
          directory.table.revision,
        ),
        decisionId: this.decisionId,
        person: this.chain?.txn === undefined ? undefined : personTexts(this.chain.txn),
        requestId: this.header("x-request-id"),
        resourceType: resource.kind === "none" ? undefined : resource.type,
        resourceName: resource.kind === "known" ? resource.value : undefined,
        method: this.head.method,
        pathTemplate: this.classified?.template || this.path(),
        requestBytes: this.requestBytes,
        contentType: this.header("content-type"),
        sourceIp: undefined,
        userAgent: this.header("user-agent"),
        statusCode: this.status,
        grpcStatus: this.grpcStatus < 0 ? undefined : this.grpcStatus,
        responseBytes: this.responseBytes,
        durationMs,
        upstreamMs: this.upstreamMs,
        errorMessage: this.error,
      },
      false,
    );
  }

  /** Without query: its values are never recorded. */
  path(): string {
    const { target } = this.head;
    const query = target.indexOf("?");
    return query < 0 ? target : target.slice(0, query);
  }
}
