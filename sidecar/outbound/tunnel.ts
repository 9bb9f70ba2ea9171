// One connection of the application to a port that speaks no HTTP: a CONNECT stream to the callee's sidecar, which decides
// once per connection. Bytes are passed on unseen, the first of them after the callee has said yes.
import { COUNTERSIGN_PROTOCOL, COUNTERSIGN_SNI } from "../core/identity/claims.ts";
import type { Reason } from "../core/policy/reason.ts";
import { createTraceparent } from "../telemetry/trace.ts";
import { createField, type Field } from "../wire/field.ts";
import type { Spoken } from "../wire/sniff.ts";
import type { MeshSocket } from "../wire/socket.ts";
import { Tunnel, type TunnelEnd } from "../wire/tunnel.ts";
import type { OutboundHead } from "./app-side.ts";
import { CallFacts } from "./call-facts.ts";
import { afterWaiting, ofUser } from "./choose-chain.ts";
import { hashKeyOf } from "./hash-key.ts";
import type { Member } from "./member.ts";
import { MeshStream } from "./mesh-stream.ts";
import type { Destination, FixedDestination } from "./resolve.ts";
import type { OutboundServices } from "./services.ts";
import type { UpstreamConnection, UpstreamExchange } from "./upstream-connection.ts";

/** Who asked for the connection in words, and is answered in words. After `refused` or `denied` the socket is its own. */
export interface TunnelAsker {
  agreed(): void;
  /** It never came to the callee. @param facts with reason and error. */
  refused(facts: CallFacts): void;
  /** The callee's sidecar said no. @param body empty where it was too long. */
  denied(status: number, fields: readonly Field[], body: Buffer): void;
}

export interface OutboundTunnelDeps {
  readonly services: OutboundServices;
  readonly fixed: FixedDestination;
  /** Anything but `tls` is carried as `tcp`. */
  readonly spoken: Spoken;
  /** What was read of the socket before. */
  readonly early?: Buffer | undefined;
  /** Absent: a reset says that it is not carried. */
  readonly asker?: TunnelAsker | undefined;
  readonly onClosed: (tunnel: OutboundTunnel) => void;
}

/** What the callee's sidecar answered in place of agreeing. */
interface Denial {
  readonly status: number;
  readonly fields: readonly Field[];
  body: Buffer;
}

const CONNECT: Field = createField(":method", "CONNECT");
const TCP: Field = createField(COUNTERSIGN_PROTOCOL, "tcp");
const TLS: Field = createField(COUNTERSIGN_PROTOCOL, "tls");
const REFUSED_STREAM = 0x7;
/** Endpoints that are asked before the connection is given up. */
const MAX_ATTEMPTS = 4;
/** Neither end has sent a byte for so long: given up, whatever TCP's own keep-alive says. A TrafficPolicy may say otherwise. */
const IDLE_MS = 3_600_000;
/** How long the application may take to read what is left after both ends are closed. */
const LINGER_MS = 60_000;
/** Of the document that says why the callee's sidecar refused. */
const MAX_DENIAL_BYTES = 16_384;

export class OutboundTunnel implements UpstreamExchange {
  /** Place in the connection's list. */
  slot = -1;
  readonly #deps: OutboundTunnelDeps;
  readonly #services: OutboundServices;
  readonly #socket: MeshSocket;
  readonly #facts: CallFacts;
  readonly #tried = new Set<Member>();
  #member: Member | undefined;
  #attempts = 0;
  #mesh: MeshStream | undefined;
  #tunnel: Tunnel | undefined;
  #denial: Denial | undefined;
  #sentAtMs = -1;
  #over = false;
  /** Monotonic milliseconds. */
  #deadlineMs: number;
  #bytesSeen = 0;
  /** The application has said all, before there is a tunnel. */
  #isEnded = false;

  /** @param socket paused; made with `allowHalfOpen`. */
  constructor(socket: MeshSocket, deps: OutboundTunnelDeps) {
    const { services, fixed } = deps;
    this.#deps = deps;
    this.#services = services;
    this.#socket = socket;
    this.#facts = connectionFacts(fixed, services);
    this.#deadlineMs = this.#facts.startedMs + 3 * services.timeouts.connectMs;
    socket.attach({
      onData: () => {}, // paused: nothing comes
      onEnd: () => {
        // But the end does, where it was read with the bytes before it.
        this.#isEnded = true;
      },
      onDrain: () => {},
      onClose: () => this.#onAppClosed(),
    });
  }

  /** Not counted as busy once it is over, though its last bytes may still be written. */
  get busy(): boolean {
    return !this.#over;
  }

  /** @param destination what the table has for it, with a port of that protocol. */
  start(destination: Destination): void {
    this.#facts.destination = destination;
    const { identityUntilMs } = this.#services.state;
    if (identityUntilMs === 0) this.#refuse("NOT_READY", "no identity yet");
    else if (this.#facts.nowMs >= identityUntilMs)
      this.#refuse("IDENTITY_EXPIRED", "the own certificate has expired");
    else this.#choose();
  }

  /** Bytes name no trace: they go on as the workload's one user, or as the workload alone. */
  #choose(): void {
    const choice = ofUser(this.#services, this.#facts.nowMs);
    if (choice.kind === "chosen") {
      this.#facts.chain = choice.chain;
      this.#route();
    } else
      void afterWaiting(this.#services).then((chain) => {
        if (this.#over) return;
        this.#facts.chain = chain;
        this.#route();
      });
  }

  #route(): void {
    const { destination } = this.#facts;
    if (destination === undefined) return;
    const { group } = destination;
    if (group.members.length === 0) {
      this.#refuse("NO_ENDPOINTS", "no running workload serves it");
      return;
    }
    if (this.#attempts === 0) group.called(this.#facts.startedMs);
    if (this.#attempts++ >= MAX_ATTEMPTS) {
      this.#refuse("UPSTREAM_FAILED", this.#facts.error ?? "no endpoint could be reached");
      return;
    }
    const { lb, bounds } = group.traffic;
    const member = group.pick(this.#tried, hashKeyOf(lb, this.#facts, this.#services.node));
    if (member === undefined) {
      this.#refuse("OVERLOADED", "every endpoint has as many connections as it may have");
      return;
    }
    this.#tried.add(member);
    this.#member = member;
    this.#facts.upstream = member.upstream;
    if (!member.upstream.request(this, bounds))
      this.#refuse("OVERLOADED", "too many requests wait for a connection");
  }

  // --- from the mesh ---------------------------------------------------------------------------------------------

  onUpstreamReady(connection: UpstreamConnection): void {
    const { destination, nowMs, chain } = this.#facts;
    if (this.#over || destination === undefined) return;
    const mesh = MeshStream.open(connection, this);
    if (mesh === undefined) {
      if (this.#facts.upstream?.wait(this) !== true)
        this.#refuse("OVERLOADED", "too many requests wait for a connection");
      return;
    }
    this.#mesh = mesh;
    this.#sentAtMs = this.#services.clock.monotonicMs();
    const { stream } = mesh;
    const { h2, countersigner } = connection;
    const { protocol, serverName } = this.#deps.spoken;
    const proof = countersigner.fields("unknown", destination.packsDigest, chain, undefined, nowMs);
    h2.beginHeaders(stream);
    h2.putField(CONNECT);
    h2.putField(this.#services.cache.get(":authority", authorityOf(destination)));
    h2.putField(proof.wit);
    h2.putField(proof.wpt);
    if (proof.txn !== undefined) h2.putField(proof.txn);
    h2.putField(destination.portField);
    h2.putField(protocol === "tls" ? TLS : TCP);
    if (serverName !== undefined) h2.putPair(COUNTERSIGN_SNI, serverName);
    h2.putPair("traceparent", this.#facts.traceparent ?? "");
    h2.endHeaders(false);
  }

  onUpstreamInformational(): void {
    // Says nothing that bytes could be told of.
  }

  onUpstreamHead(fields: readonly Field[], endStream: boolean): void {
    if (this.#over) return;
    const { clock } = this.#services;
    this.#facts.answerBegins(clock.monotonicMs(), this.#sentAtMs);
    // INVARIANT: the codec refuses a response whose first field is not a :status of three digits.
    const status = Number(fields[0]?.value);
    this.#facts.status = status;
    const mesh = this.#mesh;
    if (status < 200 || status > 299 || mesh === undefined) {
      // Decided and recorded at the callee.
      this.#facts.error = `the callee's sidecar refused the connection (status ${status})`;
      if (this.#deps.asker !== undefined && status >= 300) {
        this.#denial = { status, fields, body: EMPTY };
        if (endStream) this.#deny(this.#denial);
        return;
      }
      if (!endStream) mesh?.reset();
      this.#abort();
      return;
    }
    this.#touch();
    if (this.#member !== undefined) this.#facts.destination?.group.ended(this.#member, "good");
    this.#tunnel = new Tunnel(
      this.#socket,
      {
        send: (chunk, end) => mesh.sendData(chunk, end),
        consumed: (bytes) => mesh.passedOn(bytes),
        reset: (code) => mesh.reset(code),
      },
      { onTunnelOver: (end) => this.#onTunnelOver(end), onTunnelClosed: () => this.#deps.onClosed(this) },
    );
    this.#deps.asker?.agreed();
    this.#tunnel.start();
    const { early } = this.#deps;
    if (early !== undefined && early.length > 0) this.#tunnel.onData(early);
    const { all } = this.#deps.spoken;
    if (all !== undefined) this.#tunnel.onData(all);
    if (all !== undefined || this.#isEnded) this.#tunnel.onEnd();
    if (endStream) this.#tunnel.onStreamData(EMPTY, true);
  }

  onUpstreamData(chunk: Buffer, endStream: boolean): void {
    if (this.#tunnel !== undefined) this.#tunnel.onStreamData(chunk, endStream);
    else if (this.#denial !== undefined) this.#hearDenial(this.#denial, chunk, endStream);
    else this.#mesh?.passedOn(chunk.length);
  }

  #hearDenial(denial: Denial, chunk: Buffer, endStream: boolean): void {
    this.#mesh?.passedOn(chunk.length);
    if (denial.body.length + chunk.length <= MAX_DENIAL_BYTES)
      denial.body = Buffer.concat([denial.body, chunk]);
    if (endStream) this.#deny(denial);
  }

  #deny({ status, fields, body }: Denial): void {
    if (this.#over) return;
    this.#mesh?.reset();
    this.#deps.asker?.denied(status, fields, body);
    this.#finish();
  }

  onUpstreamTrailers(): void {
    if (this.#denial !== undefined) this.#deny(this.#denial);
    this.#tunnel?.cut("the callee's sidecar sent trailers on a tunnel");
  }

  onUpstreamWritable(): void {
    this.#tunnel?.onStreamWritable();
  }

  onUpstreamFailed(
    kind: "connect" | "closed" | "reset" | "timeout",
    detail: string,
    untouched: boolean,
    code: number,
  ): void {
    if (this.#over) return;
    this.#mesh = undefined;
    this.#facts.error = detail;
    if (this.#denial !== undefined) {
      this.#deny(this.#denial);
      return;
    }
    if (this.#tunnel === undefined && code !== REFUSED_STREAM && this.#member !== undefined)
      this.#facts.destination?.group.failed(this.#member);
    if (this.#tunnel !== undefined) this.#tunnel.onStreamGone(detail);
    else if (untouched) this.#route();
    else this.#refuse(kind === "timeout" ? "UPSTREAM_TIMEOUT" : "UPSTREAM_FAILED", detail);
  }

  // --- from the application, and time ----------------------------------------------------------------------------

  #onAppClosed(): void {
    this.#facts.error ??= "the application closed the connection";
    this.#abort();
    this.#deps.onClosed(this);
  }

  sweep(nowMs: number): void {
    if (this.#over) return;
    const tunnel = this.#tunnel;
    if (tunnel !== undefined) {
      const bytes = tunnel.received + tunnel.sent;
      if (bytes !== this.#bytesSeen) {
        this.#bytesSeen = bytes;
        this.#touch();
      }
    }
    if (nowMs < this.#deadlineMs) return;
    if (tunnel === undefined) this.#refuse("UPSTREAM_TIMEOUT", "the callee's sidecar did not answer in time");
    else tunnel.cut("the connection was idle for too long");
  }

  /** A connection has no end of an answer that could be waited for: it goes on until the process ends. */
  drain(): void {}

  destroy(): void {
    if (this.#tunnel !== undefined && !this.#over) this.#tunnel.cut("the caller's sidecar ends");
    else {
      this.#abort();
      this.#socket.destroy();
    }
  }

  // --- shared ----------------------------------------------------------------------------------------------------

  #touch(): void {
    const { streamMs } = this.#facts.destination?.group.traffic.timing ?? {
      streamMs: Number.POSITIVE_INFINITY,
    };
    this.#deadlineMs = this.#services.clock.monotonicMs() + (Number.isFinite(streamMs) ? streamMs : IDLE_MS);
  }

  /** It never came to the callee: recorded here. */
  #refuse(reason: Reason, detail: string): void {
    if (reason === "OVERLOADED") this.#facts.destination?.group.overflowed();
    this.#facts.error = detail;
    this.#facts.reason = reason;
    this.#abort();
  }

  #onTunnelOver(end: TunnelEnd): void {
    const tunnel = this.#tunnel;
    this.#facts.requestBytes = tunnel?.received ?? 0;
    this.#facts.responseBytes = tunnel?.sent ?? 0;
    this.#facts.error = end;
    this.#finish();
  }

  /** Before there is a tunnel. */
  #abort(): void {
    if (this.#over) return;
    this.#facts.upstream?.cancel(this);
    this.#mesh?.reset();
    if (this.#deps.asker !== undefined && this.#facts.reason !== "ALLOWED")
      this.#deps.asker.refused(this.#facts);
    else this.#socket.reset();
    this.#finish();
  }

  #finish(): void {
    if (this.#over) return;
    this.#over = true;
    this.#socket.linger(LINGER_MS);
    this.#mesh?.release();
    this.#mesh = undefined;
    this.#facts.record(this.#services);
  }
}

/** What is known of a connection before it is carried. */
export function connectionFacts(fixed: FixedDestination, services: OutboundServices): CallFacts {
  const facts = new CallFacts(headOf(fixed), services.clock.monotonicMs(), services.meshNowMs());
  facts.fixed = fixed;
  // There is nothing in the bytes that we could know of a trace: each connection begins one.
  facts.traceparent = createTraceparent(services.ids);
  facts.ownTrace = true;
  return facts;
}

/** The same of one to a host outside the mesh. */
export function hostFacts(host: string, port: number, services: OutboundServices): CallFacts {
  const authority = `${host}:${port}`;
  const head = {
    method: "TCP",
    target: authority,
    authority,
    fields: [],
    upgrade: undefined,
    connectionNames: [],
  };
  const facts = new CallFacts(head, services.clock.monotonicMs(), services.meshNowMs());
  facts.traceparent = createTraceparent(services.ids);
  facts.ownTrace = true;
  return facts;
}

/** Records a connection that is not carried: the workload may not call what it leads to. Whoever calls this resets it. */
export function recordRefusal(
  fixed: FixedDestination,
  reason: Reason,
  detail: string,
  services: OutboundServices,
): void {
  const facts = connectionFacts(fixed, services);
  facts.reason = reason;
  facts.error = detail;
  facts.record(services);
}

const EMPTY = Buffer.alloc(0);

/** The callee's name as HTTP/2 wants it of a CONNECT: host and port. */
function authorityOf({ service, port }: Destination): string {
  return `${service.hosts[0] ?? service.id.replace("/", ".")}:${port.port}`;
}

/** A connection in the words of a request, for counters, audit and log. */
function headOf({ port }: FixedDestination): OutboundHead {
  return {
    method: "TCP",
    target: `:${port}`,
    authority: "",
    fields: [],
    upgrade: undefined,
    connectionNames: [],
  };
}
