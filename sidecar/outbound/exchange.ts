// One request of the application to another workload: resolved, classified, countersigned, sent over the mesh, answered.
// One object per request; every way out ends in `#finish`, once.

import type { Timed } from "../balance/deadline-wheel.ts";
import { grpcStatusOf, parseGrpcTimeout } from "../core/http/grpc.ts";
import { joinedField } from "../core/http/headers.ts";
import { isWebSocketKey, upgradeOf, WEBSOCKET, WEBSOCKET_HOP_FIELDS } from "../core/http/websocket.ts";
import type { Classified } from "../core/policy/classified.ts";

import type { Reason } from "../core/policy/reason.ts";
import type { Result } from "../core/runtime/errors.ts";
import type { CallChain } from "../telemetry/correlation.ts";
import { createTraceparent, isTraceparent } from "../telemetry/trace.ts";
import { type Field, FieldFlag } from "../wire/field.ts";
import type { Http2Stream } from "../wire/http2/connection.ts";
import { ownCopy } from "../wire/own-memory.ts";
import type { AppExchange, AppSide, AppStream, OutboundHead } from "./app-side.ts";
import { Attempts } from "./attempts.ts";
import { CallFacts } from "./call-facts.ts";
import { afterWaiting, chooseChain } from "./choose-chain.ts";
import { followRoute, isRouteRefusal } from "./follow-route.ts";
import { answerBesideConnect, writeAnswerFields, writeTrailers } from "./forwarded-answers.ts";
import type { EndpointGroup } from "./group.ts";
import { hashKeyOf } from "./hash-key.ts";
import { askFor, isDestination, locate } from "./locate.ts";
import type { Member } from "./member.ts";
import { STRIPPED, writeMeshHead } from "./mesh-request.ts";
import { copiesOf, type RequestCopies } from "./mirror.ts";

import { labelOf } from "./operation-label.ts";

import { writeGrpcEnd, writeProblem } from "./problem-answer.ts";
import type { Destination, FixedDestination } from "./resolve.ts";
import {
  causeOfAnswer,
  type FailureCause,
  grpcVerdict,
  MAX_REPLAY_BYTES,
  retryAfterMs,
  verdictOf,
} from "./retry.ts";
import type { DestinationRoute, MirrorTarget } from "./route.ts";
import type { OutboundServices } from "./services.ts";
import type { UpstreamConnection, UpstreamExchange } from "./upstream-connection.ts";

const NO_ERROR = 0x0;
const INTERNAL_ERROR = 0x2;
const CANCEL = 0x8;
const REFUSED_STREAM = 0x7;
const EMPTY = Buffer.alloc(0);

export class OutboundExchange implements AppExchange, UpstreamExchange, Timed {
  readonly head: OutboundHead;
  appSlot = -1;
  /** Place in the list of the connection that carries it. */
  slot = -1;
  readonly #services: OutboundServices;
  readonly #app: AppSide;
  readonly #appStream: AppStream;
  readonly #facts: CallFacts;
  /** Copies of the request that a route asks for. */
  #copies: RequestCopies | undefined;
  #authorization: string | undefined;
  #authorizations = 0;
  #hasBadTimeout = false;
  #member: Member | undefined;
  #attempts: Attempts | undefined;
  #connection: UpstreamConnection | undefined;
  #stream: Http2Stream<UpstreamExchange | undefined> | undefined;
  #sentAtMs = -1;
  // The request. Its body is kept until there is a stream, as much as the application's window lets come, and a small one
  // until the answer begins, to be sent again.
  #bodyless = false;
  /** What the request asks its connection to be turned into; empty: nothing. */
  #upgrade = "";
  /** What the application would have sent after it is not wanted. */
  #upgradeRefused = false;
  #requestEnded = false;
  #kept: Buffer[] | undefined;
  #trailers: readonly Field[] | undefined;
  #keptBytes = 0;
  /** Everything of the request that was sent is kept, and no answer has begun. */
  #replayable = true;
  /** Body bytes that the application has no credit for yet. */
  #owed = 0;
  // The answer.
  #answerHead = false;
  #answerEnded = false;
  /** Bytes of it that the mesh has no credit for yet, because the application does not keep up. */
  #held = 0;
  #over = false;
  /** Monotonic milliseconds after which the answer comes too late, or the next attempt is due. */
  deadlineMs: number;
  wheelSlot = -1;
  wheelIndex = -1;
  #waitsToRetry = false;
  /** Its limits are too short for the sweep of connections. */
  #isPrecise = false;
  #idleMs: number;
  /** End of the call's time, and of what limits it at the moment: that or the attempt's. */
  #endMs = Number.POSITIVE_INFINITY;
  #limitMs = Number.POSITIVE_INFINITY;

  constructor(services: OutboundServices, app: AppSide, stream: AppStream, head: OutboundHead) {
    this.#services = services;
    this.#app = app;
    this.#appStream = stream;
    this.head = head;
    this.#facts = new CallFacts(head, services.clock.monotonicMs(), services.meshNowMs());
    this.#idleMs = services.timeouts.responseMs;
    this.deadlineMs = this.#facts.startedMs + this.#idleMs;
  }

  get over(): boolean {
    return this.#over;
  }

  /**
   * @param fixed what a local listener or a captured connection means; undefined on the proxy port.
   * @param bodyless known with the head: no body follows.
   * @param chain that the call continues, of a gateway; undefined: what propagation selects.
   */
  start(fixed: FixedDestination | undefined, bodyless: boolean, chain?: CallChain): void {
    this.#facts.fixed = fixed;
    this.#facts.chain = chain;
    this.#readFields();
    this.#upgrade = upgradeOf(this.head.upgrade) ?? "";
    if (this.#upgrade !== "" && !bodyless) {
      this.#refuse("UNSUPPORTED", "an upgrade whose request has a body is not carried");
      return;
    }
    // What comes behind the head of an upgrade is bytes, once it is agreed to.
    this.#bodyless = bodyless && this.#upgrade === "";
    this.#requestEnded = this.#bodyless;
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
      } else if (field.name === "grpc-timeout" && this.#facts.isGrpc) this.#readTimeout(field.value);
    }
    if (this.#facts.traceparent !== undefined) return;
    // None, a broken one, or two of them: a new trace begins here (W3C Trace Context section 3.2).
    this.#facts.traceparent = createTraceparent(this.#services.ids);
    this.#facts.ownTrace = true;
  }

  #readTimeout(text: string): void {
    const timeoutMs = parseGrpcTimeout(text);
    if (timeoutMs === undefined || this.#facts.timeoutMs !== Number.POSITIVE_INFINITY)
      this.#hasBadTimeout = true;
    else this.#facts.timeoutMs = timeoutMs;
  }

  #classify(destination: Destination): void {
    this.#facts.destination = destination;
    if (this.#authorizations > 1) {
      this.#refuse("REQ_MALFORMED", "there is more than one Authorization field");
      return;
    }
    if (this.#hasBadTimeout) {
      this.#refuse("REQ_MALFORMED", "the grpc-timeout is malformed");
      return;
    }
    const choice = this.#facts.chain === undefined ? chooseChain(this.#facts, this.#services) : undefined;
    if (choice?.kind === "refused") this.#refuse(choice.reason, choice.detail);
    else if (choice?.kind === "waiting") {
      void afterWaiting(this.#services).then((chain) => {
        if (this.#over) return;
        this.#facts.chain = chain;
        this.#proceed(destination);
      });
    } else {
      if (choice !== undefined) this.#facts.chain = choice.chain;
      this.#proceed(destination);
    }
  }

  #proceed(destination: Destination): void {
    const { protocol } = destination.port;
    if (protocol === "tcp" || protocol === "tls") {
      this.#refuse("UNSUPPORTED", `requests are not carried to a port of protocol \`${protocol}\``);
      return;
    }
    if (
      this.#upgrade === WEBSOCKET &&
      !this.#app.isHttp2 &&
      !isWebSocketKey(joinedField(this.head.fields, "sec-websocket-key") ?? "")
    ) {
      this.#refuse("REQ_MALFORMED", "the handshake has no Sec-WebSocket-Key of 16 bytes");
      return;
    }
    const classified = this.#classifyFor(destination);
    if (!classified.ok) {
      this.#refuse("REQ_MALFORMED", classified.error);
      return;
    }
    this.#facts.classified = classified.value;
    this.#facts.operation = labelOf(classified.value);
    if (destination.route !== undefined && !this.#follow(destination.route)) return;
    this.#limit((this.#facts.destination ?? destination).group);
    this.#route();
  }

  #classifyFor(destination: Destination): Result<Classified, string> {
    const { head } = this;
    return destination.classifier.classify({
      method: head.method,
      websocket: this.#upgrade !== "",
      target: head.target,
      contentType: joinedField(head.fields, "content-type"),
      header: this.#app.lookup(head.fields),
      corsMethod:
        head.method === "OPTIONS" && this.#facts.header("origin") !== undefined
          ? joinedField(head.fields, "access-control-request-method")
          : undefined,
    });
  }

  /** @returns false: the call is refused. */
  #follow(route: DestinationRoute): boolean {
    const found = followRoute(route, this.#facts, (destination) => this.#classifyFor(destination));
    if (isRouteRefusal(found)) {
      this.#refuse(found.reason, found.detail);
      return false;
    }
    if (found.length > 0) this.#copyFor(found);
    return true;
  }

  #copyFor(mirrors: readonly MirrorTarget[]): void {
    // Two servers cannot answer one stream of bytes.
    if (this.#upgrade !== "") return;
    const copies = copiesOf(mirrors, {
      facts: this.#facts,
      authorization: this.#authorization,
      services: this.#services,
      classify: (destination) => this.#classifyFor(destination),
    });
    if (copies === undefined) return;
    this.#copies = copies;
    // What came of the body before it was known where the call goes.
    if (this.#kept !== undefined) for (const chunk of this.#kept) copies.take(chunk);
    if (this.#requestEnded) copies.end();
  }

  /** Sets the limits of the call's time. */
  #limit(group: EndpointGroup): void {
    const { timing } = group.traffic;
    const { startedMs, timeoutMs, route } = this.#facts;
    const requestMs = route?.requestTimeoutMs ?? timing.requestMs;
    // A gRPC call may be silent as long as its deadline lets it, and for ever without one.
    this.#idleMs = this.#facts.isGrpc ? timing.grpcIdleMs : timing.idleMs;
    this.#endMs = startedMs + Math.min(requestMs, timeoutMs);
    this.#limitMs = this.#endMs;
    group.called(startedMs);
    this.#touch(startedMs);
    this.#isPrecise =
      timing.isPrecise || timeoutMs !== Number.POSITIVE_INFINITY || route?.requestTimeoutMs !== undefined;
    if (this.#isPrecise) this.#services.deadlines.add(this);
  }

  /** Something moved. */
  #touch(nowMs: number): void {
    this.deadlineMs = Math.min(nowMs + this.#idleMs, this.#limitMs);
  }

  #route(): void {
    const destination = this.#facts.destination;
    if (destination === undefined) return;
    const { group } = destination;
    if (group.members.length === 0) {
      this.#refuse("NO_ENDPOINTS", "no running workload serves it");
      return;
    }
    const key = hashKeyOf(group.traffic.lb, this.#facts, this.#services.node);
    const member = group.pick(this.#attempts?.tried, key);
    if (member === undefined) {
      this.#refuse("OVERLOADED", "every endpoint has as many requests as it may have");
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
    if (this.#upgrade !== "" && !connection.h2.extendedConnect) {
      this.#refuse("UPSTREAM_FAILED", "the callee's side takes no upgrades (RFC 8441)");
      return;
    }
    const stream = connection.open(this);
    if (stream === undefined) {
      if (this.#facts.upstream?.wait(this) !== true)
        this.#refuse("OVERLOADED", "too many requests wait for a connection");
      return;
    }
    this.#connection = connection;
    this.#stream = stream;
    this.#sentAtMs = this.#services.clock.monotonicMs();
    this.#limitTry(destination.group);
    this.#touch(this.#sentAtMs);
    this.#sendHead(connection, stream, destination);
    this.#sendKept();
  }

  #limitTry(group: EndpointGroup): void {
    const tryMs = this.#facts.route?.tryTimeoutMs ?? group.traffic.timing.perTryMs;
    if (tryMs === Number.POSITIVE_INFINITY) return;
    this.#limitMs = Math.min(this.#endMs, this.#sentAtMs + tryMs);
    this.#rearm(this.#limitMs);
  }

  /** Comes before what the wheel knows. */
  #rearm(deadlineMs: number): void {
    const { deadlines } = this.#services;
    deadlines.remove(this);
    this.deadlineMs = deadlineMs;
    deadlines.add(this);
  }

  #sendHead(
    connection: UpstreamConnection,
    stream: Http2Stream<UpstreamExchange | undefined>,
    destination: Destination,
  ): void {
    const { h2 } = connection;
    const { operation, nowMs, chain } = this.#facts;
    const { countersigner } = connection;
    const proof = destination.asksFreshProof(operation)
      ? countersigner.freshFields(operation, destination.packsDigest, chain, this.#authorization, nowMs)
      : countersigner.fields(operation, destination.packsDigest, chain, this.#authorization, nowMs);
    h2.beginHeaders(stream);
    const { cache } = this.#services;
    const { protocol } = this.#app;
    writeMeshHead(h2, this.#facts, { proof, cache, protocol, leftMs: this.#endMs - this.#sentAtMs });
    h2.endHeaders(this.#bodyless);
  }

  onUpstreamInformational(fields: readonly Field[]): void {
    if (this.#over || this.#answerHead) return;
    writeAnswerFields(this.#app.answers, this.#appStream, fields);
    this.#app.answers.endHeaders(false);
  }

  onUpstreamHead(received: readonly Field[], endStream: boolean): void {
    if (this.#over) return;
    // What the callee's application said where CONNECT could not.
    const ignored = this.#upgrade === "" || this.#app.isHttp2 ? undefined : answerBesideConnect(received);
    const fields = ignored ?? received;
    const group = this.#facts.destination?.group;
    if (group?.traffic.watchesAnswers === true && this.#isRetried(group, fields, endStream)) return;
    const nowMs = this.#services.clock.monotonicMs();
    this.#facts.upstreamMs = nowMs - this.#sentAtMs;
    this.#limitMs = this.#endMs;
    this.#touch(nowMs);
    this.#replayable = false;
    this.#kept = undefined;
    this.#answerHead = true;
    if (this.#upgrade !== "") {
      if (ignored === undefined && Number(fields[0]?.value) < 300) {
        this.#switch(fields, endStream);
        return;
      }
      // An answer like any other: nothing more is sent on the stream.
      this.#upgradeRefused = !this.#requestEnded;
      this.#requestEnded = true;
      if (this.#stream !== undefined) this.#connection?.h2.sendData(this.#stream, EMPTY, true);
    }
    if (endStream && this.#facts.isGrpc) this.#facts.grpcStatus = grpcStatusOf(fields);
    this.#facts.status = writeAnswerFields(
      this.#app.answers,
      this.#appStream,
      fields,
      this.#facts.route?.responseEdit,
    );
    this.#app.answers.endHeaders(endStream);
    if (endStream) this.#endAnswer();
  }

  #switch(fields: readonly Field[], endStream: boolean): void {
    this.#facts.status = 101;
    // From now on only silence may have a limit.
    if (this.wheelSlot !== -1) this.#services.deadlines.remove(this);
    this.#idleMs = this.#facts.destination?.group.traffic.timing.streamMs ?? Number.POSITIVE_INFINITY;
    this.#limitMs = Number.POSITIVE_INFINITY;
    this.#touch(this.#services.clock.monotonicMs());
    this.#app.switchTo(
      this.#appStream,
      this.#upgrade,
      fields.filter((field) => (field.flags & STRIPPED) === 0 && !WEBSOCKET_HOP_FIELDS.has(field.name)),
    );
    if (endStream) this.onUpstreamData(EMPTY, true);
  }

  onUpstreamData(chunk: Buffer, endStream: boolean): void {
    if (this.#over) return;
    this.#facts.responseBytes += chunk.length;
    this.#held += chunk.length;
    // Nothing is waited for behind the end.
    if (!endStream) this.#touch(this.#services.clock.monotonicMs());
    if (this.#app.answers.sendData(this.#appStream, chunk, endStream)) this.#giveCredit();
    if (endStream) this.#endAnswer();
  }

  onUpstreamTrailers(fields: readonly Field[]): void {
    if (this.#over) return;
    const group = this.#facts.destination?.group;
    if (group?.traffic.outlier !== undefined && this.#member !== undefined)
      group.ended(this.#member, grpcVerdict(fields));
    if (this.#facts.isGrpc) this.#facts.grpcStatus = grpcStatusOf(fields);
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
      this.#breakAnswer(detail, kind === "reset" ? code : -1);
      return;
    }
    const cause = code === REFUSED_STREAM ? "refused" : untouched ? "connect-failure" : "reset";
    if (cause !== "refused" && this.#member !== undefined)
      this.#facts.destination?.group.failed(this.#member);
    const delayMs = this.#planRetry(cause, false);
    if (delayMs !== undefined) this.#retryAfter(delayMs);
    // gRPC clients know what a code of a reset means to them: the callee's application speaks.
    else if (kind === "reset" && this.#facts.isGrpc && code !== NO_ERROR) this.#breakAnswer(detail, code);
    else this.#refuse(kind === "timeout" ? "UPSTREAM_TIMEOUT" : "UPSTREAM_FAILED", detail);
  }

  /** Whether an answer is not passed on because the request is sent again. */
  #isRetried(group: EndpointGroup, fields: readonly Field[], endStream: boolean): boolean {
    const member = this.#member;
    if (member === undefined) return false;
    const status = Number(fields[0]?.value);
    const cause = causeOfAnswer(status, fields, endStream);
    group.ended(member, verdictOf(status, fields, endStream));
    if (cause === undefined) return false;
    const pauseMs = cause === "503" ? retryAfterMs(fields, this.#facts.nowMs) : 0;
    if (pauseMs > 0) group.rest(member, pauseMs);
    const delayMs = this.#planRetry(cause, pauseMs > 0);
    if (delayMs === undefined) return false;
    this.#letGo();
    this.#retryAfter(delayMs);
    return true;
  }

  #planRetry(cause: FailureCause, asksForPause: boolean): number | undefined {
    if (!this.#replayable) return undefined;
    this.#attempts ??= new Attempts();
    if (this.#member !== undefined) this.#attempts.tried.add(this.#member);
    const leftMs = this.#endMs - this.#services.clock.monotonicMs();
    return this.#attempts.plan(cause, asksForPause, leftMs, this.#facts, this.#services);
  }

  #retryAfter(delayMs: number): void {
    this.#limitMs = this.#endMs;
    if (delayMs === 0) {
      this.#route();
      return;
    }
    this.#waitsToRetry = true;
    this.#rearm(this.#services.clock.monotonicMs() + delayMs);
  }

  /** Leaves the stream of an attempt that is given up. */
  #letGo(): void {
    const connection = this.#connection;
    const stream = this.#stream;
    this.#connection = undefined;
    this.#stream = undefined;
    this.#held = 0;
    if (connection === undefined || stream === undefined) return;
    connection.h2.resetStream(stream, CANCEL);
    connection.finished(this, stream);
  }

  // --- from the application --------------------------------------------------------------------------------------

  onRequestBody(chunk: Buffer, endStream: boolean): void {
    this.#facts.requestBytes += chunk.length;
    this.#owed += chunk.length;
    if (endStream) this.#requestEnded = true;
    if (this.#copies !== undefined) {
      this.#copies.take(chunk);
      if (endStream) this.#copies.end();
    }
    if (this.#over || this.#answerEnded) this.#returnCredit();
    else if (this.#stream === undefined) {
      // A copy: the view would keep the whole received buffer alive.
      if (chunk.length > 0) this.#keep(ownCopy(chunk));
    } else {
      if (this.#replayable && chunk.length > 0) {
        this.#keep(chunk);
        this.#keepLittle();
      }
      if (this.#sendBody(chunk, endStream)) this.#returnCredit();
    }
  }

  #keep(chunk: Buffer): void {
    this.#kept ??= [];
    this.#kept.push(chunk);
    this.#keptBytes += chunk.length;
  }

  /** A body that is too long to be kept cannot be sent again. */
  #keepLittle(): void {
    if (this.#keptBytes <= MAX_REPLAY_BYTES) return;
    this.#replayable = false;
    this.#kept = undefined;
  }

  /** The request is complete. */
  onRequestTrailers(trailers: readonly Field[]): void {
    this.#requestEnded = true;
    this.#trailers = trailers;
    this.#copies?.end();
    if (this.#over || this.#answerEnded || this.#stream === undefined || this.#connection === undefined)
      return;
    writeTrailers(this.#connection.h2, this.#stream, trailers);
  }

  #sendBody(chunk: Buffer, endStream: boolean): boolean {
    if (this.#stream === undefined || this.#connection === undefined) return true;
    this.#touch(this.#services.clock.monotonicMs());
    return this.#connection.h2.sendData(this.#stream, chunk, endStream);
  }

  /** What had come of the request before there was a stream for it. */
  #sendKept(): void {
    const kept = this.#kept;
    this.#keepLittle();
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
    const nowMs = this.#services.clock.monotonicMs();
    if (this.#waitsToRetry && nowMs < this.#endMs) {
      this.#waitsToRetry = false;
      this.#touch(nowMs);
      if (this.#isPrecise) this.#services.deadlines.add(this);
      this.#route();
      return;
    }
    this.#facts.upstream?.cancel(this);
    if (this.#answerHead) {
      this.#breakAnswer("the answer stopped", -1, "UPSTREAM_TIMEOUT");
      return;
    }
    // A time that the application chose says nothing about the endpoint.
    const isItsFault = nowMs < this.#endMs || this.#facts.timeoutMs === Number.POSITIVE_INFINITY;
    if (this.#stream !== undefined && this.#member !== undefined && isItsFault)
      this.#facts.destination?.group.failed(this.#member);
    this.#letGo();
    this.#facts.error = "the target did not answer in time";
    const delayMs = this.#planRetry("timeout", false);
    if (delayMs !== undefined) this.#retryAfter(delayMs);
    else this.#refuse("UPSTREAM_TIMEOUT", this.#facts.error);
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

  /**
   * The answer cannot be completed: gRPC can still say how it ends, otherwise only a broken connection or stream does.
   *
   * @param code of the callee's reset, which gRPC clients get as it is; -1: none.
   */
  #breakAnswer(detail: string, code: number, reason: Reason = "UPSTREAM_FAILED"): void {
    const { answers } = this.#app;
    this.#facts.error = detail;
    this.#facts.reason = reason;
    if (this.#stream !== undefined) this.#connection?.h2.resetStream(this.#stream, CANCEL);
    if (!this.#facts.isGrpc || this.#answerEnded) answers.resetStream(this.#appStream, INTERNAL_ERROR);
    else if (code >= 0) answers.resetStream(this.#appStream, code);
    else {
      writeGrpcEnd(this.#app, this.#appStream, this.#facts, this.#services);
      if (!this.#requestEnded) answers.resetStream(this.#appStream, NO_ERROR);
    }
    this.#finish(true);
  }

  #refuse(reason: Reason, detail: string): void {
    if (reason === "OVERLOADED") this.#facts.destination?.group.overflowed();
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
    this.#copies?.abandon();
    if (this.wheelSlot !== -1) this.#services.deadlines.remove(this);
    this.#giveCredit();
    this.#returnCredit();
    const connection = this.#connection;
    const stream = this.#stream;
    this.#connection = undefined;
    this.#stream = undefined;
    // Over HTTP/1.1 its request was whole.
    if (this.#upgradeRefused && !broken && this.#app.isHttp2)
      this.#app.answers.resetStream(this.#appStream, NO_ERROR);
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
    const nowMs = this.#services.clock.monotonicMs();
    this.#facts.record(this.#services, nowMs);
    this.#app.finished(this, this.#requestEnded, nowMs);
  }
}
