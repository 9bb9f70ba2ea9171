// One HTTP/1.1 connection from the application: requests are read one at a time (pipelined ones wait), each by an exchange.
import { joinedField, lookupField } from "../core/http/headers.ts";
import { problemJson, proxyStatus } from "../core/http/problem.ts";
import { WEBSOCKET, webSocketAccept } from "../core/http/websocket.ts";
import type { HeaderLookup } from "../core/policy/mcp.ts";
import type { Clock } from "../core/runtime/clock.ts";
import type { Field } from "../wire/field.ts";
import { type Http1Problem, type RequestHead, RequestParser } from "../wire/http1/parser.ts";
import { CLOSE_LINE, statusLine } from "../wire/http1/serializer.ts";
import { Http1Answers, type Http1Owner } from "../wire/http1-answers.ts";
import { HIGH_WATER_BYTES, type MeshSocket, type SocketHandler } from "../wire/socket.ts";
import type { AppExchange, AppSide, AppStream, CreateExchange, OutboundHead } from "./app-side.ts";
import { openExchange } from "./open-exchange.ts";
import type { FixedDestination } from "./resolve.ts";
import type { OutboundServices } from "./services.ts";

/** Bytes of later requests that may wait in the parser before the socket is paused. */
const MAX_HELD_BYTES = 65_536;

/** What is left of a connection whose application asked for a tunnel. */
export interface HandedOver {
  /** Its authority is host and port. */
  readonly head: OutboundHead;
  /** What it has sent behind its request. */
  readonly early: Buffer;
  /** That is all it will say. */
  readonly isEnded: boolean;
}

export interface AppSideDeps {
  readonly services: OutboundServices;
  /** What a local listener or the captured connection means; undefined on the proxy port. */
  readonly fixed: FixedDestination | undefined;
  /** What answers a request; undefined: an exchange with the mesh. */
  readonly createExchange?: CreateExchange | undefined;
  /** Gives the connection away whose application asks for a tunnel; absent: CONNECT is refused. */
  readonly onConnect?: ((request: HandedOver) => void) | undefined;
  readonly isDraining: () => boolean;
  readonly onClosed: (connection: AppSideConnection) => void;
}

export class AppSideConnection implements AppSide, Http1Owner, SocketHandler {
  readonly protocol = "http";
  readonly isHttp2 = false;
  readonly socket: MeshSocket;
  readonly answers: Http1Answers;
  readonly #deps: AppSideDeps;
  readonly #clock: Clock;
  readonly #parser: RequestParser;
  #fields: readonly Field[] = [];
  readonly #lookup: HeaderLookup = (name) => lookupField(this.#fields, name);
  readonly #stream: AppStream = { context: undefined };
  #exchange: AppExchange | undefined;
  #requestEnded = true;
  /** The exchange knows that the request has ended. */
  #told = true;
  /** Bytes of the request's body that are still to come, by Content-Length; -1: in chunks. */
  #bodyLeft = 0;
  /** Bytes of it that the exchange has not passed on. */
  #unconsumed = 0;
  #closing = false;
  #keepAlive = true;
  /** It is turned into what its last request asked for. */
  #switched = false;
  #paused = false;
  /** It is given away. */
  #isLeaving = false;
  #isEnded = false;
  /** The next request waits until the answers before are read. */
  #unread = false;
  /** Set while a head is incomplete or no request is open; the exchange has its own while one is. */
  #deadlineMs: number;

  constructor(socket: MeshSocket, deps: AppSideDeps) {
    this.socket = socket;
    this.answers = new Http1Answers(this);
    this.#deps = deps;
    this.#clock = deps.services.clock;
    this.#deadlineMs = this.#clock.monotonicMs() + deps.services.timeouts.idleMs;
    this.#parser = new RequestParser(
      {
        onHead: (head) => this.#onHead(head),
        onBody: (chunk) => this.#onBody(chunk),
        onEnd: (trailers) => this.#onRequestEnd(trailers),
        onProblem: (problem) => this.#onProblem(problem),
      },
      deps.services.cache,
      deps.services.limits.head,
    );
    socket.attach(this);
  }

  /** Looks fields up by name until it is called again: one function per connection instead of one per request. */
  lookup(fields: readonly Field[]): HeaderLookup {
    this.#fields = fields;
    return this.#lookup;
  }

  get mustClose(): boolean {
    return this.#closing || !this.#keepAlive || this.#deps.isDraining();
  }

  switchTo(_stream: AppStream, upgrade: string, fields: readonly Field[]): void {
    let lines = "";
    for (const field of fields) lines += field.line;
    if (upgrade === WEBSOCKET) lines += `sec-websocket-accept: ${webSocketAccept(this.#webSocketKey())}\r\n`;
    this.answers.switchTo(upgrade, lines);
    this.#switched = true;
    this.#closing = true;
    // The head was the whole request: what is held behind it, and all that comes, are bytes.
    this.#parser.tunnel();
    this.#requestEnded = false;
    this.#told = false;
    this.#bodyLeft = -1;
    this.#resume();
  }

  #webSocketKey(): string {
    return joinedField(this.#exchange?.head.fields ?? [], "sec-websocket-key") ?? "";
  }

  get busy(): boolean {
    return this.#exchange !== undefined;
  }

  /** The answer under way is the last one of this connection. */
  closeAfterAnswer(): void {
    this.#closing = true;
  }

  consumed(bytes: number): void {
    this.#unconsumed = Math.max(0, this.#unconsumed - bytes);
    // Behind the end of its request the parser waits for the answer.
    if (this.#paused && !this.#requestEnded && this.#unconsumed < HIGH_WATER_BYTES) this.#resume();
  }

  breakOff(): void {
    // What was written of the answer goes out before the end that tells it is not whole.
    this.socket.flush();
    this.destroy();
  }

  destroy(): void {
    this.#closing = true;
    this.#parser.close();
    this.socket.destroy();
  }

  finished(exchange: AppExchange, requestEnded: boolean, nowMs?: number): void {
    if (this.#exchange !== exchange) return;
    this.#exchange = undefined;
    this.#unconsumed = 0;
    if (this.mustClose || !requestEnded) {
      this.#closing = true;
      this.#parser.close();
      this.socket.end();
      return;
    }
    if (this.#requestEnded) this.#next(nowMs);
    // Answered while the request was held back before its end: without this the connection would stand still.
    else if (this.#paused) this.#resume();
  }

  onData(chunk: Buffer): void {
    if (this.#closing && this.#exchange === undefined) return;
    const isFirst = this.#exchange === undefined && this.#parser.idle;
    this.#parser.push(chunk);
    // The first bytes of a request start the clock for its head; nearly every head comes whole and needs none.
    if (isFirst && this.#exchange === undefined && !this.#parser.idle)
      this.#deadlineMs = this.#clock.monotonicMs() + this.#deps.services.timeouts.headerMs;
    if (this.#parser.heldBytes > MAX_HELD_BYTES) this.#pause();
  }

  onEnd(): void {
    this.#isEnded = true;
    if (this.#isLeaving) return;
    this.#parser.eof();
    this.#closing = true;
    // The other direction may go on: its end comes from the callee.
    if (this.#switched) return;
    // The application closed its side: like every server we take that as having gone away.
    this.#exchange?.onAppGone("the application closed the connection");
    this.socket.end();
  }

  onDrain(): void {
    if (this.#unread && this.#exchange === undefined && !this.#closing) this.#next();
    else this.#exchange?.onAppDrain();
  }

  onClose(): void {
    this.#closing = true;
    this.#parser.close();
    this.#exchange?.onAppGone("the application closed the connection");
    this.#deps.onClosed(this);
  }

  sweep(nowMs: number): void {
    if (this.#exchange !== undefined) {
      if (nowMs >= this.#exchange.deadlineMs) this.#exchange.timeOut();
    } else if (nowMs >= this.#deadlineMs) this.destroy();
  }

  /** Ends an idle connection; one with a request ends after its answer. */
  drain(): void {
    if (this.#exchange === undefined && this.#parser.idle) {
      this.#closing = true;
      this.socket.end();
    }
  }

  #onHead(head: RequestHead): void {
    if (head.method === "CONNECT" && this.#deps.onConnect !== undefined) {
      this.#handOver(head, this.#deps.onConnect);
      return;
    }
    const isBodyless = !head.chunked && head.contentLength <= 0;
    this.#requestEnded = false;
    this.#told = isBodyless;
    this.#bodyLeft = head.contentLength;
    this.#keepAlive = head.keepAlive;
    this.answers.expect(head.method, head.minor);
    const { services, createExchange } = this.#deps;
    const exchange =
      createExchange === undefined
        ? openExchange(services, this.#deps.fixed, this, this.#stream, head)
        : createExchange(this, this.#stream, head);
    this.#exchange = exchange;
    exchange.start(this.#deps.fixed, isBodyless);
  }

  /** When the parser has put away what came behind the head. */
  #handOver(head: OutboundHead, onConnect: (request: HandedOver) => void): void {
    this.#closing = true;
    this.#isLeaving = true;
    this.socket.pause();
    setImmediate(() => {
      const isEnded = this.#isEnded;
      if (!this.socket.closed) onConnect({ head, early: this.#parser.takeHeld(), isEnded });
    });
  }

  #onBody(chunk: Buffer): void {
    this.#unconsumed += chunk.length;
    if (this.#exchange === undefined) {
      this.#unconsumed = 0;
      return;
    }
    // The last piece tells so itself: a frame less per request.
    if (this.#bodyLeft >= 0) this.#bodyLeft -= chunk.length;
    this.#told = this.#bodyLeft === 0;
    this.#exchange.onRequestBody(chunk, this.#told);
    if (this.#unconsumed >= HIGH_WATER_BYTES) this.#pause();
  }

  #onRequestEnd(trailers: readonly Field[]): void {
    this.#requestEnded = true;
    if (this.#exchange === undefined) {
      if (!this.#closing) this.#next();
    } else if (!this.#told) {
      this.#told = true;
      this.#exchange.onRequestTrailers(trailers);
    }
  }

  #pause(): void {
    if (this.#paused) return;
    this.#paused = true;
    this.#parser.pause();
    this.socket.pause();
  }

  #resume(): void {
    this.#paused = false;
    this.socket.resume();
    this.#parser.resume();
  }

  /** The next request of a pipeline, or waiting for one. */
  #next(nowMs: number = this.#clock.monotonicMs()): void {
    this.#deadlineMs = nowMs + this.#deps.services.timeouts.idleMs;
    // Who does not read the answers gets no more of them.
    this.#unread = this.socket.bufferedBytes >= HIGH_WATER_BYTES;
    if (!this.#unread) this.#resume();
  }

  #onProblem(problem: Http1Problem): void {
    const { metrics, trail } = this.#deps.services;
    metrics.problems.add(metrics.problems.series("application", problem.code));
    if (this.#exchange !== undefined) {
      // In the middle of a body: whatever was sent of it must not look complete, and nothing behind it can be read.
      this.#closing = true;
      if (this.#exchange.onRequestMalformed(problem.message)) this.socket.end();
      else this.destroy();
      return;
    }
    this.#closing = true;
    if (problem.code === "truncated" || problem.code === "closed_before_response") {
      this.socket.end();
      return;
    }
    const id = trail.decisionId();
    const program = this.#deps.services.state.directory?.table.program;
    const caller = program === undefined ? undefined : `${program.kind}/${program.name}`;
    const answer = problemJson({
      reason: "REQ_MALFORMED",
      caller,
      decisionId: id,
      detail: problem.message,
      status: problem.status,
    });
    this.socket.write(
      `${statusLine(problem.status)}content-type: ${answer.contentType}\r\ncontent-length: ${answer.body.length}\r\n` +
        `proxy-status: ${proxyStatus("REQ_MALFORMED", id, problem.message, caller)}\r\n${CLOSE_LINE}\r\n${answer.body}`,
    );
    this.socket.end();
  }
}
