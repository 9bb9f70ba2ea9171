// One HTTP/2 connection from the application (prior knowledge, RFC 9113 section 3.3): a request per stream, each decided on
// its own by an exchange.
import { lookupField } from "../core/http/headers.ts";
import type { HeaderLookup } from "../core/policy/mcp.ts";
import type { AnswerWriter } from "../wire/answers.ts";
import type { Field } from "../wire/field.ts";
import { writeConnectAgreed } from "../wire/http2/connect-agreed.ts";
import {
  Http2Connection,
  type Http2Error,
  type Http2Handler,
  type Http2Stream,
} from "../wire/http2/connection.ts";
import { UnfinishedHead } from "../wire/http2/unfinished-head.ts";
import { UnreadAnswers } from "../wire/http2/unread-answers.ts";
import { KeepAlive } from "../wire/keep-alive.ts";
import type { MeshSocket } from "../wire/socket.ts";
import { AppExchanges } from "./app-exchanges.ts";
import { readHttp2Head } from "./app-http2-head.ts";
import type { AppExchange, AppSide, AppStream, CreateExchange } from "./app-side.ts";
import type { AppConversation } from "./app-socket.ts";
import { openExchange } from "./open-exchange.ts";
import type { FixedDestination } from "./resolve.ts";
import type { OutboundServices } from "./services.ts";

const NO_ERROR = 0x0;
const PROTOCOL_ERROR = 0x1;
const EMPTY = Buffer.alloc(0);
const ENHANCE_YOUR_CALM = 0xb;
/** How long the application may take to close a connection that has ended, milliseconds. */
const CLOSE_WITHIN_MS = 10_000;

export interface AppHttp2Deps {
  readonly services: OutboundServices;
  /** What a local listener or the captured connection means; undefined on the proxy port. */
  readonly fixed: FixedDestination | undefined;
  /** What answers a request; undefined: an exchange with the mesh. */
  readonly createExchange?: CreateExchange | undefined;
  readonly onClosed: (connection: AppHttp2Connection) => void;
}

type Stream = Http2Stream<AppExchange | undefined>;

export class AppHttp2Connection implements AppSide, AppConversation, Http2Handler<AppExchange | undefined> {
  readonly protocol = "h2c";
  readonly isHttp2 = true;
  readonly h2: Http2Connection<AppExchange | undefined>;
  /** The same object; an exchange gives back the stream it got, which is its own. */
  readonly answers: AnswerWriter<AppStream>;
  readonly #socket: MeshSocket;
  readonly #deps: AppHttp2Deps;
  readonly #exchanges = new AppExchanges<AppExchange>();
  readonly #keepAlive = new KeepAlive();
  readonly #unread: UnreadAnswers;
  readonly #unfinished = new UnfinishedHead();
  #fields: readonly Field[] = [];
  readonly #lookup: HeaderLookup = (name) => lookupField(this.#fields, name);
  #isEnding = false;
  /** Monotonic milliseconds: of the time without a request, then of the end. */
  #deadlineMs: number;
  readonly #flush = (): void => {
    this.h2.flush();
    this.#socket.flush();
    if (this.#isEnding && this.#exchanges.size === 0) this.#socket.end();
    else this.#unread.written();
  };

  constructor(socket: MeshSocket, deps: AppHttp2Deps) {
    this.#socket = socket;
    this.#deps = deps;
    const { clock, timeouts, cache } = deps.services;
    this.#deadlineMs = clock.monotonicMs() + timeouts.headerMs;
    this.h2 = new Http2Connection({
      role: "server",
      shared: deps.services.http2,
      handler: this,
      cache,
      write: (bytes) => this.#socket.write(bytes),
      requestFlush: () => setImmediate(this.#flush),
      nowMs: () => clock.monotonicMs(),
    });
    this.answers = this.h2;
    this.#unread = new UnreadAnswers(this.h2, socket, this.#keepAlive);
    socket.attach({
      onData: (chunk) => this.begin(chunk),
      onEnd: () => {
        this.h2.eof();
        socket.end();
      },
      onDrain: () => this.#unread.drained(),
      onClose: () => {
        this.#goneAll();
        this.h2.forget();
        deps.onClosed(this);
      },
    });
  }

  get busy(): boolean {
    return this.#exchanges.size > 0;
  }

  // --- for the exchanges -----------------------------------------------------------------------------------------

  lookup(fields: readonly Field[]): HeaderLookup {
    this.#fields = fields;
    return this.#lookup;
  }

  /** Every stream ends on its own. */
  closeAfterAnswer(): void {}

  switchTo(stream: AppStream, _upgrade: string, fields: readonly Field[]): void {
    writeConnectAgreed(this.answers, stream, fields);
  }

  finished(exchange: AppExchange): void {
    this.#exchanges.delete(exchange);
    if (this.#exchanges.size > 0) return;
    const { clock, timeouts } = this.#deps.services;
    this.#deadlineMs = clock.monotonicMs() + timeouts.idleMs;
    if (this.#isEnding) setImmediate(this.#flush);
  }

  // --- from the codec --------------------------------------------------------------------------------------------

  onHeaders(stream: Stream, fields: readonly Field[], endStream: boolean): void {
    const { head, malformed } = readHttp2Head(fields);
    const { services, createExchange } = this.#deps;
    const exchange =
      createExchange === undefined
        ? openExchange(services, this.#deps.fixed, this, stream, head)
        : createExchange(this, stream, head);
    stream.context = exchange;
    this.#exchanges.add(exchange);
    // What follows the head of an extended CONNECT is bytes, once it is agreed to (RFC 8441 section 5).
    const isUpgrade = head.upgrade !== undefined;
    if (malformed === "") exchange.start(this.#deps.fixed, endStream || isUpgrade);
    else exchange.onRequestMalformed(malformed);
    if (isUpgrade && endStream) stream.context?.onRequestBody(EMPTY, true);
  }

  /** A WebSocket and its like (RFC 8441), at a gateway too; other tunnels are refused by the exchange. */
  onConnect(stream: Stream, fields: readonly Field[], endStream: boolean): void {
    this.onHeaders(stream, fields, endStream);
  }

  onInformational(stream: Stream): void {
    this.h2.resetStream(stream, PROTOCOL_ERROR);
  }

  onData(stream: Stream, chunk: Buffer, endStream: boolean): void {
    if (stream.context === undefined) this.h2.consumed(stream, chunk.length);
    else stream.context.onRequestBody(chunk, endStream);
  }

  onTrailers(stream: Stream, fields: readonly Field[]): void {
    stream.context?.onRequestTrailers(fields);
  }

  onReset(stream: Stream): void {
    stream.context?.onAppGone("the application reset the stream");
  }

  onWritable(stream: Stream): void {
    stream.context?.onAppDrain();
  }

  onGoaway(): void {
    // The application opens no more streams; it closes when it has its answers.
  }

  onClosed(error: Http2Error | undefined): void {
    if (error !== undefined) {
      const { metrics } = this.#deps.services;
      metrics.problems.add(metrics.problems.series("application", "http2"));
    }
    this.#isEnding = true;
    this.h2.flush();
    this.#socket.end();
    this.#goneAll();
    this.#deadlineMs = this.#deps.services.clock.monotonicMs() + CLOSE_WITHIN_MS;
  }

  // --- for the listener ------------------------------------------------------------------------------------------

  begin(bytes: Buffer): void {
    this.#keepAlive.heard();
    this.h2.receive(bytes);
  }

  /** Ends what took too long, and notices an application that is gone or stays without reading. */
  sweep(nowMs: number): void {
    for (const exchange of this.#exchanges.all()) if (nowMs >= exchange.deadlineMs) exchange.timeOut();
    this.h2.sweepWaiting();
    if (this.#unfinished.isTooSlow(this.h2.unfinishedHead, nowMs, this.#deps.services.timeouts.headerMs))
      this.h2.goaway(ENHANCE_YOUR_CALM);
    if (!this.#unread.sweep() && this.#exchanges.size === 0) {
      this.#keepAlive.heard();
      if (nowMs < this.#deadlineMs) return;
      if (this.#isEnding) this.destroy();
      else this.drain();
      return;
    }
    const state = this.#keepAlive.check(nowMs);
    if (state === "ping") this.h2.ping();
    else if (state === "dead") this.destroy();
  }

  /** Takes no new requests, finishes those that are open, closes. */
  drain(): void {
    if (this.#isEnding) return;
    this.#isEnding = true;
    this.#deadlineMs = this.#deps.services.clock.monotonicMs() + CLOSE_WITHIN_MS;
    this.h2.goaway(NO_ERROR);
    setImmediate(this.#flush);
  }

  destroy(): void {
    this.#socket.destroy();
  }

  #goneAll(): void {
    for (const exchange of this.#exchanges.take())
      exchange.onAppGone("the application closed the connection");
  }
}
