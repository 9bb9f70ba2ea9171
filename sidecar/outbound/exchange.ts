// One request of the application to another workload: resolved, classified, countersigned, sent over the mesh, answered.
// One object per request; every way out ends in `#finish`, once.

import { joinedField } from "../core/http/headers.ts";
import type { Classified } from "../core/policy/classified.ts";
import type { Reason } from "../core/policy/reason.ts";
import type { CallChain } from "../telemetry/correlation.ts";
import { createTraceparent, isTraceparent, traceIdOf } from "../telemetry/trace.ts";
import { type Field, FieldFlag } from "../wire/field.ts";
import type { Http2Stream } from "../wire/http2/connection.ts";
import type { AppSide, AppStream, OutboundHead } from "./app-side.ts";
import { CallFacts } from "./call-facts.ts";
import { writeAnswerFields, writeTrailers } from "./forwarded-answers.ts";
import { hashKeyOf } from "./hash-key.ts";
import { askFor, isDestination, locate } from "./locate.ts";
import type { Member } from "./member.ts";
import { writeMeshHead } from "./mesh-request.ts";
import { writeProblem } from "./problem-answer.ts";
import type { Destination, FixedDestination } from "./resolve.ts";
import type { OutboundServices } from "./services.ts";
import type { UpstreamConnection, UpstreamExchange } from "./upstream-connection.ts";

const NO_ERROR = 0x0;
const INTERNAL_ERROR = 0x2;
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
  readonly head: OutboundHead;
  /** Place in the connection's list. */
  slot = -1;
  readonly #services: OutboundServices;
  readonly #app: AppSide;
  readonly #appStream: AppStream;
  readonly #facts: CallFacts;
  #chain: CallChain | undefined;
  #authorization: string | undefined;
  #authorizations = 0;
  #member: Member | undefined;
  #tried: Set<Member> | undefined;
  #attempts = 0;
  #connection: UpstreamConnection | undefined;
  #stream: Http2Stream<UpstreamExchange | undefined> | undefined;
  #sentAtMs = -1;
  // The request. Until there is a stream its body is kept, as much as the application's window lets come.
  #bodyless = false;
  #requestEnded = false;
  #kept: Buffer[] | undefined;
  #trailers: readonly Field[] | undefined;
  /** Body bytes handed to the mesh: from the first one on the request cannot be sent again. */
  #bodySent = 0;
  /** Body bytes that the application has no credit for yet. */
  #owed = 0;
  // The answer.
  #answerHead = false;
  #answerEnded = false;
  /** Bytes of it that the mesh has no credit for yet, because the application does not keep up. */
  #held = 0;
  #over = false;
  /** Monotonic milliseconds after which the answer comes too late. */
  deadlineMs: number;

  constructor(services: OutboundServices, app: AppSide, stream: AppStream, head: OutboundHead) {
    this.#services = services;
    this.#app = app;
    this.#appStream = stream;
    this.head = head;
    this.#facts = new CallFacts(head, services.clock.monotonicMs(), services.meshNowMs());
    this.deadlineMs = this.#facts.startedMs + services.timeouts.responseMs;
  }

  get over(): boolean {
    return this.#over;
  }

  /**
   * @param fixed what a local listener or a captured connection means; undefined on the proxy port.
   * @param bodyless known with the head: no body follows.
   */
  start(fixed: FixedDestination | undefined, bodyless: boolean): void {
    this.#facts.fixed = fixed;
    this.#bodyless = bodyless;
    this.#requestEnded = bodyless;
    this.#readFields();
    const located = locate(this.#facts, this.#services);
    if (isDestination(located)) this.#classify(located);
    else if (located.kind === "refused") this.#refuse(located.reason, located.detail);
    else {
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
    const { group } = destination;
    if (group.members.length === 0) {
      this.#refuse("NO_ENDPOINTS", "no running workload serves it");
      return;
    }
    if (this.#attempts >= MAX_ATTEMPTS) {
      this.#refuse("UPSTREAM_FAILED", this.#facts.error ?? "no endpoint could be reached");
      return;
    }
    if (this.#attempts === 0) group.called(this.#facts.startedMs);
    this.#attempts++;
    const member = group.pick(this.#tried, hashKeyOf(group.traffic.lb, this.#facts, this.#services.node));
    if (member === undefined) {
      if (group.hasReachable)
        this.#refuse("OVERLOADED", "every endpoint has as many requests as it may have");
      else this.#refuse("UPSTREAM_FAILED", this.#facts.error ?? "no endpoint can be reached at the moment");
      return;
    }
    this.#member = member;
    this.#facts.upstream = member.upstream;
    if (!member.upstream.request(this, group.traffic.bounds))
      this.#refuse("OVERLOADED", "too many requests wait for a connection");
  }

  // --- from the mesh ---------------------------------------------------------------------------------------------

  onUpstreamReady(connection: UpstreamConnection): void {
    const destination = this.#facts.destination;
    if (this.#over || destination === undefined) return;
    const stream = connection.open(this);
    if (stream === undefined) {
      if (this.#facts.upstream?.wait(this) !== true)
        this.#refuse("OVERLOADED", "too many requests wait for a connection");
      return;
    }
    this.#connection = connection;
    this.#stream = stream;
    this.#sentAtMs = this.#services.clock.monotonicMs();
    this.deadlineMs = this.#sentAtMs + this.#services.timeouts.responseMs;
    this.#sendHead(connection, stream, destination);
    this.#sendKept();
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
    h2.endHeaders(this.#bodyless);
  }

  onUpstreamInformational(fields: readonly Field[]): void {
    if (this.#over || this.#answerHead) return;
    writeAnswerFields(this.#app.answers, this.#appStream, fields);
    this.#app.answers.endHeaders(false);
  }

  onUpstreamHead(fields: readonly Field[], endStream: boolean): void {
    if (this.#over) return;
    const { clock, timeouts } = this.#services;
    const nowMs = clock.monotonicMs();
    this.#facts.upstreamMs = nowMs - this.#sentAtMs;
    this.deadlineMs = nowMs + timeouts.responseMs;
    this.#answerHead = true;
    this.#facts.status = writeAnswerFields(this.#app.answers, this.#appStream, fields);
    this.#app.answers.endHeaders(endStream);
    if (endStream) this.#endAnswer();
  }

  onUpstreamData(chunk: Buffer, endStream: boolean): void {
    if (this.#over) return;
    this.#facts.responseBytes += chunk.length;
    this.#held += chunk.length;
    this.deadlineMs = this.#services.clock.monotonicMs() + this.#services.timeouts.responseMs;
    if (this.#app.answers.sendData(this.#appStream, chunk, endStream)) this.#giveCredit();
    if (endStream) this.#endAnswer();
  }

  onUpstreamTrailers(fields: readonly Field[]): void {
    if (this.#over) return;
    writeTrailers(this.#app.answers, this.#appStream, fields);
    this.#endAnswer();
  }

  onUpstreamWritable(): void {
    this.#returnCredit();
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
      if (this.#member !== undefined) {
        this.#tried ??= new Set();
        this.#tried.add(this.#member);
      }
      this.#route();
      return;
    }
    this.#refuse(kind === "timeout" ? "UPSTREAM_TIMEOUT" : "UPSTREAM_FAILED", detail);
  }

  // --- from the application --------------------------------------------------------------------------------------

  onRequestBody(chunk: Buffer, endStream: boolean): void {
    this.#facts.requestBytes += chunk.length;
    this.#owed += chunk.length;
    if (endStream) this.#requestEnded = true;
    if (this.#over || this.#answerEnded) this.#returnCredit();
    else if (this.#stream === undefined) {
      // A copy: the view would keep the whole received buffer alive.
      this.#kept ??= [];
      if (chunk.length > 0) this.#kept.push(Buffer.from(chunk));
    } else if (this.#sendBody(chunk, endStream)) this.#returnCredit();
  }

  /** The request is complete. */
  onRequestTrailers(trailers: readonly Field[]): void {
    this.#requestEnded = true;
    this.#trailers = trailers;
    if (this.#over || this.#answerEnded || this.#stream === undefined || this.#connection === undefined)
      return;
    writeTrailers(this.#connection.h2, this.#stream, trailers);
  }

  #sendBody(chunk: Buffer, endStream: boolean): boolean {
    if (this.#stream === undefined || this.#connection === undefined) return true;
    this.#bodySent += chunk.length;
    this.deadlineMs = this.#services.clock.monotonicMs() + this.#services.timeouts.responseMs;
    return this.#connection.h2.sendData(this.#stream, chunk, endStream);
  }

  /** What had come of the request before there was a stream for it. */
  #sendKept(): void {
    const kept = this.#kept;
    this.#kept = undefined;
    let room = true;
    if (kept !== undefined) for (const chunk of kept) room = this.#sendBody(chunk, false);
    if (this.#requestEnded && !this.#bodyless) {
      if (this.#trailers !== undefined) this.onRequestTrailers(this.#trailers);
      else this.#sendBody(EMPTY, true);
    }
    if (room) this.#returnCredit();
  }

  /** The application takes bytes again. */
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

  /** Lets the application send more of its request. */
  #returnCredit(): void {
    if (this.#owed === 0) return;
    const bytes = this.#owed;
    this.#owed = 0;
    this.#app.answers.consumed(this.#appStream, bytes);
  }

  /** Lets the mesh send more of the answer. */
  #giveCredit(): void {
    const stream = this.#stream;
    if (this.#held === 0 || stream === undefined) return;
    this.#connection?.h2.consumed(stream, this.#held);
    this.#held = 0;
  }

  #endAnswer(): void {
    this.#answerEnded = true;
    this.#finish(false);
  }

  /** The answer cannot be completed, which only a broken connection or stream says. */
  #breakAnswer(detail: string): void {
    this.#facts.error = detail;
    this.#facts.reason = "UPSTREAM_FAILED";
    if (this.#stream !== undefined) this.#connection?.h2.resetStream(this.#stream, CANCEL);
    this.#app.answers.resetStream(this.#appStream, INTERNAL_ERROR);
    this.#finish(true);
  }

  #refuse(reason: Reason, detail: string): void {
    this.#facts.error = detail;
    this.#facts.reason = reason;
    this.#answerHead = true;
    this.#answerEnded = true;
    // A body that nobody will read: an HTTP/1.1 connection cannot be used again without reading it.
    if (!this.#requestEnded) this.#app.closeAfterAnswer();
    writeProblem(this.#app, this.#appStream, this.#facts, this.#services);
    if (!this.#requestEnded) this.#app.answers.resetStream(this.#appStream, NO_ERROR);
    if (this.#stream !== undefined) this.#connection?.h2.resetStream(this.#stream, CANCEL);
    this.#finish(false);
  }

  #finish(broken: boolean): void {
    if (this.#over) return;
    this.#over = true;
    this.#kept = undefined;
    this.#giveCredit();
    this.#returnCredit();
    const connection = this.#connection;
    const stream = this.#stream;
    this.#connection = undefined;
    this.#stream = undefined;
    if (connection !== undefined && stream !== undefined) {
      // The answer came before the whole request was sent: nothing more of it will follow.
      if (!broken && !this.#requestEnded && this.#facts.reason === "ALLOWED") {
        connection.h2.resetStream(stream, NO_ERROR);
        this.#app.closeAfterAnswer();
        this.#app.answers.resetStream(this.#appStream, NO_ERROR);
      }
      connection.finished(this, stream);
    }
    this.#appStream.context = undefined;
    this.#facts.record(this.#services);
    this.#app.finished(this, this.#requestEnded);
  }
}
