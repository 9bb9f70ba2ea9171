// To the application: keep-alive connections to its ports, one request at a time each. Requests are written by the
// exchange from what was decided; responses are parsed strictly and handed back to it.
import { connect, type Socket } from "node:net";
import type { Limits, SocketAddress, Timeouts } from "../config.ts";
import type { Clock } from "../core/runtime/clock.ts";
import type { Field } from "../wire/field.ts";
import type { FieldCache } from "../wire/field-cache.ts";
import { type Http1Problem, type ResponseHead, ResponseParser } from "../wire/http1/parser.ts";
import { MeshSocket, type SocketHandler } from "../wire/socket.ts";

export type AppFailure = "connect" | "closed" | "protocol" | "timeout";

/** What an exchange is told by the application's side. Exactly one of `onAppEnd` and `onAppFailed` comes last. */
export interface AppExchange {
  readonly method: string;
  /** The connection is there: write the request now. Comes again for a retry. */
  onAppReady(connection: AppConnection): void;
  onAppInformational(head: ResponseHead): void;
  onAppHead(head: ResponseHead): void;
  onAppBody(chunk: Buffer): void;
  onAppEnd(trailers: readonly Field[]): void;
  onAppDrain(): void;
  /** @param silent true: not one byte of an answer had arrived. */
  onAppFailed(kind: AppFailure, detail: string, silent: boolean): void;
}

export interface AppDeps {
  readonly cache: FieldCache;
  readonly clock: Clock;
  readonly timeouts: Timeouts;
  readonly limits: Limits;
}

/** One connection to the application. */
export class AppConnection implements SocketHandler {
  readonly socket: MeshSocket;
  readonly #pool: AppPool;
  readonly #parser: ResponseParser;
  #exchange: AppExchange | undefined;
  /** Monotonic milliseconds: when it is over, something took too long (or an unused connection is old). */
  deadlineMs: number;
  #connected = false;
  #served = 0;
  #silent = true;
  #keepAlive = false;
  #ended = false;
  #paused = false;
  #doomed: { readonly kind: AppFailure; readonly detail: string } | undefined;

  /** Made by `AppPool` only. */
  constructor(pool: AppPool, raw: Socket, cache: FieldCache, deadlineMs: number) {
    this.#pool = pool;
    this.deadlineMs = deadlineMs;
    this.#parser = new ResponseParser(
      {
        onHead: (head) => this.#onHead(head),
        onInformational: (head) => this.#onInformational(head),
        onBody: (chunk) => this.#exchange?.onAppBody(chunk),
        onEnd: (trailers) => this.#onMessageEnd(trailers),
        onProblem: (problem) => this.#onProblem(problem),
      },
      cache,
    );
    this.socket = new MeshSocket(raw);
    this.socket.attach(this);
    raw.once("connect", () => {
      this.#connected = true;
      if (this.#exchange !== undefined) this.begin(this.#exchange);
    });
  }

  /** Whether it answered requests before: then the application may be closing it at this very moment. */
  get reused(): boolean {
    return this.#served > 0;
  }

  /** Hands the connection to an exchange, which writes its request now or when the connection stands. */
  begin(exchange: AppExchange): void {
    this.#exchange = exchange;
    if (!this.#connected) return;
    this.#silent = true;
    this.#keepAlive = false;
    this.#ended = false;
    this.touch();
    this.#parser.expect(exchange.method);
    exchange.onAppReady(this);
  }

  /** Progress was made: the response timeout starts again. */
  touch(): void {
    this.deadlineMs = this.#pool.responseDeadlineMs();
  }

  pauseResponse(): void {
    if (this.#paused || this.#ended) return;
    this.#paused = true;
    this.#parser.pause();
    this.socket.pause();
  }

  resumeResponse(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.touch();
    this.socket.resume();
    this.#parser.resume();
  }

  /** Nothing of this connection is to be used again. */
  abandon(): void {
    this.#exchange = undefined;
    this.#parser.close();
    this.socket.destroy();
  }

  timeOut(): void {
    if (this.#exchange === undefined) this.abandon();
    else
      this.#fail(
        "timeout",
        this.#connected
          ? "the application did not answer in time"
          : "the application could not be reached in time",
      );
  }

  /** The exchange has its answer: back to the pool, or closed when the connection cannot be used again. */
  release(requestSent: boolean): void {
    this.#exchange = undefined;
    this.#served++;
    if (requestSent && this.#keepAlive && this.#parser.idle && !this.socket.closed) this.#pool.keep(this);
    else this.abandon();
  }

  onData(chunk: Buffer): void {
    // Bytes that answer no request: whatever they are, the connection cannot be trusted any more.
    if (this.#exchange === undefined) this.abandon();
    else this.#parser.push(chunk);
  }

  onEnd(): void {
    this.#keepAlive = false;
    if (this.#exchange === undefined) this.abandon();
    else this.#parser.eof();
  }

  onDrain(): void {
    this.#exchange?.onAppDrain();
  }

  onClose(error: Error | undefined): void {
    this.#pool.forget(this);
    const exchange = this.#exchange;
    if (exchange === undefined) return;
    this.#exchange = undefined;
    if (this.#doomed !== undefined) exchange.onAppFailed(this.#doomed.kind, this.#doomed.detail, false);
    else if (!this.#connected)
      exchange.onAppFailed("connect", error?.message ?? "the application refused the connection", true);
    else
      exchange.onAppFailed("closed", error?.message ?? "the application closed the connection", this.#silent);
  }

  #onInformational(head: ResponseHead): void {
    this.#silent = false;
    this.touch();
    this.#exchange?.onAppInformational(head);
  }

  #onHead(head: ResponseHead): void {
    this.#silent = false;
    if (head.status === 101) {
      this.#fail("protocol", "the application switched protocols without being asked");
      return;
    }
    this.#keepAlive = head.keepAlive && !head.untilClose;
    this.touch();
    this.#exchange?.onAppHead(head);
  }

  #onMessageEnd(trailers: readonly Field[]): void {
    this.#ended = true;
    this.#exchange?.onAppEnd(trailers);
  }

  #onProblem(problem: Http1Problem): void {
    if (problem.code === "closed_before_response" || problem.code === "truncated") this.socket.destroy();
    else this.#fail("protocol", problem.message);
  }

  #fail(kind: AppFailure, detail: string): void {
    this.#doomed ??= { kind, detail };
    this.#parser.close();
    this.socket.destroy();
  }
}

/** The connections to one port of the application. */
export class AppPool {
  readonly #address: SocketAddress;
  readonly #deps: AppDeps;
  readonly #all = new Set<AppConnection>();
  readonly #idle: AppConnection[] = [];

  constructor(address: SocketAddress, deps: AppDeps) {
    this.#address = address;
    this.#deps = deps;
  }

  get size(): number {
    return this.#all.size;
  }

  get idle(): number {
    return this.#idle.length;
  }

  /**
   * Gives an exchange a connection.
   *
   * @param fresh true: not one that was used before.
   * @returns the connection, or undefined at the limit.
   */
  take(exchange: AppExchange, fresh: boolean): AppConnection | undefined {
    while (!fresh) {
      const kept = this.#idle.pop();
      if (kept === undefined) break;
      if (kept.socket.closed) continue;
      kept.begin(exchange);
      return kept;
    }
    if (this.#all.size >= this.#deps.limits.appConnections) return undefined;
    const raw =
      this.#address.kind === "unix"
        ? connect({ path: this.#address.path })
        : connect({ host: this.#address.host, port: this.#address.port });
    const connection = new AppConnection(
      this,
      raw,
      this.#deps.cache,
      this.#deps.clock.monotonicMs() + this.#deps.timeouts.connectMs,
    );
    this.#all.add(connection);
    connection.begin(exchange);
    return connection;
  }

  /** Called by a connection that is free again. */
  keep(connection: AppConnection): void {
    if (this.#idle.length >= this.#deps.limits.idleAppConnections) {
      connection.abandon();
      return;
    }
    connection.deadlineMs = this.#deps.clock.monotonicMs() + this.#deps.timeouts.idleMs;
    this.#idle.push(connection);
  }

  /** Called by a connection that has closed. */
  forget(connection: AppConnection): void {
    this.#all.delete(connection);
    const at = this.#idle.indexOf(connection);
    if (at >= 0) this.#idle.splice(at, 1);
  }

  responseDeadlineMs(): number {
    return this.#deps.clock.monotonicMs() + this.#deps.timeouts.responseMs;
  }

  /** Ends what took too long. */
  sweep(nowMs: number): void {
    for (const connection of this.#all) if (nowMs >= connection.deadlineMs) connection.timeOut();
  }

  close(): void {
    for (const connection of this.#all) connection.timeOut();
  }
}
