// One endpoint of a service: the connection that is used, the one that replaces it, and the requests that wait for one.
// Opened when first needed, replaced when the identity is renewed, tried again with backoff.
import type { X509Certificate } from "node:crypto";
import type { Candidate } from "../balance/pick.ts";
import { backoffMs } from "../core/runtime/backoff.ts";
import type { MeshEndpoint } from "../discovery/table.ts";
import type { UpstreamPool } from "./pool.ts";
import { UpstreamConnection, type UpstreamDeps, type UpstreamExchange } from "./upstream-connection.ts";

const CONNECT_BACKOFF = { firstMs: 100, maxMs: 5_000 };

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

  readonly weight = 1;

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

  /** A handshake that is under way may have been made by the bundle before: it is held against this one too. */
  recheck(roots: readonly X509Certificate[]): void {
    for (const connection of [this.#current, this.#next, ...this.#retired]) connection?.recheck(roots);
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
