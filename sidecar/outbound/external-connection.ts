// Connections to hosts outside the mesh: TLS with the system's (and given) authorities, HTTP/1.1, one request at a time
// each, kept for the next, or turned into a WebSocket and closed with it. Knows nothing of policy.
import { connect, type SecureContext, type TLSSocket } from "node:tls";
import type { Limits, Timeouts } from "../config.ts";
import { joinedField } from "../core/http/headers.ts";
import { switchProblem, WEBSOCKET } from "../core/http/websocket.ts";
import type { Clock } from "../core/runtime/clock.ts";
import type { Field } from "../wire/field.ts";
import type { FieldCache } from "../wire/field-cache.ts";
import { type Http1Problem, type ResponseHead, ResponseParser } from "../wire/http1/parser.ts";
import { CREDIT_HIGH_WATER_BYTES, MeshSocket, type SocketHandler } from "../wire/socket.ts";

/** A request on its way; exactly one of the last two ends its time on a connection. */
export interface ExternalUser {
  readonly method: string;
  /** `Sec-WebSocket-Accept` that agrees to the WebSocket that is asked for; undefined: none is. */
  readonly accept: string | undefined;
  /** The connection stands: write the request. */
  onExternalReady(connection: ExternalConnection): void;
  onExternalInformational(head: ResponseHead): void;
  onExternalHead(head: ResponseHead): void;
  /** The host agreed to the WebSocket: from now on bytes both ways, `onExternalEnd` when its own are over. */
  onExternalSwitched(head: ResponseHead): void;
  onExternalBody(chunk: Buffer): void;
  /** The host takes bytes again. */
  onExternalDrain(): void;
  onExternalEnd(trailers: readonly Field[]): void;
  /** @param untouched the request was certainly not looked at. */
  onExternalFailed(kind: "connect" | "closed" | "protocol", detail: string, untouched: boolean): void;
}

export interface ExternalDeps {
  readonly cache: FieldCache;
  readonly clock: Clock;
  readonly timeouts: Timeouts;
  readonly limits: Limits;
  /** Authorities that vouch for hosts; made with the first connection. */
  readonly context: () => SecureContext;
}

/** One connection to a host. */
export class ExternalConnection implements SocketHandler {
  readonly socket: MeshSocket;
  readonly #pool: ExternalPool;
  readonly #parser: ResponseParser;
  #user: ExternalUser | undefined;
  #standing = false;
  #served = 0;
  #silent = true;
  #keepAlive = false;
  #paused = false;
  #ended = false;
  /** Of connecting, or of being unused; monotonic milliseconds. While it is used its exchange keeps time. */
  deadlineMs: number;

  constructor(pool: ExternalPool, raw: TLSSocket, deps: ExternalDeps) {
    this.#pool = pool;
    this.deadlineMs = deps.clock.monotonicMs() + deps.timeouts.connectMs;
    this.#parser = new ResponseParser(
      {
        onHead: (head) => this.#onHead(head),
        onInformational: (head) => {
          this.#silent = false;
          this.#user?.onExternalInformational(head);
        },
        onBody: (chunk) => this.#user?.onExternalBody(chunk),
        onEnd: (trailers) => {
          this.#ended = true;
          this.#user?.onExternalEnd(trailers);
        },
        onProblem: (problem) => this.#onProblem(problem),
      },
      deps.cache,
    );
    this.socket = new MeshSocket(raw, CREDIT_HIGH_WATER_BYTES);
    this.socket.attach(this);
    raw.once("secureConnect", () => {
      this.#standing = true;
      this.deadlineMs = Number.POSITIVE_INFINITY;
      // A WebSocket may be silent as long as it likes: this alone tells that its host is gone.
      raw.setKeepAlive(true, KEEP_ALIVE_MS);
      if (this.#user !== undefined) this.begin(this.#user);
    });
  }

  get closed(): boolean {
    return this.socket.closed;
  }

  /** Whether the host has answered before: it may have closed the connection meanwhile. */
  get isReused(): boolean {
    return this.#served > 0;
  }

  begin(user: ExternalUser): void {
    this.#user = user;
    if (!this.#standing) return;
    this.deadlineMs = Number.POSITIVE_INFINITY;
    this.#silent = true;
    this.#keepAlive = false;
    this.#ended = false;
    this.#parser.expect(user.method);
    user.onExternalReady(this);
  }

  pause(): void {
    if (this.#paused || this.#ended) return;
    this.#paused = true;
    this.#parser.pause();
    this.socket.pause();
  }

  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.socket.resume();
    this.#parser.resume();
  }

  /** The request is over; the connection is kept where it can be used again. @param requestSent all of it was written. */
  release(requestSent: boolean): void {
    this.#user = undefined;
    this.#served++;
    if (requestSent && this.#keepAlive && this.#ended && this.#parser.idle && !this.socket.closed)
      this.#pool.keep(this);
    else this.abandon();
  }

  abandon(): void {
    this.#user = undefined;
    this.#parser.close();
    this.socket.destroy();
  }

  timeOut(): void {
    if (this.#user === undefined || this.#standing) this.abandon();
    else this.socket.destroy(new Error("connecting took too long"));
  }

  onData(chunk: Buffer): void {
    // Bytes that answer no request: whatever they are, the connection cannot be trusted any more.
    if (this.#user === undefined) this.abandon();
    else this.#parser.push(chunk);
  }

  onEnd(): void {
    this.#keepAlive = false;
    if (this.#user === undefined) this.abandon();
    else this.#parser.eof();
  }

  onDrain(): void {
    this.#user?.onExternalDrain();
  }

  onClose(error: Error | undefined): void {
    this.#pool.forget(this);
    const user = this.#user;
    this.#user = undefined;
    if (user === undefined) return;
    const detail = error?.message ?? "the host closed the connection";
    if (!this.#standing) user.onExternalFailed("connect", detail, true);
    // Closed just as it was used again: the host has not looked at this request (RFC 9110 section 9.2.2).
    else user.onExternalFailed("closed", detail, this.#silent && this.#served > 0);
  }

  #onHead(head: ResponseHead): void {
    this.#silent = false;
    if (head.status === 101) {
      const accept = this.#user?.accept;
      const problem = switchProblem(accept === undefined ? "" : WEBSOCKET, accept ?? "", {
        upgrade: head.upgrade,
        accept: joinedField(head.fields, "sec-websocket-accept"),
      });
      if (problem === undefined) this.#user?.onExternalSwitched(head);
      else this.#fail(`the host ${problem}`);
      return;
    }
    this.#keepAlive = head.keepAlive && !head.untilClose;
    this.#user?.onExternalHead(head);
  }

  #onProblem(problem: Http1Problem): void {
    if (problem.code === "closed_before_response" || problem.code === "truncated") this.socket.destroy();
    else this.#fail(problem.message);
  }

  #fail(detail: string): void {
    const user = this.#user;
    this.#user = undefined;
    this.abandon();
    user?.onExternalFailed("protocol", detail, false);
  }
}

/** The connections to one host and port. */
export class ExternalPool {
  readonly #host: string;
  readonly #port: number;
  readonly #deps: ExternalDeps;
  readonly #all = new Set<ExternalConnection>();
  readonly #idle: ExternalConnection[] = [];

  constructor(host: string, port: number, deps: ExternalDeps) {
    this.#host = host;
    this.#port = port;
    this.#deps = deps;
  }

  get size(): number {
    return this.#all.size;
  }

  /** @param fresh not one that was used before. @returns undefined: there are as many as there may be. */
  take(user: ExternalUser, fresh: boolean): ExternalConnection | undefined {
    while (!fresh) {
      const kept = this.#idle.pop();
      if (kept === undefined) break;
      if (kept.closed) continue;
      kept.begin(user);
      return kept;
    }
    if (this.#all.size >= this.#deps.limits.appConnections) return undefined;
    const raw = connect({
      host: this.#host,
      port: this.#port,
      servername: this.#host,
      ALPNProtocols: ["http/1.1"],
      secureContext: this.#deps.context(),
    });
    const connection = new ExternalConnection(this, raw, this.#deps);
    this.#all.add(connection);
    connection.begin(user);
    return connection;
  }

  keep(connection: ExternalConnection): void {
    if (this.#idle.length >= this.#deps.limits.idleAppConnections) {
      connection.abandon();
      return;
    }
    connection.deadlineMs = this.#deps.clock.monotonicMs() + IDLE_MS;
    this.#idle.push(connection);
  }

  forget(connection: ExternalConnection): void {
    this.#all.delete(connection);
    const at = this.#idle.indexOf(connection);
    if (at >= 0) this.#idle.splice(at, 1);
  }

  sweep(nowMs: number): void {
    for (const connection of this.#all) if (nowMs >= connection.deadlineMs) connection.timeOut();
  }

  close(): void {
    for (const connection of this.#all) connection.abandon();
  }
}

/** Of TCP: address translation on the way forgets connections after some minutes of silence. */
const KEEP_ALIVE_MS = 30_000;
/** Balancers of hosts close connections after a minute without a word. */
const IDLE_MS = 30_000;

/** Every host that was called. */
export class ExternalPools {
  readonly #deps: ExternalDeps;
  readonly #pools = new Map<string, ExternalPool>();

  constructor(deps: ExternalDeps) {
    this.#deps = deps;
  }

  of(host: string, port: number): ExternalPool {
    const key = `${host}:${port}`;
    let pool = this.#pools.get(key);
    if (pool === undefined) {
      pool = new ExternalPool(host, port, this.#deps);
      this.#pools.set(key, pool);
    }
    return pool;
  }

  sweep(nowMs: number): void {
    for (const [key, pool] of this.#pools) {
      pool.sweep(nowMs);
      if (pool.size === 0) this.#pools.delete(key);
    }
  }

  close(): void {
    for (const pool of this.#pools.values()) pool.close();
  }
}
