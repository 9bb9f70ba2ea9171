// One plaintext HTTP/1.1 connection from outside the mesh, where the namespace lets such callers in: requests are parsed
// strictly, one at a time, and take the way of every other call, with a caller of whom nothing is known.
import { lookupField } from "../core/http/headers.ts";
import { problemJson, proxyStatus } from "../core/http/problem.ts";
import type { CompiledProgram } from "../core/policy/decide.ts";
import type { HeaderLookup } from "../core/policy/mcp.ts";
import { createField, type Field, FieldFlag } from "../wire/field.ts";
import { type Http1Problem, type RequestHead, RequestParser } from "../wire/http1/parser.ts";
import { CLOSE_LINE, statusLine } from "../wire/http1/serializer.ts";
import { HIGH_WATER_BYTES, type MeshSocket, type SocketHandler } from "../wire/socket.ts";
import type { Enforcement } from "./authorize.ts";
import type { CallerSide, CallerStream } from "./caller-side.ts";
import { InboundExchange } from "./exchange.ts";
import { Http1Answers, type Http1Owner } from "./http1-answers.ts";
import type { InboundServices } from "./services.ts";
import type { IdentifiedCaller } from "./verify.ts";

/** How long a peer may take to read the last answer and to close, milliseconds. */
const LINGER_MS = 1_000;
const MAX_HELD_BYTES = 65_536;
const METHOD = ":method";
const SCHEME: Field = createField(":scheme", "http");

export interface PlaintextConnectionDeps {
  readonly services: InboundServices;
  /** What stands for every plaintext caller. */
  readonly caller: IdentifiedCaller;
  /** Where the connection was going before it was captured. */
  readonly address: string;
  readonly port: number;
  readonly isDraining: () => boolean;
  readonly onClosed: (connection: PlaintextConnection) => void;
}

export class PlaintextConnection implements CallerSide, Http1Owner, SocketHandler {
  readonly socket: MeshSocket;
  readonly answers: Http1Answers;
  readonly remoteAddress: string | undefined;
  readonly name = "plaintext";
  readonly port: number;
  readonly #deps: PlaintextConnectionDeps;
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
  /** Monotonic milliseconds; of the time without an exchange. */
  #deadlineMs: number;

  constructor(socket: MeshSocket, deps: PlaintextConnectionDeps) {
    this.socket = socket;
    this.#deps = deps;
    this.port = deps.port;
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
    );
    socket.attach(this);
  }

  get busy(): boolean {
    return this.#exchange !== undefined;
  }

  // --- for the exchange ------------------------------------------------------------------------------------------

  programOf(enforcement: Enforcement): CompiledProgram | undefined {
    return enforcement.plaintext;
  }

  identify(): IdentifiedCaller {
    return this.#deps.caller;
  }

  byConnection(): IdentifiedCaller {
    return this.#deps.caller;
  }

  lookup(fields: readonly Field[]): HeaderLookup {
    this.#fields = fields;
    return this.#lookup;
  }

  /** There is none to count: a caller that may not call any more is told and the connection ends. */
  countBadProof(): void {}

  finished(exchange: InboundExchange): void {
    if (this.#exchange !== exchange) return;
    this.#exchange = undefined;
    this.#unconsumed = 0;
    // What is not read of a request cannot be told from the next one.
    if (this.mustClose) this.#end();
    else if (this.#requestEnded) this.#next();
  }

  // --- for the answers -------------------------------------------------------------------------------------------

  get mustClose(): boolean {
    return (
      this.#closing ||
      !this.#keepAlive ||
      // An answer that comes before the end of its request.
      !this.#told ||
      this.#deps.isDraining() ||
      // The namespace is not permissive any more.
      this.#deps.services.state.enforcement?.plaintext === undefined
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
    // The first bytes of a request start the clock for its head.
    if (this.#exchange === undefined && this.#parser.idle)
      this.#deadlineMs = this.#deps.services.clock.monotonicMs() + this.#deps.services.timeouts.headerMs;
    this.#parser.push(chunk);
    if (this.#parser.heldBytes > MAX_HELD_BYTES) this.#pause();
  }

  onEnd(): void {
    // The peer closed its side: like every server we take that as having gone away.
    this.#parser.eof();
    this.#closing = true;
    this.#exchange?.onPeerGone();
    this.socket.end();
  }

  onDrain(): void {
    this.#exchange?.onPeerWritable();
  }

  onClose(): void {
    this.#closing = true;
    this.#parser.close();
    this.#exchange?.onPeerGone();
    this.#deps.onClosed(this);
  }

  sweep(nowMs: number): void {
    if (this.#exchange !== undefined) this.#exchange.sweep(nowMs);
    else if (nowMs >= this.#deadlineMs) this.destroy();
  }

  /** Ends an idle connection; one with a request ends after its answer. */
  drain(): void {
    if (this.#exchange === undefined && this.#parser.idle) this.#end();
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
    const exchange = new InboundExchange(this.#deps.services, this, this.#stream, this.#fieldsOf(head));
    this.#stream.context = exchange;
    this.#exchange = exchange;
    const isUpgrade = head.upgrade !== undefined && head.upgrade.toLowerCase() !== "h2c";
    exchange.start(isBodyless, isUpgrade ? "protocol upgrades are not carried yet" : "");
  }

  /**
   * The head as the mesh port would get it. Identity fields were set by nobody who could: they end here, like those that
   * belong to this connection.
   */
  #fieldsOf(head: RequestHead): readonly Field[] {
    const { address, port, services } = this.#deps;
    // Only HTTP/1.0 may leave the host out.
    const host = address.includes(":") ? `[${address.replace(/%.*/, "")}]` : address;
    const fields = [
      services.cache.get(METHOD, head.method),
      SCHEME,
      services.cache.get(":authority", head.authority === "" ? `${host}:${port}` : head.authority),
      createField(":path", head.target),
    ];
    for (const field of head.fields) {
      if ((field.flags & (FieldFlag.identity | FieldFlag.pseudo)) !== 0) continue;
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

  /** The next request of a pipeline, or waiting for one. */
  #next(): void {
    const { clock, timeouts } = this.#deps.services;
    this.#deadlineMs = clock.monotonicMs() + timeouts.idleMs;
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
    metrics.problems.add(metrics.problems.series("plaintext", problem.code));
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
