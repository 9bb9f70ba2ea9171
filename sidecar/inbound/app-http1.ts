// To an application that speaks HTTP/1.1: keep-alive connections to its ports, one request at a time each. Requests are
// written from what was decided; responses are parsed strictly and handed back to the exchange.
import { randomBytes } from "node:crypto";
import { connect, type Socket } from "node:net";
import type { Limits, SocketAddress, Timeouts } from "../config.ts";
import { joinedField } from "../core/http/headers.ts";
import { switchProblem, WEBSOCKET, webSocketAccept } from "../core/http/websocket.ts";
import type { Clock } from "../core/runtime/clock.ts";
import type { Field } from "../wire/field.ts";
import type { FieldCache } from "../wire/field-cache.ts";
import { type Http1Problem, type ResponseHead, ResponseParser } from "../wire/http1/parser.ts";
import { CHUNK_END, chunkHeader, lastChunk } from "../wire/http1/serializer.ts";
import {
  CREDIT_HIGH_WATER_BYTES,
  MeshSocket,
  type SharedBySockets,
  type SocketHandler,
} from "../wire/socket.ts";
import type { AppExchange, AppFailure, AppPlace, AppSide } from "./app-side.ts";
import type { CallFacts } from "./call-facts.ts";
import { requestHead } from "./forwarded-heads.ts";

export interface AppDeps {
  readonly cache: FieldCache;
  readonly clock: Clock;
  readonly timeouts: Timeouts;
  readonly limits: Limits;
  readonly shared: SharedBySockets;
}

/** One connection to the application, which is the place of one request at a time. */
class Http1Place implements AppPlace, SocketHandler {
  readonly #socket: MeshSocket;
  readonly #pool: Http1AppSide;
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
  /** The body of the request under way is written in chunks: its length was not announced. */
  #chunked = false;
  #switched = false;
  /** The answer to our Sec-WebSocket-Key. */
  #accept = "";
  #doomed: { readonly kind: AppFailure; readonly detail: string } | undefined;

  /** Made by `Http1AppSide` only. */
  constructor(pool: Http1AppSide, raw: Socket, { cache, shared }: AppDeps, deadlineMs: number) {
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
    this.#socket = new MeshSocket(raw, CREDIT_HIGH_WATER_BYTES, shared);
    this.#socket.attach(this);
    raw.once("connect", () => {
      this.#connected = true;
      if (this.#exchange !== undefined) this.begin(this.#exchange, this.#pool.nowMs());
    });
  }

  get closed(): boolean {
    return this.#socket.closed;
  }

  get congested(): boolean {
    return this.#socket.congested;
  }

  /** Hands the connection to an exchange, which writes its request now or when the connection stands. */
  begin(exchange: AppExchange, nowMs: number): void {
    this.#exchange = exchange;
    if (!this.#connected) return;
    this.#silent = true;
    this.#keepAlive = false;
    this.#ended = false;
    this.touch(nowMs);
    this.#parser.expect(exchange.method);
    exchange.onAppReady(this);
  }

  sendHead(facts: CallFacts): void {
    const { contentLength, upgrade } = facts.head;
    this.#chunked = !facts.bodyless && contentLength < 0 && upgrade === "";
    if (upgrade === WEBSOCKET) {
      const key = randomBytes(16).toString("base64");
      this.#accept = webSocketAccept(key);
      this.#socket.write(requestHead(facts, `sec-websocket-key: ${key}\r\n`));
    } else this.#socket.write(requestHead(facts));
  }

  sendBody(chunk: Buffer): void {
    if (chunk.length === 0) return;
    if (!this.#chunked) {
      this.#socket.write(chunk);
      return;
    }
    this.#socket.write(chunkHeader(chunk.length));
    this.#socket.write(chunk);
    this.#socket.write(CHUNK_END);
  }

  sendEnd(trailers: readonly Field[]): void {
    if (this.#switched) this.#socket.end();
    else if (this.#chunked) this.#socket.write(lastChunk(trailers));
  }

  touch(nowMs: number): void {
    // How long a stream of bytes may be silent is for the caller's side to say.
    this.deadlineMs = this.#switched ? Number.POSITIVE_INFINITY : nowMs + this.#pool.responseMs;
  }

  pauseResponse(): void {
    if (this.#paused || this.#ended) return;
    this.#paused = true;
    this.#parser.pause();
    this.#socket.pause();
  }

  resumeResponse(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.touch(this.#pool.nowMs());
    this.#socket.resume();
    this.#parser.resume();
  }

  abandon(): void {
    this.#exchange = undefined;
    this.#parser.close();
    this.#socket.destroy();
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

  /** Back to the pool, or closed when the connection cannot be used again. */
  release(requestSent: boolean, nowMs: number): void {
    this.#exchange = undefined;
    this.#served++;
    if (requestSent && this.#keepAlive && this.#parser.idle && !this.#socket.closed)
      this.#pool.keep(this, nowMs);
    else this.abandon();
  }

  /** What the socket read. */
  receive(chunk: Buffer): void {
    this.#socket.receive(chunk);
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
    if (this.#doomed !== undefined)
      exchange.onAppFailed(this.#doomed.kind, this.#doomed.detail, "nothing", 0);
    else if (!this.#connected)
      exchange.onAppFailed(
        "connect",
        error?.message ?? "the application refused the connection",
        "nothing",
        0,
      );
    else {
      // Closed just as we used it again: it has not looked at this request (RFC 9110 section 9.2.2).
      const isRace = this.#silent && this.#served > 0;
      const detail = error?.message ?? "the application closed the connection";
      exchange.onAppFailed("closed", detail, isRace ? "idempotent" : "nothing", 0);
    }
  }

  #onInformational(head: ResponseHead): void {
    this.#silent = false;
    this.touch(this.#pool.nowMs());
    this.#exchange?.onAppInformational(head);
  }

  #onHead(head: ResponseHead): void {
    this.#silent = false;
    if (head.status === 101) {
      const problem = this.#switchProblem(head);
      if (problem !== undefined) {
        this.#fail("protocol", problem);
        return;
      }
      this.#switched = true;
      this.#exchange?.onAppSwitched(head);
      return;
    }
    this.#keepAlive = head.keepAlive && !head.untilClose;
    this.#exchange?.onAppHead(head, undefined);
  }

  #switchProblem({ upgrade, fields }: ResponseHead): string | undefined {
    const accept = joinedField(fields, "sec-websocket-accept");
    const problem = switchProblem(this.#exchange?.upgrade ?? "", this.#accept, { upgrade, accept });
    return problem === undefined ? undefined : `the application ${problem}`;
  }

  #onMessageEnd(trailers: readonly Field[]): void {
    this.#ended = true;
    this.#exchange?.onAppEnd(trailers);
  }

  #onProblem(problem: Http1Problem): void {
    if (problem.code === "closed_before_response" || problem.code === "truncated") this.#socket.destroy();
    else this.#fail("protocol", problem.message);
  }

  #fail(kind: AppFailure, detail: string): void {
    this.#doomed ??= { kind, detail };
    this.#parser.close();
    this.#socket.destroy();
  }
}

/** The connections to one port of the application. */
export class Http1AppSide implements AppSide {
  readonly #address: SocketAddress;
  readonly #deps: AppDeps;
  readonly #all = new Set<Http1Place>();
  readonly #idle: Http1Place[] = [];

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

  take(exchange: AppExchange, fresh: boolean, nowMs: number): AppPlace | undefined {
    while (!fresh) {
      const kept = this.#idle.pop();
      if (kept === undefined) break;
      if (kept.closed) continue;
      kept.begin(exchange, nowMs);
      return kept;
    }
    if (this.#all.size >= this.#deps.limits.appConnections) return undefined;
    const onread = this.#deps.shared.reads.into((chunk) => connection.receive(chunk));
    const raw =
      this.#address.kind === "unix"
        ? connect({ path: this.#address.path, onread })
        : connect({ host: this.#address.host, port: this.#address.port, onread });
    const connection: Http1Place = new Http1Place(
      this,
      raw,
      this.#deps,
      nowMs + this.#deps.timeouts.connectMs,
    );
    this.#all.add(connection);
    connection.begin(exchange, nowMs);
    return connection;
  }

  /** Called by a connection that is free again. */
  keep(connection: Http1Place, nowMs: number): void {
    if (this.#idle.length >= this.#deps.limits.idleAppConnections) {
      connection.abandon();
      return;
    }
    connection.deadlineMs = nowMs + this.#deps.timeouts.idleMs;
    this.#idle.push(connection);
  }

  /** Called by a connection that has closed. */
  forget(connection: Http1Place): void {
    this.#all.delete(connection);
    const at = this.#idle.indexOf(connection);
    if (at >= 0) this.#idle.splice(at, 1);
  }

  get responseMs(): number {
    return this.#deps.timeouts.responseMs;
  }

  /** Monotonic. */
  nowMs(): number {
    return this.#deps.clock.monotonicMs();
  }

  sweep(nowMs: number): void {
    for (const connection of this.#all) if (nowMs >= connection.deadlineMs) connection.timeOut();
  }

  close(): void {
    for (const connection of this.#all) connection.timeOut();
  }
}
