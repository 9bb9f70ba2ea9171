// One request of the application to another workload: resolved, classified, countersigned, sent over the mesh, answered.
// One object per request; every way out ends in `#finish`, once.

import { pickLeastRequest } from "../balance/pick.ts";
import { joinedField } from "../core/http/headers.ts";
import type { Classified } from "../core/policy/classified.ts";
import type { Reason } from "../core/policy/reason.ts";
import type { CallChain } from "../telemetry/correlation.ts";
import { createTraceparent, isTraceparent, traceIdOf } from "../telemetry/trace.ts";
import { type Field, FieldFlag } from "../wire/field.ts";
import type { RequestHead } from "../wire/http1/parser.ts";
import {
  CHUNK_END,
  CHUNKED_LINE,
  CLOSE_LINE,
  chunkHeader,
  lastChunk,
  statusLine,
} from "../wire/http1/serializer.ts";
import type { Http2Stream } from "../wire/http2/connection.ts";
import { HIGH_WATER_BYTES } from "../wire/socket.ts";
import type { AppSideConnection } from "./app-side-connection.ts";
import { CallFacts } from "./call-facts.ts";
import { askFor, isDestination, locate } from "./locate.ts";
import { STRIPPED, writeMeshHead } from "./mesh-request.ts";
import { problemAnswer } from "./problem-answer.ts";
import type { Destination, FixedDestination } from "./resolve.ts";
import type { OutboundServices } from "./services.ts";
import type { Upstream } from "./upstream.ts";
import type { UpstreamConnection, UpstreamExchange } from "./upstream-connection.ts";

const NO_ERROR = 0x0;
const CANCEL = 0x8;
const MAX_ATTEMPTS = 4;
const EMPTY = Buffer.alloc(0);

/** Label of an operation in a proof: both sides put `mcp` on a port with that pack (DOMAIN V6). */
function labelOf(classified: Classified): string {
  if (classified.pending?.kind === "mcp") return "mcp";
  return classified.operation.kind === "known"
    ? classified.operation.name
    : classified.operation.kind === "unknown"
      ? "unknown"
      : "undetermined";
}

export class OutboundExchange implements UpstreamExchange {
  readonly head: RequestHead;
  /** Place in the connection's list. */
  slot = -1;
  readonly #services: OutboundServices;
  readonly #app: AppSideConnection;
  readonly #facts: CallFacts;
  #chain: CallChain | undefined;
  #authorization: string | undefined;
  #authorizations = 0;
  #tried: Set<Upstream> | undefined;
  #attempts = 0;
  #connection: UpstreamConnection | undefined;
  #stream: Http2Stream<UpstreamExchange | undefined> | undefined;
  #sentAtMs = -1;
  /** Body bytes handed to the mesh: from the first one on the request cannot be sent again. */
  #bodySent = 0;
  #requestEnded = false;
  #pausedRequest = false;
  #answerHead = false;
  #answerEnded = false;
  #chunked = false;
  #bodyless = false;
  #responseLength = -1;
  #held = 0;
  #over = false;
  /** Monotonic milliseconds after which the answer comes too late. */
  deadlineMs: number;

  constructor(services: OutboundServices, app: AppSideConnection, head: RequestHead) {
    this.#services = services;
    this.#app = app;
    this.head = head;
    this.#facts = new CallFacts(head, services.clock.monotonicMs(), services.meshNowMs());
    this.deadlineMs = this.#facts.startedMs + services.timeouts.responseMs;
  }

  get over(): boolean {
    return this.#over;
  }

  /** @param fixed what a local listener or a captured connection means; undefined on the proxy port. */
  start(fixed: FixedDestination | undefined): void {
    this.#facts.fixed = fixed;
    this.#readFields();
    const located = locate(this.#facts, this.#services);
    if (isDestination(located)) this.#classify(located);
    else if (located.kind === "refused") this.#refuse(located.reason, located.detail);
    else {
      this.#pauseRequest();
      void askFor(located, this.#facts, this.#services).then((found) => {
        if (this.#over) return;
        if (isDestination(found)) this.#classify(found);
        else this.#refuse(found.reason, found.detail);
      });
    }
  }

  /** First of all, so that a refusal is recorded under its trace too. */
  #readFields(): void {
    const { fields } = this.head;
    let traces = 0;
    for (let i = 0; i < fields.length; i++) {
      const field = fields[i];
      if (field === undefined || (field.flags & FieldFlag.neverIndex) === 0) continue;
      if (field.name === "authorization") {
        this.#authorizations++;
        this.#authorization = field.value;
      } else if (field.name === "traceparent") {
        traces++;
        this.#facts.traceparent = traces === 1 && isTraceparent(field.value) ? field.value : undefined;
      }
    }
    if (this.#facts.traceparent !== undefined) return;
    // None, a broken one, or two of them: a new trace begins here (W3C Trace Context section 3.2).
    this.#facts.traceparent = createTraceparent(this.#services.ids);
    this.#facts.ownTrace = true;
  }

  #classify(destination: Destination): void {
    this.#facts.destination = destination;
    const { head } = this;
    if (this.#authorizations > 1) {
      this.#refuse("REQ_MALFORMED", "there is more than one Authorization field");
      return;
    }
    if (this.#services.state.carriesTrace && !this.#facts.ownTrace && this.#facts.traceparent !== undefined)
      this.#chain = this.#services.correlation?.find(traceIdOf(this.#facts.traceparent), this.#facts.nowMs);
    if (destination.port.protocol !== "http" && destination.port.protocol !== "auto") {
      this.#refuse("UNSUPPORTED", `protocol \`${destination.port.protocol}\` is not carried yet`);
      return;
    }
    const classified = destination.classifier.classify({
      method: head.method,
      target: head.target,
      contentType: joinedField(head.fields, "content-type"),
      header: this.#app.lookup(head.fields),
      corsMethod:
        head.method === "OPTIONS" && this.#facts.header("origin") !== undefined
          ? joinedField(head.fields, "access-control-request-method")
          : undefined,
    });
    if (!classified.ok) {
      this.#refuse("REQ_MALFORMED", classified.error);
      return;
    }
    this.#facts.classified = classified.value;
    this.#facts.operation = labelOf(classified.value);
    this.#route();
  }

  #route(): void {
    const destination = this.#facts.destination;
    if (destination === undefined) return;
    if (destination.upstreams.length === 0) {
      this.#refuse("NO_ENDPOINTS", "no running workload serves it");
      return;
    }
    if (this.#attempts >= MAX_ATTEMPTS) {
      this.#refuse("UPSTREAM_FAILED", this.#facts.error ?? "no endpoint could be reached");
      return;
    }
    this.#attempts++;
    const upstream =
      pickLeastRequest(destination.upstreams, this.#tried, this.#attempts) ??
      pickLeastRequest(destination.upstreams, undefined, 0);
    if (upstream === undefined) {
      this.#refuse("UPSTREAM_FAILED", this.#facts.error ?? "no endpoint can be reached at the moment");
      return;
    }
    this.#facts.upstream = upstream;
    if (!upstream.request(this)) {
      this.#refuse("OVERLOADED", "too many requests wait for a connection");
      return;
    }
    if (this.#stream === undefined && !this.#over) this.#pauseRequest();
  }

  // --- from the mesh ---------------------------------------------------------------------------------------------

  onUpstreamReady(connection: UpstreamConnection): void {
    const destination = this.#facts.destination;
    if (this.#over || destination === undefined) return;
    const stream = connection.open(this);
    if (stream === undefined) {
      if (this.#facts.upstream?.wait(this) === true) this.#pauseRequest();
      else this.#refuse("OVERLOADED", "too many requests wait for a connection");
      return;
    }
    this.#connection = connection;
    this.#stream = stream;
    this.#sentAtMs = this.#services.clock.monotonicMs();
    this.deadlineMs = this.#sentAtMs + this.#services.timeouts.responseMs;
    this.#sendHead(connection, stream, destination);
    this.#resumeRequest();
  }

  #sendHead(
    connection: UpstreamConnection,
    stream: Http2Stream<UpstreamExchange | undefined>,
    destination: Destination,
  ): void {
    const { h2 } = connection;
    const { operation, nowMs } = this.#facts;
    const proof = connection.countersigner.fields(
      operation,
      destination.packsDigest,
      this.#chain,
      this.#authorization,
      nowMs,
    );
    h2.beginHeaders(stream);
    writeMeshHead(h2, this.#facts, proof, this.#services.cache);
    h2.endHeaders(this.#hasNoBody);
  }

  get #hasNoBody(): boolean {
    return !this.head.chunked && this.head.contentLength <= 0;
  }

  onUpstreamInformational(fields: readonly Field[]): void {
    if (this.#over || this.#answerHead || this.head.minor === 0) return;
    let text = statusLine(Number(fields[0]?.value));
    for (const field of fields) if ((field.flags & STRIPPED) === 0) text += field.line;
    this.#app.socket.write(`${text}\r\n`);
  }

  onUpstreamHead(fields: readonly Field[], endStream: boolean): void {
    if (this.#over) return;
    const { clock, timeouts } = this.#services;
    const nowMs = clock.monotonicMs();
    this.#facts.upstreamMs = nowMs - this.#sentAtMs;
    this.deadlineMs = nowMs + timeouts.responseMs;
    const { head } = this;
    // INVARIANT: the codec refuses a response whose first field is not a :status of three digits.
    const status = Number(fields[0]?.value);
    this.#facts.status = status;
    this.#answerHead = true;
    this.#bodyless = head.method === "HEAD" || status === 204 || status === 304;
    let text = statusLine(status);
    let length = -1;
    for (let i = 1; i < fields.length; i++) {
      const field = fields[i];
      if (field === undefined) continue;
      if ((field.flags & STRIPPED) === 0) text += field.line;
      else if (field.name === "content-length" && length < 0) {
        length = Number(field.value);
        if (status !== 204) text += field.line;
      }
    }
    this.#responseLength = this.#bodyless ? -1 : length;
    if (!this.#bodyless && length < 0) {
      if (endStream) text += "content-length: 0\r\n";
      else if (head.minor === 1) {
        this.#chunked = true;
        text += CHUNKED_LINE;
      } else this.#app.closeAfterAnswer();
    }
    if (this.#app.mustClose) text += CLOSE_LINE;
    else if (head.minor === 0) text += "connection: keep-alive\r\n";
    this.#app.socket.write(`${text}\r\n`);
    if (endStream) this.#endAnswer([]);
  }

  onUpstreamData(chunk: Buffer, endStream: boolean): void {
    if (this.#over) return;
    const { socket } = this.#app;
    this.#facts.responseBytes += chunk.length;
    this.#held += chunk.length;
    if (chunk.length > 0 && !this.#bodyless) {
      // More than announced would be read as the next answer: never written.
      if (this.#responseLength >= 0 && this.#facts.responseBytes > this.#responseLength) {
        this.#breakAnswer("the answer is longer than announced");
        return;
      }
      if (this.#chunked) {
        socket.write(chunkHeader(chunk.length));
        socket.write(chunk);
        socket.write(CHUNK_END);
      } else socket.write(chunk);
    }
    this.deadlineMs = this.#services.clock.monotonicMs() + this.#services.timeouts.responseMs;
    this.#giveCredit();
    if (endStream) this.#endAnswer([]);
  }

  onUpstreamTrailers(fields: readonly Field[]): void {
    if (!this.#over) this.#endAnswer(fields);
  }

  onUpstreamWritable(): void {
    this.#resumeRequest();
  }

  onUpstreamFailed(
    kind: "connect" | "closed" | "reset" | "timeout",
    detail: string,
    untouched: boolean,
    code: number,
  ): void {
    if (this.#over) return;
    this.#connection = undefined;
    this.#stream = undefined;
    this.#facts.error = detail;
    if (this.#answerHead) {
      // RST_STREAM(NO_ERROR) after a whole answer only says that the rest of the request is not wanted.
      if (this.#answerEnded && code === NO_ERROR) return;
      this.#breakAnswer(detail);
      return;
    }
    if (untouched && this.#bodySent === 0) {
      if (this.#facts.upstream !== undefined) {
        this.#tried ??= new Set();
        this.#tried.add(this.#facts.upstream);
      }
      this.#route();
      return;
    }
    this.#refuse(kind === "timeout" ? "UPSTREAM_TIMEOUT" : "UPSTREAM_FAILED", detail);
  }

  // --- from the application --------------------------------------------------------------------------------------

  onRequestBody(chunk: Buffer): void {
    this.#facts.requestBytes += chunk.length;
    const stream = this.#stream;
    const connection = this.#connection;
    if (this.#over || this.#answerEnded || stream === undefined || connection === undefined) return;
    this.#bodySent += chunk.length;
    this.deadlineMs = this.#services.clock.monotonicMs() + this.#services.timeouts.responseMs;
    const last = this.#facts.requestBytes === this.head.contentLength;
    if (last) this.#requestEnded = true;
    if (!connection.h2.sendData(stream, chunk, last) && !last) this.#pauseRequest();
  }

  /** The request is complete. */
  onRequestEnd(trailers: readonly Field[]): void {
    const stream = this.#stream;
    const connection = this.#connection;
    const already = this.#requestEnded || this.#hasNoBody;
    this.#requestEnded = true;
    if (already || this.#over || this.#answerEnded || stream === undefined || connection === undefined)
      return;
    const kept = trailers.filter((field) => (field.flags & STRIPPED) === 0);
    if (kept.length === 0) connection.h2.sendData(stream, EMPTY, true);
    else {
      connection.h2.beginHeaders(stream);
      for (const field of kept) connection.h2.putField(field);
      connection.h2.endHeaders(true);
    }
  }

  /** The application's socket takes bytes again. */
  onAppDrain(): void {
    this.#giveCredit();
  }

  /**
   * The rest of the request cannot be read. The callee's stream is reset.
   *
   * @returns whether the application was told; false: an answer had begun, only the end of the connection says it.
   */
  onRequestMalformed(detail: string): boolean {
    if (this.#over || this.#answerHead) {
      this.onAppGone(detail, "REQ_MALFORMED");
      return false;
    }
    this.#facts.upstream?.cancel(this);
    this.#refuse("REQ_MALFORMED", detail);
    return true;
  }

  /** The application went away, or broke the protocol in the middle of its request. */
  onAppGone(detail: string, reason: Reason = "ALLOWED"): void {
    if (this.#over) return;
    this.#facts.error = detail;
    this.#facts.reason = reason;
    this.#facts.upstream?.cancel(this);
    if (this.#stream !== undefined) this.#connection?.h2.resetStream(this.#stream, CANCEL);
    this.#finish(true);
  }

  timeOut(): void {
    if (this.#over) return;
    this.#facts.upstream?.cancel(this);
    if (this.#stream !== undefined) this.#connection?.h2.resetStream(this.#stream, CANCEL);
    if (this.#answerHead) this.#breakAnswer("the answer stopped");
    else this.#refuse("UPSTREAM_TIMEOUT", "the target did not answer in time");
  }

  // --- shared ----------------------------------------------------------------------------------------------------

  #pauseRequest(): void {
    if (this.#pausedRequest || this.#requestEnded) return;
    this.#pausedRequest = true;
    this.#app.pauseRequest();
  }

  #resumeRequest(): void {
    if (!this.#pausedRequest) return;
    this.#pausedRequest = false;
    this.#app.resumeRequest();
  }

  #giveCredit(): void {
    const stream = this.#stream;
    if (this.#held === 0 || stream === undefined) return;
    if (!this.#over && this.#app.socket.bufferedBytes >= HIGH_WATER_BYTES) return;
    this.#connection?.h2.consumed(stream, this.#held);
    this.#held = 0;
  }

  #endAnswer(trailers: readonly Field[]): void {
    if (this.#responseLength >= 0 && this.#facts.responseBytes !== this.#responseLength) {
      this.#breakAnswer("the answer is shorter than announced");
      return;
    }
    this.#answerEnded = true;
    if (this.#chunked) this.#app.socket.write(lastChunk(trailers));
    this.#finish(false);
  }

  /** The answer cannot be completed: only a broken connection says so in HTTP/1.1. */
  #breakAnswer(detail: string): void {
    this.#facts.error = detail;
    this.#facts.reason = "UPSTREAM_FAILED";
    if (this.#stream !== undefined) this.#connection?.h2.resetStream(this.#stream, CANCEL);
    this.#finish(true);
    this.#app.destroy();
  }

  #refuse(reason: Reason, detail: string): void {
    this.#facts.error = detail;
    this.#facts.reason = reason;
    this.#answerHead = true;
    this.#answerEnded = true;
    // A body that nobody will read: the connection cannot be used again without reading it.
    if (!this.#requestEnded && !this.#hasNoBody) this.#app.closeAfterAnswer();
    this.#app.socket.write(problemAnswer(this.#facts, this.#services, this.#app.mustClose));
    if (this.#stream !== undefined) this.#connection?.h2.resetStream(this.#stream, CANCEL);
    this.#finish(false);
  }

  #finish(broken: boolean): void {
    if (this.#over) return;
    this.#over = true;
    this.#giveCredit();
    const connection = this.#connection;
    const stream = this.#stream;
    this.#connection = undefined;
    this.#stream = undefined;
    if (connection !== undefined && stream !== undefined) {
      // The answer came before the whole request was sent: nothing more of it will follow.
      if (!broken && !this.#requestEnded && !this.#hasNoBody && this.#facts.reason === "ALLOWED") {
        connection.h2.resetStream(stream, NO_ERROR);
        this.#app.closeAfterAnswer();
      }
      connection.finished(this, stream);
    }
    this.#facts.record(this.#services);
    this.#pausedRequest = false;
    this.#app.exchangeOver(this, this.#requestEnded || this.#hasNoBody);
  }
}
