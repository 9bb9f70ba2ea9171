// Plaintext connections to ports that speak no HTTP, where the namespace lets such callers in: one decision per connection,
// made again with every table, and one audit event when it is over. Bytes are passed on unseen.
import type { Socket } from "node:net";
import type { AuditInput } from "../audit/trail.ts";
import type { ConcurrencyRule, Ticket, Waiting } from "../balance/concurrency.ts";
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
  readonly decisionId: string;
  passthrough: Passthrough | undefined;
  decision: Decision;
  /** Its places among the connections of rules with `concurrency`. */
  ticket: Ticket | undefined;
}

/** A connection does not wait for a place. */
const NOBODY: Waiting = { onEntered: () => {}, onTurnedAway: () => {} };

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
      decisionId: services.trail.decisionId(),
      passthrough: undefined,
      decision,
      ticket: undefined,
    };
    if (decision.allowed) stream.decision = this.#demand(enforcement, stream) ?? decision;
    this.#count(enforcement, stream.decision);
    if (!stream.decision.allowed) {
      this.#refuse(socket, enforcement, stream);
      return false;
    }
    if (decision.audit?.mode !== "Required") {
      this.#pass(socket, enforcement, stream);
      return true;
    }
    socket.on("error", () => {});
    services.trail.intend(this.#event(enforcement, stream), (ok) => {
      if (ok && !socket.destroyed) this.#pass(socket, enforcement, stream);
      else {
        stream.decision = refusalDecision("AUDIT_UNAVAILABLE", decision.policy, decision.rule);
        this.#refuse(socket, enforcement, stream);
      }
    });
    return true;
  }

  #refuse(socket: Socket, enforcement: Enforcement, stream: Stream): void {
    socket.resetAndDestroy();
    stream.ticket?.leave(this.#deps.services.clock.monotonicMs());
    this.#record(enforcement, stream);
  }

  #pass(socket: Socket, enforcement: Enforcement, stream: Stream): void {
    const { services } = this.#deps;
    const address = services.appAddress(stream.call.port);
    this.#open.add(stream);
    stream.passthrough = passThrough(socket, {
      to: address.kind === "unix" ? { path: address.path } : { host: address.host, port: address.port },
      connectTimeoutMs: services.timeouts.connectMs,
      onConnected: () => {},
      onClosed: () => {
        this.#open.delete(stream);
        stream.ticket?.leave(services.clock.monotonicMs());
        this.#record(services.state.enforcement ?? enforcement, stream);
      },
    });
  }

  /** What the winning rules demand of a connection: it counts as a call, and waits for nothing. */
  #demand({ plaintext }: Enforcement, stream: Stream): Decision | undefined {
    const { services } = this.#deps;
    const { call, decision, startedMs } = stream;
    if (plaintext === undefined) return undefined;
    const rules: ConcurrencyRule[] = [];
    for (const { policy, rule, with: demands } of decision.winners) {
      if (demands?.replay !== undefined) return refusalDecision("AUTHN_PROOF_INVALID", policy, rule);
      // Nobody can tell how many tokens bytes are worth.
      if (demands?.tokenLimit !== undefined) return refusalDecision("UNSUPPORTED", policy, rule);
      if (demands?.concurrency !== undefined) rules.push({ policy, rule, limit: demands.concurrency });
    }
    if (rules.length > 0) {
      const entered = services.concurrency.enter(rules, NOBODY, startedMs, startedMs);
      if ("full" in entered)
        return refusalDecision("CONCURRENCY_LIMITED", entered.full.policy, entered.full.rule);
      stream.ticket = entered;
    }
    const verdict = services.limiter.admit(plaintext, decision, call, startedMs);
    return verdict.allowed ? undefined : refusalDecision("RATE_LIMITED", verdict.policy, verdict.rule);
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
    const { state } = this.#deps.services;
    if (enforcement.plaintext === undefined) return refusalDecision("AUTHN_MTLS_REQUIRED");
    if (enforcement.ports.get(call.port)?.protocol !== "tcp") return refusalDecision("REQ_MALFORMED");
    if (call.nowMs >= state.identityUntilMs) return refusalDecision("IDENTITY_EXPIRED");
    return decide(enforcement.plaintext, call);
  }

  #count(enforcement: Enforcement, decision: Decision): void {
    const { metrics } = this.#deps.services;
    const edge = this.#deps.caller.edge(enforcement, "unknown");
    metrics.decisions.add(enforcement.outcome(edge, decision).series);
  }

  #record(enforcement: Enforcement, stream: Stream): void {
    const { trail } = this.#deps.services;
    const { allowed, audit } = stream.decision;
    if (trail.wants(allowed, audit)) trail.record(this.#event(enforcement, stream), allowed);
  }

  #event(
    enforcement: Enforcement,
    { call, decision, passthrough, startedMs, decisionId }: Stream,
  ): AuditInput {
    const { clock } = this.#deps.services;
    const edge = this.#deps.caller.edge(enforcement, "unknown");
    return {
      timeMs: call.nowMs,
      traceparent: undefined,
      edge: edge.audit,
      decision: enforcement.outcome(edge, decision).auditDecision,
      decisionId,
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
    };
  }
}
