// One endpoint of a service: its connections, and the requests that wait for one. The first is opened when it is needed,
// further ones when all streams are taken, all are replaced when the identity is renewed; tried again with backoff.
import type { X509Certificate } from "node:crypto";
import { backoffMs } from "../core/runtime/backoff.ts";
import type { MeshEndpoint } from "../discovery/table.ts";
import type { UpstreamPool } from "./pool.ts";
import type { EndpointBounds } from "./service-traffic.ts";
import { UpstreamConnection, type UpstreamDeps, type UpstreamExchange } from "./upstream-connection.ts";

const CONNECT_BACKOFF = { firstMs: 100, maxMs: 5_000 };
/** A further connection without a request ends after so long. */
const EXTRA_IDLE_MS = 30_000;

/** One endpoint of a service. */
export class Upstream {
  endpoint: MeshEndpoint;
  readonly #pool: UpstreamPool;
  readonly #deps: UpstreamDeps;
  /** Take new requests, the oldest first: so its tables stay warm and further ones fall idle. */
  readonly #active: UpstreamConnection[] = [];
  #next: UpstreamConnection | undefined;
  readonly #retired = new Set<UpstreamConnection>();
  #waiting: UpstreamExchange[] = [];
  #pongs: (() => void)[] = [];
  #failures = 0;
  #usableAtMs = 0;
  #recoveredAtMs = Number.NEGATIVE_INFINITY;
  /** Of the last request: connecting is done by them. */
  #bounds: EndpointBounds;
  #extraBusyMs = 0;
  #left = false;

  constructor(endpoint: MeshEndpoint, pool: UpstreamPool, deps: UpstreamDeps, bounds: EndpointBounds) {
    this.endpoint = endpoint;
    this.#pool = pool;
    this.#deps = deps;
    this.#bounds = bounds;
  }

  /** Requests under way and waiting, without those on connections that are being left. */
  get load(): number {
    let load = this.#waiting.length;
    for (const connection of this.#active) load += connection.openExchanges;
    return load;
  }

  /**
   * False after an attempt to connect failed, until one succeeds: they go on by themselves, so that no call has to find out
   * whether the endpoint is back.
   */
  get reachable(): boolean {
    return this.#failures === 0 || this.#active.length > 0;
  }

  /** When it was reached again after failures; monotonic milliseconds. */
  get recoveredAtMs(): number {
    return this.#recoveredAtMs;
  }

  get connections(): number {
    return this.#active.length + this.#retired.size + (this.#next === undefined ? 0 : 1);
  }

  get state(): string {
    return this.#active.length > 0
      ? "ready"
      : this.#next !== undefined
        ? "connecting"
        : this.#failures > 0
          ? "failed"
          : "idle";
  }

  /** Sends now, or as soon as a connection has a free stream. False when too many wait already. */
  request(exchange: UpstreamExchange, bounds: EndpointBounds): boolean {
    this.#bounds = bounds;
    const connection = this.#waiting.length === 0 ? this.#free() : undefined;
    if (connection === undefined) return this.wait(exchange);
    exchange.onUpstreamReady(connection);
    return true;
  }

  /** An exchange that waited does not want to any more. */
  cancel(exchange: UpstreamExchange): void {
    const at = this.#waiting.indexOf(exchange);
    if (at >= 0) this.#waiting.splice(at, 1);
  }

  /** Waits for a stream. False when too many do already. */
  wait(exchange: UpstreamExchange): boolean {
    if (this.#waiting.length >= this.#bounds.pending) return false;
    this.#waiting.push(exchange);
    this.#grow();
    return true;
  }

  /** Asks the other sidecar for a sign of life, over a connection that is opened for it where there is none. */
  ping(onPong: () => void, bounds: EndpointBounds): void {
    this.#pongs.push(onPong);
    const connection = this.#active[0];
    if (connection !== undefined) connection.ping();
    else {
      this.#bounds = bounds;
      this.#connect();
    }
  }

  onPong(): void {
    const pongs = this.#pongs;
    if (pongs.length === 0) return;
    this.#pongs = [];
    for (const pong of pongs) pong();
  }

  /** A renewed identity: opens a connection with it, which then takes over from the old ones. */
  renew(): void {
    if (this.#active.length > 0) this.#connect();
  }

  retire(): void {
    for (const connection of this.#active.splice(0)) this.#leave(connection);
    this.#next?.destroy();
  }

  /** No table names it any more: what still waits for a connection goes elsewhere, what is open finishes. */
  leave(): void {
    this.#left = true;
    this.retire();
    this.#failWaiting("the endpoint is gone");
  }

  destroy(): void {
    for (const connection of this.#all()) connection.destroy();
  }

  /** A handshake that is under way may have been made by the bundle before: it is held against this one too. */
  recheck(roots: readonly X509Certificate[]): void {
    for (const connection of this.#all()) connection.recheck(roots);
  }

  /** The callee's certificate has ended: open requests finish, the next one opens a connection. */
  expire(connection: UpstreamConnection): void {
    this.#deps.log.info(
      "the callee's certificate on a connection has ended, the next request opens another",
      {
        peer: this.endpoint.spiffeId,
      },
    );
    connection.retire();
    this.onGoingAway(connection);
  }

  sweep(nowMs: number): void {
    for (const connection of this.#all()) connection.sweep(nowMs);
    if (this.#failures > 0 && this.#active.length === 0 && this.#isDue) this.#connect();
    const extra = this.#active.length > 1 ? this.#active.at(-1) : undefined;
    if (extra === undefined || extra.openExchanges > 0) this.#extraBusyMs = nowMs;
    else if (nowMs - this.#extraBusyMs >= EXTRA_IDLE_MS) {
      this.#active.pop();
      this.#leave(extra);
    }
  }

  get openExchanges(): number {
    let open = this.load;
    for (const connection of this.#retired) open += connection.openExchanges;
    return open;
  }

  onReady(connection: UpstreamConnection): void {
    if (this.#next === connection) this.#next = undefined;
    if (this.#failures > 0) this.#recoveredAtMs = this.#deps.clock.monotonicMs();
    this.#failures = 0;
    for (let i = this.#active.length - 1; i >= 0; i--) {
      const before = this.#active[i];
      // Proofs name the leaf of their connection: those of an identity that was replaced take nothing more.
      if (before === undefined || before.signing === connection.signing) continue;
      this.#active.splice(i, 1);
      this.#leave(before);
    }
    this.#active.push(connection);
    this.onPong();
    this.onRoom();
  }

  onGoingAway(connection: UpstreamConnection): void {
    const at = this.#active.indexOf(connection);
    if (at < 0) return;
    this.#active.splice(at, 1);
    if (!connection.closed) this.#retired.add(connection);
    // Who waited for one of its streams needs another connection.
    if (this.#waiting.length > 0 && this.#active.length === 0) this.#connect();
  }

  /** A stream became free, or a connection did. */
  onRoom(): void {
    if (this.#waiting.length === 0) return;
    let connection = this.#free();
    while (this.#waiting.length > 0 && connection !== undefined) {
      const before = this.#waiting.length;
      this.#waiting.shift()?.onUpstreamReady(connection);
      // It went back to the end of the queue: no stream is free.
      if (this.#waiting.length >= before) return;
      connection = this.#free();
    }
    if (this.#waiting.length > 0) this.#grow();
  }

  onClosed(connection: UpstreamConnection, wasReady: boolean, detail: string): void {
    this.#retired.delete(connection);
    const at = this.#active.indexOf(connection);
    if (at >= 0) this.#active.splice(at, 1);
    if (this.#next === connection) this.#next = undefined;
    if (wasReady) {
      if (this.#waiting.length > 0) this.#grow();
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
    this.#pongs = [];
    // A further connection was wanted: those that wait get a stream of the ones that stand.
    if (this.#active.length > 0) return;
    this.#failWaiting(detail);
  }

  #failWaiting(detail: string): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const exchange of waiting) exchange.onUpstreamFailed("connect", detail, true, -1);
  }

  #all(): UpstreamConnection[] {
    const all = [...this.#active, ...this.#retired];
    if (this.#next !== undefined) all.push(this.#next);
    return all;
  }

  #leave(connection: UpstreamConnection): void {
    if (!connection.closed) this.#retired.add(connection);
    connection.retire();
  }

  #free(): UpstreamConnection | undefined {
    for (const connection of this.#active) if (connection.hasRoom) return connection;
    return undefined;
  }

  /** One connection more, unless there are as many as may be, or the last attempt has just failed. */
  #grow(): void {
    const open = this.#active.length;
    if (open === 0) this.#connect();
    else if (open < this.#bounds.connections && this.#isDue) this.#connect();
  }

  get #isDue(): boolean {
    return this.#failures === 0 || this.#deps.clock.monotonicMs() >= this.#usableAtMs;
  }

  #connect(): void {
    if (this.#next !== undefined || this.#left) return;
    const signing = this.#pool.signing;
    if (signing === undefined) return;
    const { metrics } = this.#deps;
    metrics.connections.add(metrics.connections.series("upstream", "opened"));
    this.#next = new UpstreamConnection(this, signing, this.#bounds.connectMs, this.#deps);
  }
}
