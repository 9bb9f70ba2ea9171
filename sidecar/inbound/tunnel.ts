// One connection to a port of our workload that speaks no HTTP: decided once, by who calls, then joined to a connection of
// its own to the application, bytes unseen. The application is not reached before the decision.
import { connect } from "node:net";
import type { Decision } from "../core/policy/decide.ts";
import type { Reason } from "../core/policy/reason.ts";
import { readClientHello } from "../wire/client-hello.ts";
import type { Field } from "../wire/field.ts";
import { CREDIT_HIGH_WATER_BYTES, MeshSocket } from "../wire/socket.ts";
import { Tunnel, type TunnelEnd } from "../wire/tunnel.ts";
import { admitOpaque, type Refusal } from "./admission.ts";
import { refusalDecision } from "./authorize.ts";
import { CallFacts } from "./call-facts.ts";
import type { CallerSide, CallerStream, InboundStream } from "./caller-side.ts";
import { decideCall } from "./decision.ts";
import type { DeniedCall, DutyBearer } from "./duties.ts";
import { type LimitedVerdict, writeProblem } from "./problem-answer.ts";
import { decideAgain } from "./redecide.ts";
import { RequestHead } from "./request-head.ts";
import type { InboundServices } from "./services.ts";

const NO_ERROR = 0x0;
const PROTOCOL_ERROR = 0x1;
/** How long the application may take to read what is left after both ends are closed. */
const LINGER_MS = 60_000;
const KEEP_ALIVE_MS = 60_000;
/** How long a ClientHello may take that must be what was decided on. */
const HELLO_WITHIN_MS = 10_000;
/** Of the caller's bytes before the application is connected: it waits for our answer, so this is a broken one. */
const MAX_HELD_BYTES = 65_536;

export class InboundTunnel implements InboundStream, DutyBearer {
  /** Place in the connection's list. */
  slot = -1;
  readonly #services: InboundServices;
  readonly #peer: CallerSide;
  readonly #stream: CallerStream;
  readonly #facts: CallFacts;
  #socket: MeshSocket | undefined;
  #tunnel: Tunnel | undefined;
  /** Bytes of the caller that wait for the application, or to be held against what was decided on. */
  #held: Buffer | undefined;
  #heldEnd = false;
  #over = false;
  #startedAppMs = -1;
  /** Monotonic milliseconds; while the application's connection does not stand, or its hello has not come. */
  #deadlineMs = Number.POSITIVE_INFINITY;

  constructor(services: InboundServices, peer: CallerSide, stream: CallerStream, fields: readonly Field[]) {
    this.#services = services;
    this.#peer = peer;
    this.#stream = stream;
    const head = new RequestHead(fields, services.ids, services.limits.head);
    // In the words of audit and log; CONNECT is how it crossed, not what it is.
    head.method = "TCP";
    head.target = `:${head.portText ?? ""}`;
    this.#facts = new CallFacts(head, services.clock.monotonicMs(), services.meshNowMs());
  }

  start(endStream: boolean): void {
    const facts = this.#facts;
    facts.bodyless = endStream;
    const refused = admitOpaque(facts, this.#peer, this.#services);
    if (refused !== undefined) {
      this.#refuseWith(refused, endStream);
      return;
    }
    const denied = decideCall(facts, this.#peer, this.#services);
    if (denied !== undefined) {
      this.#deny(denied.decision, denied.limited);
      return;
    }
    this.#heldEnd = endStream;
    if (facts.duties === undefined) this.#connect();
    else facts.duties.begin(this, undefined);
  }

  onDutiesMet(): void {
    this.#connect();
  }

  onDutiesFailed({ decision, limited, detail }: DeniedCall): void {
    if (this.#over) return;
    this.#facts.error = detail;
    this.#deny(decision, limited);
  }

  onDutiesStale(): void {
    this.#fail("NOT_READY", "the policies changed while the connection waited");
  }

  #connect(): void {
    if (this.#over) return;
    const { metrics, openTunnels, clock, timeouts, limits, appAddress } = this.#services;
    if (openTunnels.count >= limits.appConnections) {
      this.#fail("OVERLOADED", "too many connections to the application");
      return;
    }
    metrics.forwarded.add(metrics.allowedAndForwarded);
    metrics.forwarded.add(metrics.attempts);
    openTunnels.count++;
    this.#startedAppMs = clock.monotonicMs();
    this.#deadlineMs = this.#startedAppMs + timeouts.connectMs;
    // INVARIANT: what was admitted has its port.
    const address = appAddress(this.#facts.port?.port ?? 0);
    const raw = connect({
      ...(address.kind === "unix" ? { path: address.path } : { host: address.host, port: address.port }),
      allowHalfOpen: true,
      noDelay: true,
    });
    raw.once("connect", () => {
      raw.setKeepAlive(true, KEEP_ALIVE_MS);
      this.#join(socket);
    });
    const socket = new MeshSocket(raw, CREDIT_HIGH_WATER_BYTES);
    socket.pause();
    this.#socket = socket;
    socket.attach({
      onData: () => {}, // paused: nothing comes
      onEnd: () => {},
      onDrain: () => {},
      onClose: (error) => {
        openTunnels.count--;
        this.#fail("UPSTREAM_FAILED", error?.message ?? "the application refused the connection");
      },
    });
  }

  /** The application's connection stands: the caller may send. */
  #join(socket: MeshSocket): void {
    if (this.#over) return;
    const { answers } = this.#peer;
    const stream = this.#stream;
    const { clock, openTunnels } = this.#services;
    this.#facts.status = 200;
    this.#facts.answerBegins(clock.monotonicMs(), this.#startedAppMs);
    answers.beginHeaders(stream);
    answers.putStatus(200);
    answers.endHeaders(false);
    this.#tunnel = new Tunnel(
      socket,
      {
        send: (chunk, end) => answers.sendData(stream, chunk, end),
        consumed: (bytes) => answers.consumed(stream, bytes),
        reset: (code) => answers.resetStream(stream, code),
      },
      {
        onTunnelOver: (end) => this.#onTunnelOver(end),
        onTunnelClosed: () => {
          openTunnels.count--;
        },
      },
    );
    this.#tunnel.start();
    if (this.#facts.head.serverName !== undefined || this.#facts.port?.protocol === "tls") {
      this.#deadlineMs = clock.monotonicMs() + HELLO_WITHIN_MS;
      this.#held ??= EMPTY;
    } else {
      this.#deadlineMs = Number.POSITIVE_INFINITY;
      this.#release();
    }
  }

  // --- from the caller's side ------------------------------------------------------------------------------------

  onRequestBody(chunk: Buffer, endStream: boolean): void {
    if (this.#over) {
      this.#peer.answers.consumed(this.#stream, chunk.length);
      return;
    }
    if (this.#tunnel !== undefined && this.#held === undefined) {
      this.#tunnel.onStreamData(chunk, endStream);
      return;
    }
    // Credit comes when it is passed on: a caller that does not wait for our answer is held to its first window.
    this.#held = Buffer.concat([this.#held ?? EMPTY, chunk]);
    this.#heldEnd ||= endStream;
    if (this.#held.length > MAX_HELD_BYTES) this.#cut("REQ_MALFORMED", "too many bytes before the answer");
    else if (this.#tunnel !== undefined) this.#checkHello(this.#held);
  }

  /** A client that asked for one server by the name that was decided on, and another one in its hello, gets neither. */
  #checkHello(held: Buffer): void {
    const hello = readClientHello(held);
    if (hello.kind === "partial" && !this.#heldEnd) return;
    if (hello.kind === "hello" && hello.serverName === this.#facts.head.serverName) this.#release();
    else this.#cut("REQ_MALFORMED", "the ClientHello does not have the server name that was decided on");
  }

  #release(): void {
    const held = this.#held;
    this.#held = undefined;
    this.#deadlineMs = Number.POSITIVE_INFINITY;
    if ((held !== undefined && held.length > 0) || this.#heldEnd)
      this.#tunnel?.onStreamData(held ?? EMPTY, this.#heldEnd);
  }

  onRequestTrailers(): void {
    this.#cut("REQ_MALFORMED", "there are trailers on a tunnel");
  }

  onPeerWritable(): void {
    this.#tunnel?.onStreamWritable();
  }

  onPeerGone(): void {
    if (this.#over) return;
    const detail = "the caller went away";
    if (this.#tunnel !== undefined) this.#tunnel.onStreamGone(detail);
    else {
      this.#facts.error = detail;
      this.#socket?.destroy();
      this.#finish();
    }
  }

  redecide(): void {
    if (this.#over) return;
    const lost = decideAgain(this.#facts, this.#peer, this.#services);
    if (lost === undefined) return;
    this.#facts.decision = lost.decision;
    this.#facts.error = lost.detail;
    if (this.#tunnel !== undefined) this.#tunnel.cut(lost.detail);
    else {
      this.#socket?.destroy();
      this.#answer(lost.decision.reason, undefined);
    }
  }

  sweep(nowMs: number): void {
    this.#facts.duties?.sweep(nowMs);
    if (this.#over || nowMs < this.#deadlineMs) return;
    if (this.#tunnel === undefined)
      this.#fail("UPSTREAM_TIMEOUT", "the application could not be reached in time");
    else this.#cut("REQ_MALFORMED", "the ClientHello did not come in time");
  }

  // --- shared ----------------------------------------------------------------------------------------------------

  #refuseWith({ reason, detail, ofIdentity }: Refusal, endStream: boolean): void {
    if (ofIdentity) {
      const { authnFailures } = this.#services.metrics;
      authnFailures.add(authnFailures.series(this.#facts.enforcement?.self.name ?? "", reason));
    }
    this.#heldEnd = endStream;
    this.#facts.error = detail;
    this.#deny(refusalDecision(reason), undefined);
    if (ofIdentity) this.#peer.countBadProof();
  }

  #deny(decision: Decision, limited: LimitedVerdict | undefined): void {
    this.#facts.decision = decision;
    this.#answer(decision.reason, limited);
  }

  /** Allowed, but it cannot be carried out. */
  #fail(reason: Reason, detail: string): void {
    if (this.#over) return;
    this.#facts.error = detail;
    this.#socket?.destroy();
    this.#answer(reason, undefined);
  }

  /** In the middle of it: both sides are reset. */
  #cut(reason: Reason, detail: string): void {
    if (this.#over) return;
    this.#facts.decision = refusalDecision(reason);
    if (this.#tunnel !== undefined) this.#tunnel.cut(detail, PROTOCOL_ERROR);
    else this.#fail(reason, detail);
  }

  #answer(reason: Reason, limited: LimitedVerdict | undefined): void {
    const facts = this.#facts;
    facts.decisionId = this.#services.trail.decisionId();
    const { cache } = this.#services;
    writeProblem({ peer: this.#peer, stream: this.#stream, cache, facts, reason, limited, rpc: undefined });
    if (!this.#heldEnd) this.#peer.answers.resetStream(this.#stream, NO_ERROR);
    this.#finish();
  }

  #onTunnelOver(end: TunnelEnd): void {
    const tunnel = this.#tunnel;
    this.#facts.requestBytes = tunnel?.sent ?? 0;
    this.#facts.responseBytes = tunnel?.received ?? 0;
    this.#facts.error = end;
    this.#socket?.linger(LINGER_MS);
    this.#finish();
  }

  #finish(): void {
    if (this.#over) return;
    this.#over = true;
    if (this.#held !== undefined) this.#peer.answers.consumed(this.#stream, this.#held.length);
    this.#held = undefined;
    this.#stream.context = undefined;
    this.#facts.duties?.end();
    const nowMs = this.#services.clock.monotonicMs();
    this.#facts.record(this.#services, this.#peer, nowMs);
    this.#peer.finished(this, nowMs);
  }
}

const EMPTY = Buffer.alloc(0);
