// One HTTP/1.1 connection to our workload, over mutual TLS or (where the namespace lets them in) from a plaintext caller:
// requests are parsed strictly, one at a time, and take the way of every other call. Who calls is told by an `ConnectionPeer`.
import { joinedField, lookupField } from "../core/http/headers.ts";
import { problemJson, proxyStatus } from "../core/http/problem.ts";
import { isWebSocketKey, upgradeOf, WEBSOCKET } from "../core/http/websocket.ts";
import type { CompiledProgram } from "../core/policy/decide.ts";
import type { HeaderLookup } from "../core/policy/mcp.ts";
import { createField, type Field, FieldFlag } from "../wire/field.ts";
import { type Http1Problem, type RequestHead, RequestParser } from "../wire/http1/parser.ts";
import { CLOSE_LINE, statusLine } from "../wire/http1/serializer.ts";
import { Http1Answers, type Http1Owner } from "../wire/http1-answers.ts";
import { HIGH_WATER_BYTES, type MeshSocket, type SocketHandler } from "../wire/socket.ts";
import { type Refusal, refusal } from "./admission.ts";
import type { Enforcement } from "./authorize.ts";
import type { CallerSide, CallerStream, InboundStream } from "./caller-side.ts";
import type { ConnectionPeer } from "./connection-peer.ts";
import { InboundExchange } from "./exchange.ts";
import type { InboundServices } from "./services.ts";
import type { IdentifiedCaller, IdentityRefusal, ShownTokens } from "./verify.ts";

/** How long a peer may take to read the last answer and to close, milliseconds. */
const LINGER_MS = 1_000;
const MAX_HELD_BYTES = 65_536;
const METHOD = ":method";
const SCHEME: Field = createField(":scheme", "http");

export interface Http1ConnectionDeps {
  readonly services: InboundServices;
  readonly peer: ConnectionPeer;
  readonly isDraining: () => boolean;
  readonly onClosed: (connection: Http1Connection) => void;
}

export class Http1Connection implements CallerSide, Http1Owner, SocketHandler {
  readonly socket: MeshSocket;
  readonly answers: Http1Answers;
  readonly remoteAddress: string | undefined;
  readonly name: string;
  readonly port: number | undefined;
  readonly upgradesByConnect = false;
  readonly #deps: Http1ConnectionDeps;
  readonly #parser: RequestParser;
  readonly #stream: CallerStream = { context: undefined };
  #fields: readonly Field[] = [];
  readonly #lookup: HeaderLookup = (name) => lookupField(this.#fields, name);
  #exchange: InboundExchange | undefined;
  #requestEnded = true;
  /** The exchange knows that the request has ended. */
  #told = true;
  #keepAlive = true;
  #closing = false;
  #paused = false;
  #unconsumed = 0;
  /** The next request waits until the answers before are read. */
  #unread = false;
  /** The answer under way is the last one. */
  #leaving = false;
  /** It is turned into what its last request asked for. */
  #switched = false;
  /** Monotonic milliseconds; of the time without an exchange. */
  #deadlineMs: number;
  #expelAtMs = Number.POSITIVE_INFINITY;

  constructor(socket: MeshSocket, deps: Http1ConnectionDeps) {
    this.socket = socket;
    this.#deps = deps;
    this.name = deps.peer.name;
    this.port = deps.peer.port;
    this.remoteAddress = socket.remoteAddress?.replace(/^::ffff:/, "");
    this.answers = new Http1Answers(this);
    const { clock, timeouts, cache } = deps.services;
    this.#deadlineMs = clock.monotonicMs() + timeouts.headerMs;
    this.#parser = new RequestParser(
      {
        onHead: (head) => this.#onHead(head),
        onBody: (chunk) => this.#onBody(chunk),
        onEnd: (trailers) => this.#onRequestEnd(trailers),
        onProblem: (problem) => this.#onProblem(problem),
      },
      cache,
      deps.peer.limits,
    );
    socket.attach(this);
  }

  collect(into: InboundStream[]): void {
    if (this.#exchange !== undefined) into.push(this.#exchange);
  }

  // --- for the exchange ------------------------------------------------------------------------------------------

  programOf(enforcement: Enforcement): CompiledProgram | undefined {
    return this.#deps.peer.programOf(enforcement);
  }

  identify(shown: ShownTokens, bundleEpoch: string, nowMs: number): IdentifiedCaller | IdentityRefusal {
    return this.#deps.peer.identify(shown, bundleEpoch, nowMs);
  }

  byConnection(nowMs: number): IdentifiedCaller | undefined {
    return this.#deps.peer.byConnection(nowMs);
  }

  lookup(fields: readonly Field[]): HeaderLookup {
    this.#fields = fields;
    return this.#lookup;
  }

  countBadProof(): void {
    if (!this.#deps.peer.countBadProof()) return;
    this.#leaving = true;
    if (this.#exchange === undefined && !this.#closing) this.#end();
  }

  switchTo(_stream: CallerStream, upgrade: string, fields: readonly Field[]): void {
    let lines = "";
    for (const field of fields) lines += field.line;
    this.answers.switchTo(upgrade, lines);
    this.#switched = true;
    this.#closing = true;
    // The head was the whole request: what is held behind it, and all that comes, are bytes.
    this.#parser.tunnel();
    this.#requestEnded = false;
    this.#told = false;
    this.#resume();
  }

  finished(exchange: InboundStream, nowMs: number): void {
    if (this.#exchange !== exchange) return;
    this.#exchange = undefined;
    this.#unconsumed = 0;
    // What is not read of a request cannot be told from the next one.
    if (this.mustClose) this.#end();
    else if (this.#requestEnded) this.#next(nowMs);
  }

  // --- for the answers -------------------------------------------------------------------------------------------

  get mustClose(): boolean {
    return (
      this.#closing ||
      this.#leaving ||
      !this.#keepAlive ||
      // An answer that comes before the end of its request.
      !this.#told ||
      this.#deps.isDraining() ||
      !this.#deps.peer.isWelcome
    );
  }

  closeAfterAnswer(): void {
    this.#closing = true;
  }

  breakOff(): void {
    this.#closing = true;
    this.#parser.close();
    this.socket.destroy();
  }

  consumed(bytes: number): void {
    this.#unconsumed = Math.max(0, this.#unconsumed - bytes);
    // Behind the end of its request the parser waits for the answer.
    if (this.#paused && !this.#requestEnded && this.#unconsumed < HIGH_WATER_BYTES) this.#resume();
  }

  // --- from the socket -------------------------------------------------------------------------------------------

  onData(chunk: Buffer): void {
    if (this.#closing && this.#exchange === undefined) return;
    const isFirst = this.#exchange === undefined && this.#parser.idle;
    this.#parser.push(chunk);
    // The first bytes of a request start the clock for its head; nearly every head comes whole and needs none.
    if (isFirst && this.#exchange === undefined && !this.#parser.idle && !this.#closing)
      this.#deadlineMs = this.#deps.services.clock.monotonicMs() + this.#deps.services.timeouts.headerMs;
    if (this.#parser.heldBytes > MAX_HELD_BYTES) this.#pause();
  }

  onEnd(): void {
    this.#parser.eof();
    this.#closing = true;
    // The other direction may go on: its end comes from the application.
    if (this.#switched) return;
    // The peer closed its side: like every server we take that as having gone away.
    this.#exchange?.onPeerGone();
    this.socket.end();
  }

  onDrain(): void {
    if (this.#unread && this.#exchange === undefined && !this.#closing) this.#next();
    else this.#exchange?.onPeerWritable();
  }

  onClose(): void {
    this.#closing = true;
    this.#parser.close();
    this.#exchange?.onPeerGone();
    this.#deps.onClosed(this);
  }

  sweep(nowMs: number): void {
    if (nowMs >= this.#expelAtMs) this.destroy();
    else if (this.#exchange !== undefined) this.#exchange.sweep(nowMs);
    else if (nowMs >= this.#deadlineMs) this.destroy();
    else if (this.#leaving) this.endIdle();
  }

  /** Bounded by the socket's own limit, and by the idle limit in time. */
  readonly unreadBytes = 0;

  dropUnread(): void {}

  get openExchanges(): number {
    return this.#exchange === undefined ? 0 : 1;
  }

  /** The next answer is the last one; without a request it ends at the next sweep. */
  drain(): void {
    this.#leaving = true;
  }

  /** Like `drain`, and ends what is still open at `untilMs` (monotonic). */
  expel(untilMs: number): void {
    this.drain();
    this.#expelAtMs = untilMs;
  }

  /** Ends an idle connection; one with a request ends after its answer. */
  endIdle(): void {
    if (this.#exchange === undefined && !this.#closing && this.#parser.idle) this.#end();
  }

  destroy(): void {
    this.breakOff();
  }

  // --- requests --------------------------------------------------------------------------------------------------

  #onHead(head: RequestHead): void {
    const isBodyless = !head.chunked && head.contentLength <= 0;
    this.#requestEnded = false;
    this.#told = isBodyless;
    this.#keepAlive = head.keepAlive;
    this.answers.expect(head.method, head.minor);
    const upgrade = upgradeOf(head.upgrade);
    const barred = barredOf(head, upgrade, isBodyless);
    const isUpgrade = upgrade !== undefined && upgrade !== "" && barred === undefined;
    const fields = this.#fieldsOf(head, isUpgrade ? upgrade : "");
    const exchange = new InboundExchange(this.#deps.services, this, this.#stream, fields);
    this.#stream.context = exchange;
    this.#exchange = exchange;
    exchange.start(isBodyless, barred);
  }

  /** The head as HTTP/2 would bring it, without what belongs to this connection. */
  #fieldsOf(head: RequestHead, upgrade: string): readonly Field[] {
    const { peer, services } = this.#deps;
    const fields = [
      services.cache.get(METHOD, upgrade === "" ? head.method : "CONNECT"),
      SCHEME,
      services.cache.get(":authority", head.authority === "" ? peer.authority : head.authority),
      createField(":path", head.target),
    ];
    // RFC 8441 section 4.
    if (upgrade !== "") fields.push(services.cache.get(":protocol", upgrade));
    const ends = peer.shows ? FieldFlag.pseudo : FieldFlag.pseudo | FieldFlag.identity;
    for (const field of head.fields) {
      if ((field.flags & ends) !== 0) continue;
      if (!head.connectionNames.includes(field.name)) fields.push(field);
    }
    return fields;
  }

  #onBody(chunk: Buffer): void {
    this.#unconsumed += chunk.length;
    if (this.#exchange === undefined) this.#unconsumed = 0;
    else this.#exchange.onRequestBody(chunk, false);
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

  /** The next request of a pipeline, or waiting for one. @param nowMs monotonic. */
  #next(nowMs: number = this.#deps.services.clock.monotonicMs()): void {
    this.#deadlineMs = nowMs + this.#deps.services.timeouts.idleMs;
    // Who does not read the answers gets no more of them.
    this.#unread = this.socket.bufferedBytes >= HIGH_WATER_BYTES;
    if (this.#unread) return;
    this.#paused = true;
    this.#resume();
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

  #end(): void {
    this.#closing = true;
    this.#parser.close();
    this.#deadlineMs = this.#deps.services.clock.monotonicMs() + LINGER_MS;
    // What the peer still sends is read and dropped, or its answer would be lost to a reset.
    this.socket.end();
    this.socket.resume();
  }

  #onProblem(problem: Http1Problem): void {
    const { metrics, trail, state } = this.#deps.services;
    metrics.problems.add(metrics.problems.series(this.#deps.peer.side, problem.code));
    this.#closing = true;
    if (this.#exchange !== undefined) {
      this.#exchange.onRequestMalformed(problem.message);
      return;
    }
    if (problem.code === "truncated" || problem.code === "closed_before_response") {
      this.socket.end();
      return;
    }
    const decisionId = trail.decisionId();
    const target = state.enforcement?.target;
    const { message: detail, status } = problem;
    const answer = problemJson({ reason: "REQ_MALFORMED", target, decisionId, detail, status });
    this.socket.write(
      `${statusLine(status)}content-type: ${answer.contentType}\r\ncontent-length: ${answer.body.length}\r\n` +
        `proxy-status: ${proxyStatus("REQ_MALFORMED", decisionId, detail, target)}\r\n${CLOSE_LINE}\r\n${answer.body}`,
    );
    this.#end();
  }
}

/** What a connection of this version holds against a request. @param upgrade what it asks for, see `upgradeOf`. */
function barredOf(head: RequestHead, upgrade: string | undefined, isBodyless: boolean): Refusal | undefined {
  if (head.method === "CONNECT") return refusal("UNSUPPORTED", "CONNECT is not carried over HTTP/1.1");
  if (upgrade === "") return undefined;
  if (upgrade === undefined || head.method !== "GET")
    return refusal("UNSUPPORTED", "of upgrades only those of a GET to one protocol are carried");
  if (!isBodyless) return refusal("UNSUPPORTED", "an upgrade whose request has a body is not carried");
  return upgrade === WEBSOCKET && !isWebSocketKey(joinedField(head.fields, "sec-websocket-key") ?? "")
    ? refusal("REQ_MALFORMED", "the handshake has no Sec-WebSocket-Key of 16 bytes")
    : undefined;
}
