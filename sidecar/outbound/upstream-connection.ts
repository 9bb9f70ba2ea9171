// One HTTP/2 connection over mutual TLS to another sidecar: its streams, its keep-alive, its end.
import type { X509Certificate } from "node:crypto";
import { type ConnectionOptions, connect as connectTls, type TLSSocket } from "node:tls";
import type { Timed } from "../balance/deadline-wheel.ts";
import type { Deadlines } from "../balance/deadlines.ts";
import type { Limits, Timeouts } from "../config.ts";
import { type Anchors, isAnchored } from "../core/identity/anchors.ts";
import type { ProofSigner } from "../core/identity/proofs.ts";
import type { WorkloadIdentity } from "../core/identity/workload-identity.ts";
import type { Clock } from "../core/runtime/clock.ts";
import { messageOf } from "../core/runtime/errors.ts";
import type { Logger } from "../core/runtime/log.ts";
import type { SidecarMetrics } from "../metrics.ts";
import type { Field } from "../wire/field.ts";
import type { FieldCache } from "../wire/field-cache.ts";
import { Http2Connection, type Http2Error, type Http2Stream } from "../wire/http2/connection.ts";
import type { Http2Shared } from "../wire/http2/shared.ts";
import { KeepAlive } from "../wire/keep-alive.ts";
import { SlotList, type Slotted } from "../wire/slot-list.ts";
import { MeshSocket } from "../wire/socket.ts";
import { Countersigner } from "./attach.ts";
import type { Upstream } from "./upstream.ts";

/** A request on its way; exactly one of the last two ends its time on a connection. */
export interface UpstreamExchange extends Slotted {
  /** A connection with a free stream is there: send the request on it. */
  onUpstreamReady(connection: UpstreamConnection): void;
  onUpstreamHead(fields: readonly Field[], endStream: boolean): void;
  onUpstreamInformational(fields: readonly Field[]): void;
  onUpstreamData(chunk: Buffer, endStream: boolean): void;
  onUpstreamTrailers(fields: readonly Field[]): void;
  onUpstreamWritable(): void;
  /** @param untouched true: the callee certainly did not process the request. */
  onUpstreamFailed(
    kind: "connect" | "closed" | "reset" | "timeout",
    detail: string,
    untouched: boolean,
    code: number,
  ): void;
}

export interface UpstreamDeps {
  readonly cache: FieldCache;
  readonly http2: Http2Shared;
  readonly clock: Clock;
  readonly meshNowMs: () => number;
  readonly timeouts: Timeouts;
  readonly limits: Limits;
  readonly metrics: SidecarMetrics;
  readonly log: Logger;
  readonly random: () => number;
  readonly randomId: () => string;
  readonly anchors: Anchors;
  readonly deadlines: Deadlines;
  /** Zone of this sidecar; empty: not known. */
  readonly zone: () => string;
  /** Mutual TLS with an identity, towards a peer that must have this SPIFFE ID. */
  readonly tlsOptions: (
    identity: WorkloadIdentity,
    expectedSpiffeId: string,
    nowMs: () => number,
    alpn: readonly string[],
  ) => ConnectionOptions;
}

type Stream = Http2Stream<UpstreamExchange | undefined>;

const REFUSED_STREAM = 0x7;
const NO_ERROR = 0x0;

/** One identity with what is made from it: its signer outlives no renewal, since proofs name the leaf of a connection. */
export interface SigningIdentity {
  readonly identity: WorkloadIdentity;
  readonly signer: ProofSigner;
}

export class UpstreamConnection implements Timed {
  readonly signing: SigningIdentity;
  readonly countersigner: Countersigner;
  readonly #upstream: Upstream;
  readonly #deps: UpstreamDeps;
  readonly #raw: TLSSocket;
  readonly #exchanges = new SlotList<UpstreamExchange>();
  #socket: MeshSocket | undefined;
  #h2: Http2Connection<UpstreamExchange | undefined> | undefined;
  #ready = false;
  #closed = false;
  #retiring = false;
  #dataPaused = false;
  /** Of connecting; monotonic milliseconds. */
  readonly deadlineMs: number;
  wheelSlot = -1;
  wheelIndex = -1;
  /** What the callee's certificate rests on, and its end in Unix milliseconds. */
  #anchor: X509Certificate | undefined;
  /** Of a bundle that came after this connection was begun. */
  #newRoots: readonly X509Certificate[] | undefined;
  #peerUntilMs = 0;
  readonly #keepAlive = new KeepAlive();
  readonly #flush = (): void => {
    this.#h2?.flush();
    const socket = this.#socket;
    if (socket === undefined) return;
    socket.flush();
    if (!this.#dataPaused && socket.congested) {
      this.#dataPaused = true;
      this.#h2?.pauseData();
    }
  };

  constructor(upstream: Upstream, signing: SigningIdentity, connectMs: number, deps: UpstreamDeps) {
    this.#upstream = upstream;
    this.#deps = deps;
    this.signing = signing;
    const { endpoint } = upstream;
    this.countersigner = new Countersigner(signing.signer, endpoint.spiffeId, deps.cache);
    this.deadlineMs = deps.clock.monotonicMs() + connectMs;
    this.#raw = connectTls({
      ...deps.tlsOptions(signing.identity, endpoint.spiffeId, deps.meshNowMs, ["h2"]),
      host: endpoint.address,
      port: endpoint.meshPort,
    });
    deps.deadlines.add(this);
    this.#raw.once("secureConnect", () => this.#onSecure());
    this.#raw.once("error", (error) => this.#onClose(error));
    this.#raw.once("close", () => this.#onClose(undefined));
  }

  get ready(): boolean {
    return this.#ready && !this.#closed && !this.#retiring && this.#h2?.goingAway === false;
  }

  get closed(): boolean {
    return this.#closed;
  }

  get retiring(): boolean {
    return this.#retiring || this.#h2?.goingAway === true;
  }

  /** Whether a request can be sent on it now. */
  get hasRoom(): boolean {
    return this.ready && this.#h2?.hasRoom === true;
  }

  get openExchanges(): number {
    return this.#exchanges.size;
  }

  /** The codec, for the exchange that sends on it. @throws never in an exchange: it has a stream of this connection. */
  get h2(): Http2Connection<UpstreamExchange | undefined> {
    if (this.#h2 === undefined) throw new Error("no stream can be open on a connection that does not stand");
    return this.#h2;
  }

  /** A stream for this exchange; undefined at the callee's limit or when it is going away. */
  open(exchange: UpstreamExchange): Stream | undefined {
    const stream = this.#h2?.openStream(exchange);
    if (stream !== undefined) this.#exchanges.add(exchange);
    return stream;
  }

  /** The exchange needs its stream no more. */
  finished(exchange: UpstreamExchange, stream: Stream): void {
    stream.context = undefined;
    if (!this.#exchanges.delete(exchange)) return;
    if (this.retiring && this.#exchanges.size === 0) this.#end();
    this.#upstream.onRoom();
  }

  /** Asks the peer's codec for a sign of life; it is told through `Upstream.onPong`. */
  ping(): void {
    this.#h2?.ping();
    setImmediate(this.#flush);
  }

  /** Takes no new requests; closes after the last of the open ones. */
  retire(): void {
    if (this.#retiring || this.#closed) return;
    this.#retiring = true;
    this.#h2?.goaway(NO_ERROR);
    if (this.#exchanges.size === 0) this.#end();
  }

  destroy(): void {
    this.#raw.destroy();
  }

  /** The trust bundle changed: a callee whose certificate rests on a withdrawn root gets nothing more. */
  recheck(roots: readonly X509Certificate[]): void {
    this.#newRoots = roots;
    // A handshake that is under way is held against them when it is done.
    if (!this.#closed && this.#socket !== undefined && !isAnchored(this.#anchor, roots)) this.#distrust();
  }

  #distrust(): void {
    const { metrics, log } = this.#deps;
    metrics.problems.add(metrics.problems.series("upstream", "distrusted"));
    log.warn("connection ended: the trust bundle has no root of the callee's certificate any more", {
      peer: this.#upstream.endpoint.spiffeId,
    });
    this.#raw.destroy(new Error("the callee's certificate is not trusted any more"));
  }

  sweep(nowMs: number): void {
    if (this.#closed) return;
    // Its end is looked at during the handshake only; a new connection gets the renewed one.
    if (this.#ready && !this.#retiring && this.#deps.meshNowMs() >= this.#peerUntilMs)
      this.#upstream.expire(this);
    if (!this.#ready) {
      if (nowMs >= this.deadlineMs) this.timeOut();
      return;
    }
    this.#h2?.sweepWaiting();
    const state = this.#keepAlive.check(nowMs);
    if (state === "ping") this.#h2?.ping();
    else if (state === "dead") this.#raw.destroy(new Error("the callee's sidecar does not answer any more"));
  }

  timeOut(): void {
    if (!this.#ready) this.#raw.destroy(new Error("connecting took too long"));
  }

  #end(): void {
    setImmediate(() => {
      this.#flush();
      this.#socket?.end();
    });
  }

  #onSecure(): void {
    if (this.#raw.alpnProtocol !== "h2") {
      this.#raw.destroy(new Error("the peer does not speak HTTP/2"));
      return;
    }
    const certificate = this.#raw.getPeerX509Certificate();
    this.#anchor = this.#deps.anchors.of(certificate);
    this.#peerUntilMs = certificate === undefined ? 0 : certificate.validToDate.getTime() + 1_000;
    if (this.#newRoots !== undefined && !isAnchored(this.#anchor, this.#newRoots)) {
      this.#distrust();
      return;
    }
    const socket = new MeshSocket(this.#raw);
    this.#socket = socket;
    const h2 = new Http2Connection<UpstreamExchange | undefined>({
      role: "client",
      // A head of the application's 100 fields, and what the hop adds.
      settings: { maxFields: 128 },
      cache: this.#deps.cache,
      nowMs: () => this.#deps.clock.monotonicMs(),
      write: (bytes) => socket.write(bytes),
      writeNow: (bytes) => socket.writeNow(bytes),
      shared: this.#deps.http2,
      requestFlush: () => this.#deps.http2.turns.add(this.#flush),
      handler: {
        onHeaders: (stream, fields, endStream) => stream.context?.onUpstreamHead(fields, endStream),
        onInformational: (stream, fields) => stream.context?.onUpstreamInformational(fields),
        onData: (stream, chunk, endStream) => {
          if (stream.context === undefined) h2.consumed(stream, chunk.length);
          else stream.context.onUpstreamData(chunk, endStream);
        },
        onTrailers: (stream, fields) => stream.context?.onUpstreamTrailers(fields),
        onReset: (stream, code) => this.#onReset(stream, code),
        onWritable: (stream) => stream.context?.onUpstreamWritable(),
        onGoaway: () => this.#onGoaway(),
        onPong: () => this.#upstream.onPong(),
        onClosed: (error) => this.#onProtocolEnd(error),
      },
    });
    this.#h2 = h2;
    socket.attach({
      onData: (chunk) => {
        // With TLS 1.3 the server may refuse our certificate after the client believes the handshake done: its first
        // bytes are what shows that it did not.
        const first = !this.#ready;
        this.#keepAlive.heard();
        h2.receive(chunk);
        if (first && !this.#closed) {
          this.#ready = true;
          this.#deps.deadlines.remove(this);
          this.#upstream.onReady(this);
        }
      },
      onEnd: () => {
        h2.eof();
        socket.end();
      },
      onDrain: () => {
        if (!this.#dataPaused) return;
        this.#dataPaused = false;
        h2.resumeData();
      },
      onClose: (error) => this.#onClose(error),
    });
  }

  #onReset(stream: Stream, code: number): void {
    const exchange = stream.context;
    if (exchange === undefined) return;
    stream.context = undefined;
    this.#exchanges.delete(exchange);
    exchange.onUpstreamFailed(
      "reset",
      `the callee's sidecar reset the stream (code ${code})`,
      code === REFUSED_STREAM,
      code,
    );
    if (this.retiring && this.#exchanges.size === 0) this.#end();
    this.#upstream.onRoom();
  }

  #onGoaway(): void {
    this.#upstream.onGoingAway(this);
    if (this.#exchanges.size === 0) this.#end();
  }

  #onProtocolEnd(error: Http2Error | undefined): void {
    this.#flush();
    if (error !== undefined) {
      this.#deps.metrics.problems.add(this.#deps.metrics.problems.series("upstream", "http2"));
      this.#deps.log.warn("connection to another sidecar broke the protocol", {
        peer: this.#upstream.endpoint.spiffeId,
        code: error.code,
        detail: error.message,
      });
    }
    this.#socket?.end();
    this.#fail(error?.message ?? "the connection to the callee's sidecar ended");
  }

  #onClose(error: Error | undefined): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#deps.deadlines.remove(this);
    this.#raw.destroy();
    const detail = error === undefined ? "the connection to the callee's sidecar closed" : messageOf(error);
    this.#fail(detail);
    this.#h2?.forget();
    this.#upstream.onClosed(this, this.#ready, detail);
  }

  #fail(detail: string): void {
    for (const exchange of this.#exchanges.take()) exchange.onUpstreamFailed("closed", detail, false, -1);
  }
}
