// Plaintext connections to ports that speak no HTTP, where the namespace lets such callers in: one decision per connection,
// made again with every table, and one audit event when it is over. Bytes are passed on unseen.
import type { Socket } from "node:net";
import type { Call } from "../core/policy/call.ts";
import { type Decision, decide } from "../core/policy/decide.ts";
import { type Passthrough, passThrough } from "../wire/passthrough.ts";
import { type Enforcement, refusalDecision } from "./authorize.ts";
import type { InboundServices } from "./services.ts";
import type { IdentifiedCaller } from "./verify.ts";

export interface PlaintextStreamsDeps {
  readonly services: InboundServices;
  /** What stands for every plaintext caller. */
  readonly caller: IdentifiedCaller;
}

interface Stream {
  readonly call: Call;
  readonly startedMs: number;
  passthrough: Passthrough | undefined;
  decision: Decision;
}

export class PlaintextStreams {
  readonly #deps: PlaintextStreamsDeps;
  readonly #open = new Set<Stream>();
  /** The table that the open ones were last decided on. */
  #decidedOn: object | undefined;

  constructor(deps: PlaintextStreamsDeps) {
    this.#deps = deps;
  }

  get open(): number {
    return this.#open.size;
  }

  /**
   * Passes a connection on, or resets it.
   *
   * @param socket paused, made with `allowHalfOpen`.
   * @returns whether it was passed on.
   */
  take(socket: Socket, port: number): boolean {
    const { services } = this.#deps;
    const { enforcement } = services.state;
    if (enforcement === undefined) {
      socket.resetAndDestroy();
      return false;
    }
    const call = this.#callOf(socket, port);
    const decision = this.#decide(enforcement, call);
    const stream: Stream = {
      call,
      startedMs: services.clock.monotonicMs(),
      passthrough: undefined,
      decision,
    };
    this.#count(enforcement, decision);
    if (!decision.allowed) {
      socket.resetAndDestroy();
      this.#record(enforcement, stream);
      return false;
    }
    const address = services.appAddress(port);
    this.#open.add(stream);
    stream.passthrough = passThrough(socket, {
      to: address.kind === "unix" ? { path: address.path } : { host: address.host, port: address.port },
      connectTimeoutMs: services.timeouts.connectMs,
      onConnected: () => {},
      onClosed: () => {
        this.#open.delete(stream);
        this.#record(services.state.enforcement ?? enforcement, stream);
      },
    });
    return true;
  }

  /** Ends what the table in force does not allow any more. */
  sweep(): void {
    const { enforcement } = this.#deps.services.state;
    if (enforcement === undefined || enforcement.token === this.#decidedOn) return;
    this.#decidedOn = enforcement.token;
    for (const stream of this.#open) {
      const { services } = this.#deps;
      const decision = this.#decide(enforcement, { ...stream.call, nowMs: services.meshNowMs() });
      stream.decision = decision;
      if (decision.allowed) continue;
      this.#count(enforcement, decision);
      stream.passthrough?.cut();
    }
  }

  destroy(): void {
    for (const { passthrough } of this.#open) passthrough?.cut();
  }

  #callOf(socket: Socket, port: number): Call {
    const { services, caller } = this.#deps;
    return {
      caller: caller.caller,
      user: undefined,
      via: caller.via,
      port,
      request: { method: "", path: "", host: "", grpc: undefined, mcp: undefined },
      // No pack of operations describes what is not HTTP.
      operation: { kind: "unknown" },
      resource: { kind: "none" },
      folded: [],
      sourceIp: socket.remoteAddress?.replace(/^::ffff:/, ""),
      scope: undefined,
      nowMs: services.meshNowMs(),
    };
  }

  #decide(enforcement: Enforcement, call: Call): Decision {
    const { state, trail } = this.#deps.services;
    if (enforcement.plaintext === undefined) return refusalDecision("AUTHN_MTLS_REQUIRED");
    if (enforcement.ports.get(call.port)?.protocol !== "tcp") return refusalDecision("REQ_MALFORMED");
    if (call.nowMs >= state.identityUntilMs) return refusalDecision("IDENTITY_EXPIRED");
    const decision = decide(enforcement.plaintext, call);
    return decision.allowed && decision.audit?.mode === "Required" && !trail.hasRoom
      ? refusalDecision("AUDIT_UNAVAILABLE", decision.policy, decision.rule)
      : decision;
  }

  #count(enforcement: Enforcement, decision: Decision): void {
    const { metrics } = this.#deps.services;
    const edge = this.#deps.caller.edge(enforcement, "unknown");
    metrics.decisions.add(enforcement.outcome(edge, decision).series);
  }

  #record(enforcement: Enforcement, { call, decision, passthrough, startedMs }: Stream): void {
    const { trail, clock } = this.#deps.services;
    if (!trail.wants(decision.allowed, decision.audit)) return;
    const edge = this.#deps.caller.edge(enforcement, "unknown");
    trail.record(
      {
        timeMs: call.nowMs,
        traceparent: undefined,
        edge: edge.audit,
        decision: enforcement.outcome(edge, decision).auditDecision,
        decisionId: trail.decisionId(),
        requestId: undefined,
        resourceType: undefined,
        resourceName: undefined,
        method: "TCP",
        pathTemplate: `:${call.port}`,
        requestBytes: passthrough?.received ?? 0,
        contentType: undefined,
        sourceIp: call.sourceIp,
        userAgent: undefined,
        statusCode: 0,
        responseBytes: passthrough?.sent ?? 0,
        durationMs: clock.monotonicMs() - startedMs,
        upstreamMs: -1,
        errorMessage: undefined,
      },
      decision.allowed,
    );
  }
}
