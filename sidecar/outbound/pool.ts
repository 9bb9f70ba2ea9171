// Connections to other sidecars: one HTTP/2 connection over mutual TLS per endpoint, opened when first needed, replaced
// when the identity is renewed, and tried again with backoff. Requests that were never processed may move elsewhere.
import type { X509Certificate } from "node:crypto";
import { type ConnectionOptions, connect as connectTls, type TLSSocket } from "node:tls";
import type { Candidate } from "../balance/pick.ts";
import type { Limits, Timeouts } from "../config.ts";
import { Anchors, isAnchored } from "../core/identity/anchors.ts";
import { ProofSigner } from "../core/identity/proofs.ts";
import type { WorkloadIdentity } from "../core/identity/workload-identity.ts";
import { backoffMs } from "../core/runtime/backoff.ts";
import type { Clock } from "../core/runtime/clock.ts";
import { messageOf } from "../core/runtime/errors.ts";
import type { Logger } from "../core/runtime/log.ts";
import type { MeshEndpoint } from "../discovery/table.ts";
import type { SidecarMetrics } from "../metrics.ts";
import type { Field } from "../wire/field.ts";
import type { FieldCache } from "../wire/field-cache.ts";
import { Http2Connection, type Http2Error, type Http2Stream } from "../wire/http2/connection.ts";
import { KeepAlive } from "../wire/keep-alive.ts";
import { SlotList, type Slotted } from "../wire/slot-list.ts";
import { HIGH_WATER_BYTES, MeshSocket } from "../wire/socket.ts";
import { Countersigner } from "./attach.ts";

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
  readonly clock: Clock;
  readonly meshNowMs: () => number;
  readonly timeouts: Timeouts;
  readonly limits: Limits;
  readonly metrics: SidecarMetrics;
  readonly log: Logger;
  readonly random: () => number;
  readonly randomId: () => string;
  readonly anchors: Anchors;
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
const CONNECT_BACKOFF = { firstMs: 100, maxMs: 5_000 };

/** One identity with what is made from it: its signer outlives no renewal, since proofs name the leaf of a connection. */
export interface SigningIdentity {
  readonly identity: WorkloadIdentity;
  readonly signer: ProofSigner;
}

export class UpstreamConnection {
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
  readonly #deadlineMs: number;
  /** What the callee's certificate rests on, and its end in Unix milliseconds. */
  #anchor: X509Certificate | undefined;
  #peerUntilMs = 0;
  readonly #keepAlive = new KeepAlive();
  readonly #flush = (): void => {
    this.#h2?.flush();
    const socket = this.#socket;
    if (socket === undefined) return;
    socket.flush();
    if (!this.#dataPaused && socket.bufferedBytes >= HIGH_WATER_BYTES) {
      this.#dataPaused = true;
      this.#h2?.pauseData();
    }
  };

  constructor(upstream: Upstream, signing: SigningIdentity, deps: UpstreamDeps) {
    this.#upstream = upstream;
    this.#deps = deps;
    this.signing = signing;
    const { endpoint } = upstream;
    this.countersigner = new Countersigner(signing.signer, endpoint.spiffeId, deps.cache);
    this.#deadlineMs = deps.clock.monotonicMs() + deps.timeouts.connectMs;
    this.#raw = connectTls({
      ...deps.tlsOptions(signing.identity, endpoint.spiffeId, deps.meshNowMs, ["h2"]),
      host: endpoint.address,
      port: endpoint.meshPort,
    });
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
    if (this.#closed || !this.#ready || isAnchored(this.#anchor, roots)) return;
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
      if (nowMs >= this.#deadlineMs) this.#raw.destroy(new Error("connecting took too long"));
      return;
    }
    const state = this.#keepAlive.check(nowMs);
    if (state === "ping") this.#h2?.ping();
    else if (state === "dead") this.#raw.destroy(new Error("the callee's sidecar does not answer any more"));
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
    const socket = new MeshSocket(this.#raw);
    this.#socket = socket;
    const h2 = new Http2Connection<UpstreamExchange | undefined>({
      role: "client",
      // A head of the application's 100 fields, and what the hop adds.
      settings: { maxFields: 128 },
      cache: this.#deps.cache,
      nowMs: () => this.#deps.clock.monotonicMs(),
      write: (bytes) => socket.write(bytes),
      requestFlush: () => setImmediate(this.#flush),
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
    this.#raw.destroy();
    const detail = error === undefined ? "the connection to the callee's sidecar closed" : messageOf(error);
    this.#fail(detail);
    this.#upstream.onClosed(this, this.#ready, detail);
  }

  #fail(detail: string): void {
    for (const exchange of this.#exchanges.take()) exchange.onUpstreamFailed("closed", detail, false, -1);
  }
}

/** One endpoint of a service. */
export class Upstream implements Candidate {
  readonly endpoint: MeshEndpoint;
  readonly #pool: UpstreamPool;
  readonly #deps: UpstreamDeps;
  #current: UpstreamConnection | undefined;
  #next: UpstreamConnection | undefined;
  readonly #retired = new Set<UpstreamConnection>();
  #waiting: UpstreamExchange[] = [];
  #failures = 0;
  #usableAtMs = 0;

  constructor(endpoint: MeshEndpoint, pool: UpstreamPool, deps: UpstreamDeps) {
    this.endpoint = endpoint;
    this.#pool = pool;
    this.#deps = deps;
  }

  get load(): number {
    return (this.#current?.openExchanges ?? 0) + this.#waiting.length;
  }

  get usable(): boolean {
    return (
      this.#failures === 0 ||
      this.#current?.ready === true ||
      this.#deps.clock.monotonicMs() >= this.#usableAtMs
    );
  }

  get state(): string {
    return this.#current?.ready
      ? "ready"
      : this.#next !== undefined
        ? "connecting"
        : this.#failures > 0
          ? "failed"
          : "idle";
  }

  /** Sends now, or as soon as a connection stands. False when too many wait already. */
  request(exchange: UpstreamExchange): boolean {
    if (this.#current?.ready && this.#waiting.length === 0) {
      exchange.onUpstreamReady(this.#current);
      return true;
    }
    if (this.#waiting.length >= this.#deps.limits.pendingRequests) return false;
    this.#waiting.push(exchange);
    if (!this.#current?.ready) this.#connect();
    return true;
  }

  /** An exchange that waited does not want to any more. */
  cancel(exchange: UpstreamExchange): void {
    const at = this.#waiting.indexOf(exchange);
    if (at >= 0) this.#waiting.splice(at, 1);
  }

  /** A connection refused a stream for lack of room: the exchange waits for the next one. */
  wait(exchange: UpstreamExchange): boolean {
    if (this.#waiting.length >= this.#deps.limits.pendingRequests) return false;
    this.#waiting.push(exchange);
    if (!this.#current?.ready) this.#connect();
    return true;
  }

  /** A renewed identity: opens a connection with it, which then takes over from the old one. */
  renew(): void {
    if (this.#current !== undefined && !this.#current.closed) this.#connect();
  }

  retire(): void {
    this.#current?.retire();
    if (this.#current !== undefined) this.#retired.add(this.#current);
    this.#current = undefined;
    this.#next?.destroy();
  }

  destroy(): void {
    for (const connection of [this.#current, this.#next, ...this.#retired]) connection?.destroy();
  }

  recheck(roots: readonly X509Certificate[]): void {
    for (const connection of [this.#current, ...this.#retired]) connection?.recheck(roots);
  }

  /** The callee's certificate has ended: open requests finish, the next one opens a connection. */
  expire(connection: UpstreamConnection): void {
    connection.retire();
    this.onGoingAway(connection);
  }

  sweep(nowMs: number): void {
    this.#next?.sweep(nowMs);
    this.#current?.sweep(nowMs);
    for (const connection of this.#retired) connection.sweep(nowMs);
  }

  get openExchanges(): number {
    let open = this.load;
    for (const connection of this.#retired) open += connection.openExchanges;
    return open;
  }

  onReady(connection: UpstreamConnection): void {
    if (this.#next === connection) this.#next = undefined;
    this.#failures = 0;
    const before = this.#current;
    this.#current = connection;
    if (before !== undefined && before !== connection) {
      if (!before.closed) this.#retired.add(before);
      before.retire();
    }
    this.onRoom();
  }

  onGoingAway(connection: UpstreamConnection): void {
    if (this.#current !== connection) return;
    this.#current = undefined;
    if (!connection.closed) this.#retired.add(connection);
  }

  /** A stream became free, or a connection did. */
  onRoom(): void {
    while (this.#waiting.length > 0 && this.#current?.ready) {
      const before = this.#waiting.length;
      const exchange = this.#waiting.shift();
      exchange?.onUpstreamReady(this.#current);
      // It went back to the end of the queue: no stream is free.
      if (this.#waiting.length >= before) return;
    }
    if (this.#waiting.length > 0 && this.#current?.ready !== true) this.#connect();
  }

  onClosed(connection: UpstreamConnection, wasReady: boolean, detail: string): void {
    this.#retired.delete(connection);
    if (this.#current === connection) this.#current = undefined;
    if (this.#next === connection) this.#next = undefined;
    if (wasReady) {
      if (this.#waiting.length > 0) this.#connect();
      return;
    }
    const { clock, random, log, metrics } = this.#deps;
    const delayMs = backoffMs(this.#failures, CONNECT_BACKOFF, random());
    if (this.#failures === 0)
      log.warn("another sidecar cannot be reached", {
        peer: this.endpoint.spiffeId,
        address: this.endpoint.address,
        port: this.endpoint.meshPort,
        detail,
      });
    this.#failures++;
    this.#usableAtMs = clock.monotonicMs() + delayMs;
    metrics.connections.add(metrics.connections.series("upstream", "failed"));
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const exchange of waiting) exchange.onUpstreamFailed("connect", detail, true, -1);
  }

  #connect(): void {
    if (this.#next !== undefined) return;
    const signing = this.#pool.signing;
    if (signing === undefined) return;
    const { metrics } = this.#deps;
    metrics.connections.add(metrics.connections.series("upstream", "opened"));
    this.#next = new UpstreamConnection(this, signing, this.#deps);
  }
}

/** Every endpoint that was called, across tables. */
export class UpstreamPool {
  readonly #deps: UpstreamDeps;
  readonly #upstreams = new Map<string, Upstream>();
  /** No table names them any more; they finish what they have. */
  readonly #leaving = new Set<Upstream>();
  #signing: SigningIdentity | undefined;
  /** Of signers that were replaced; what they still sign for open connections is not counted. */
  readonly #signedBefore = { hits: 0, signed: 0 };

  constructor(deps: Omit<UpstreamDeps, "anchors">) {
    this.#deps = { ...deps, anchors: new Anchors() };
  }

  get signing(): SigningIdentity | undefined {
    return this.#signing;
  }

  /** Proofs taken from the cache and signed since the start. */
  get signed(): { readonly hits: number; readonly signed: number } {
    const stats = this.#signing?.signer.stats;
    return {
      hits: this.#signedBefore.hits + (stats?.hits ?? 0),
      signed: this.#signedBefore.signed + (stats?.signed ?? 0),
    };
  }

  get upstreams(): Iterable<Upstream> {
    return this.#upstreams.values();
  }

  upstream(endpoint: MeshEndpoint): Upstream {
    const key = keyOf(endpoint);
    let upstream = this.#upstreams.get(key);
    if (upstream === undefined) {
      upstream = new Upstream(endpoint, this, this.#deps);
      this.#upstreams.set(key, upstream);
    }
    return upstream;
  }

  /** From now on connections are made, and proofs signed, with this identity. */
  setIdentity(identity: WorkloadIdentity): void {
    const { meshNowMs, randomId } = this.#deps;
    Object.assign(this.#signedBefore, this.signed);
    this.#signing = {
      identity,
      signer: new ProofSigner({ identity: () => identity, nowMs: meshNowMs, randomId }),
    };
    for (const upstream of this.#upstreams.values()) upstream.renew();
  }

  /** Lets go of endpoints that the table no longer names; their open requests end in peace. */
  keep(endpoints: Iterable<MeshEndpoint>): void {
    const named = new Set<string>();
    for (const endpoint of endpoints) named.add(keyOf(endpoint));
    for (const [key, upstream] of this.#upstreams) {
      if (named.has(key)) continue;
      this.#upstreams.delete(key);
      upstream.retire();
      if (upstream.openExchanges > 0) this.#leaving.add(upstream);
    }
  }

  /** Ends connections to callees that these roots do not vouch for. */
  recheck(roots: readonly X509Certificate[]): void {
    for (const upstream of this.#upstreams.values()) upstream.recheck(roots);
    for (const upstream of this.#leaving) upstream.recheck(roots);
  }

  sweep(nowMs: number): void {
    for (const upstream of this.#upstreams.values()) upstream.sweep(nowMs);
    for (const upstream of this.#leaving) {
      upstream.sweep(nowMs);
      if (upstream.openExchanges === 0) this.#leaving.delete(upstream);
    }
  }

  retire(): void {
    for (const upstream of this.#upstreams.values()) upstream.retire();
  }

  destroy(): void {
    for (const upstream of [...this.#upstreams.values(), ...this.#leaving]) upstream.destroy();
  }
}

function keyOf(endpoint: MeshEndpoint): string {
  return `${endpoint.spiffeId} ${endpoint.address} ${endpoint.meshPort}`;
}
