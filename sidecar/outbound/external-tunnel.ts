// One connection of the application to a host outside the mesh on which it speaks TLS itself: decided on here by the name
// it asks for, which is what is connected to, then passed on byte for byte, and recorded when it is over.
import { connect, type Socket } from "node:net";
import type { SidecarTable } from "../discovery/table.ts";
import type { CallChain } from "../telemetry/correlation.ts";
import { readClientHello } from "../wire/client-hello.ts";
import { CREDIT_HIGH_WATER_BYTES, MeshSocket, type SocketHandler } from "../wire/socket.ts";
import { SocketStream } from "../wire/socket-stream.ts";
import { Tunnel, type TunnelEnd } from "../wire/tunnel.ts";
import { HELLO_MS } from "./app-socket.ts";
import type { CallFacts } from "./call-facts.ts";
import { afterWaiting, ofUser } from "./choose-chain.ts";
import type { ExternalDestination } from "./external.ts";
import {
  EXPIRED,
  type ExternalRefusal,
  GONE,
  isTxnExpired,
  NOT_READY,
  TXN_EXPIRED,
} from "./external-ground.ts";
import { recordExternal } from "./external-record.ts";
import { type ConnectionClaim, type ConnectionVerdict, decideConnection } from "./external-rights.ts";
import type { OutboundServices } from "./services.ts";
import type { TunnelAsker } from "./tunnel.ts";

export interface ExternalTunnelDeps {
  readonly services: OutboundServices;
  readonly external: ExternalDestination;
  /** One of its hosts: what the ClientHello names, or has to. */
  readonly host: string;
  /** Who asked for the connection in words, before a ClientHello; absent: the ClientHello was read, and is put back. */
  readonly asked?: {
    readonly asker: TunnelAsker;
    /** What was read of the socket before. */
    readonly early: Buffer;
    readonly isEnded: boolean;
  };
  /** @param outward the connection to the host, once it stands. */
  readonly onConnected?: (outward: Socket) => void;
  /** The application's socket is closed. */
  readonly onClosed: (tunnel: ExternalTunnel) => void;
}

const EMPTY = Buffer.alloc(0);
/** Neither end has sent a byte for so long: given up, whatever TCP's own keep-alive says. */
const IDLE_MS = 3_600_000;
/** How long either end may take to read what is left after both are closed. */
const LINGER_MS = 60_000;
/** Of TCP: address translation on the way forgets connections after some minutes of silence. */
const KEEP_ALIVE_MS = 30_000;
/** Between decisions that only the time asks for. */
const TIME_STEP_MS = 1_000;

export class ExternalTunnel implements SocketHandler {
  readonly #deps: ExternalTunnelDeps;
  readonly #services: OutboundServices;
  readonly #socket: MeshSocket;
  readonly #facts: CallFacts;
  /** As the table tells of it that it was decided by, last: another would keep an old one. */
  #external: ExternalDestination;
  #claim: ConnectionClaim | undefined;
  #verdict: ConnectionVerdict | undefined;
  #decidedBy: SidecarTable | undefined;
  #decideAtMs = Number.POSITIVE_INFINITY;
  #outward: MeshSocket | undefined;
  #tunnel: Tunnel | undefined;
  /** What the application sent before it is known which host its TLS asks for; undefined: that is known. */
  #hello: Buffer | undefined;
  #isEnded: boolean;
  #over = false;
  /** Monotonic milliseconds. */
  #deadlineMs: number;
  #bytesSeen = 0;

  /**
   * @param socket paused; made with `allowHalfOpen`.
   * @param facts in the words of a connection: method `TCP`, the host and port as authority.
   */
  constructor(socket: MeshSocket, facts: CallFacts, deps: ExternalTunnelDeps) {
    const { services, external, asked } = deps;
    this.#deps = deps;
    this.#services = services;
    this.#external = external;
    this.#socket = socket;
    this.#facts = facts;
    this.#hello = asked?.early;
    this.#isEnded = asked?.isEnded === true;
    this.#deadlineMs = facts.startedMs + 3 * services.timeouts.connectMs;
    socket.attach(this);
  }

  /** Not counted as busy once it is over, though its last bytes may still be written. */
  get busy(): boolean {
    return !this.#over;
  }

  start(): void {
    const { state } = this.#services;
    const { nowMs } = this.#facts;
    if (state.identity === undefined || state.identityUntilMs === 0) {
      this.#refuse(NOT_READY);
      return;
    }
    if (nowMs >= state.identityUntilMs) {
      this.#refuse(EXPIRED);
      return;
    }
    // Encrypted bytes name no trace: they go on as the workload's one user, or as the workload alone.
    const choice = ofUser(this.#services, nowMs);
    if (choice.kind === "chosen") this.#decide(choice.chain);
    else
      void afterWaiting(this.#services).then((chain) => {
        if (!this.#over) this.#decide(chain);
      });
  }

  // --- the decision ------------------------------------------------------------------------------------------------

  #decide(chain: CallChain | undefined): void {
    this.#facts.chain = chain;
    const { identity, externals } = this.#services.state;
    if (identity === undefined || externals === undefined) {
      this.#refuse(NOT_READY);
      return;
    }
    if (isTxnExpired(chain, this.#facts.nowMs)) {
      this.#refuse(TXN_EXPIRED);
      return;
    }
    this.#claim = { host: this.#deps.host, chain, self: externals.self(identity) };
    const lost = this.#lost();
    if (lost === undefined) this.#connect();
    else this.#refuse(lost);
  }

  /** Why it may not stand by the table in force, now. */
  #lost(): ExternalRefusal | undefined {
    const { state, clock, metrics, meshNowMs } = this.#services;
    const { directory, externals, identityUntilMs } = state;
    const claim = this.#claim;
    if (directory === undefined || claim === undefined) return NOT_READY;
    const nowMs = meshNowMs();
    if (nowMs >= identityUntilMs) return EXPIRED;
    const found = externals?.ofServerName(claim.host, this.#external.port);
    if (found === undefined || found.external.id !== this.#external.external.id) return GONE;
    const isFirst = this.#verdict === undefined;
    this.#external = found;
    this.#decidedBy = directory.table;
    this.#decideAtMs = clock.monotonicMs() + TIME_STEP_MS;
    const verdict = decideConnection(found, claim, directory.table.revocations, nowMs);
    if (isFirst && verdict.decision?.would !== undefined) {
      const { policy, rule, allowed } = verdict.decision.would;
      metrics.dryRun.add(metrics.dryRun.series(policy ?? "", rule ?? "", allowed ? "Allow" : "Deny"));
    }
    this.#verdict = verdict;
    return verdict.refused;
  }

  /** Ends a connection that lost what allowed it, by a new table or by the time. */
  #endIfLost(nowMs: number): void {
    const table = this.#services.state.directory?.table;
    if (this.#verdict === undefined || (table === this.#decidedBy && nowMs < this.#decideAtMs)) return;
    const lost = this.#lost();
    if (lost === undefined) return;
    this.#refuse(lost);
  }

  // --- to the host -------------------------------------------------------------------------------------------------

  /** By name: the address that the application found for it may be anybody's. */
  #connect(): void {
    const { timeouts, clock } = this.#services;
    this.#deadlineMs = clock.monotonicMs() + timeouts.connectMs;
    const { host, onConnected } = this.#deps;
    const raw = connect({ host, port: this.#external.port, allowHalfOpen: true, noDelay: true });
    const outward = new MeshSocket(raw, CREDIT_HIGH_WATER_BYTES);
    outward.pause();
    this.#outward = outward;
    outward.attach({
      onData: () => {}, // paused: nothing comes
      onEnd: () => {},
      onDrain: () => {},
      onClose: (error) =>
        this.#refuse({
          reason: "UPSTREAM_FAILED",
          detail: error?.message ?? "the host closed the connection before its end",
        }),
    });
    raw.once("connect", () => {
      raw.setKeepAlive(true, KEEP_ALIVE_MS);
      onConnected?.(raw);
      this.#onConnected();
    });
  }

  #onConnected(): void {
    if (this.#over) return;
    this.#facts.status = 200;
    const { asked } = this.#deps;
    if (asked === undefined) {
      this.#join(EMPTY);
      return;
    }
    asked.asker.agreed();
    this.#deadlineMs = this.#services.clock.monotonicMs() + HELLO_MS;
    this.#checkHello();
    if (this.#tunnel === undefined && !this.#over) this.#socket.resume();
  }

  /** A client that asked for one host in words, and for another one in its hello, gets neither. */
  #checkHello(): void {
    const hello = this.#hello ?? EMPTY;
    const read = readClientHello(hello);
    if (read.kind === "partial" && !this.#isEnded) return;
    if (read.kind === "hello" && read.serverName === this.#deps.host && !read.hidesName) this.#join(hello);
    else
      this.#refuse({
        reason: "REQ_MALFORMED",
        detail: "what is said is no ClientHello that openly names the host that was asked for",
      });
  }

  #join(early: Buffer): void {
    const outward = this.#outward;
    if (outward === undefined) return;
    this.#hello = undefined;
    this.#touch();
    const stream = new SocketStream(outward);
    const tunnel = new Tunnel(this.#socket, stream, {
      onTunnelOver: (end) => this.#onTunnelOver(end),
      onTunnelClosed: () => this.#deps.onClosed(this),
    });
    this.#tunnel = tunnel;
    tunnel.start();
    stream.join(tunnel);
    if (early.length > 0) tunnel.onData(early);
    if (this.#isEnded) tunnel.onEnd();
  }

  // --- from the application, until there is a tunnel ----------------------------------------------------------------

  onData(chunk: Buffer): void {
    if (this.#over || this.#hello === undefined) return;
    this.#hello = Buffer.concat([this.#hello, chunk]);
    if (this.#facts.status !== 0) this.#checkHello();
  }

  onEnd(): void {
    this.#isEnded = true;
    if (!this.#over && this.#hello !== undefined && this.#facts.status !== 0) this.#checkHello();
  }

  onDrain(): void {}

  onClose(): void {
    if (!this.#over) {
      this.#facts.error = "the application went away before the connection stood";
      this.#finish();
      this.#outward?.destroy();
    }
    this.#deps.onClosed(this);
  }

  // --- for the listener ----------------------------------------------------------------------------------------------

  sweep(nowMs: number): void {
    if (this.#over) return;
    const tunnel = this.#tunnel;
    if (tunnel !== undefined && tunnel.received + tunnel.sent !== this.#bytesSeen) this.#touch();
    this.#endIfLost(nowMs);
    if (this.#over || nowMs < this.#deadlineMs) return;
    if (tunnel !== undefined) tunnel.cut("the connection was idle for too long");
    else if (this.#facts.status === 0)
      this.#refuse({ reason: "UPSTREAM_TIMEOUT", detail: "the host could not be reached in time" });
    else this.#refuse({ reason: "REQ_MALFORMED", detail: "the ClientHello did not come in time" });
  }

  /** It has no end of an answer that could be waited for: it goes on until the process ends. */
  drain(): void {}

  destroy(): void {
    if (this.#tunnel !== undefined && !this.#over) this.#tunnel.cut("the caller's sidecar ends");
    else {
      this.#facts.error ??= "the caller's sidecar ends";
      this.#finish();
      this.#outward?.destroy();
      this.#socket.destroy();
    }
  }

  // --- shared --------------------------------------------------------------------------------------------------------

  #touch(): void {
    this.#bytesSeen = (this.#tunnel?.received ?? 0) + (this.#tunnel?.sent ?? 0);
    this.#deadlineMs = this.#services.clock.monotonicMs() + IDLE_MS;
  }

  /** Whether it stands already or not. */
  #refuse({ reason, detail }: ExternalRefusal): void {
    if (this.#over) return;
    this.#facts.reason = reason;
    this.#facts.error = detail;
    if (this.#tunnel !== undefined) {
      this.#tunnel.cut(detail);
      return;
    }
    const { asked } = this.#deps;
    if (asked !== undefined && this.#facts.status === 0) asked.asker.refused(this.#facts);
    else this.#socket.reset();
    this.#finish();
    this.#outward?.reset();
  }

  #onTunnelOver(end: TunnelEnd): void {
    this.#facts.error = end;
    this.#finish();
    this.#outward?.linger(LINGER_MS);
    this.#socket.linger(LINGER_MS);
  }

  #finish(): void {
    if (this.#over) return;
    this.#over = true;
    this.#facts.requestBytes = this.#tunnel?.received ?? this.#facts.requestBytes;
    this.#facts.responseBytes = this.#tunnel?.sent ?? this.#facts.responseBytes;
    const { call, decision } = this.#verdict ?? { call: undefined, decision: undefined };
    recordExternal({ facts: this.#facts, external: this.#external, call, decision }, this.#services);
  }
}
