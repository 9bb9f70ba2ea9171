// One request to our workload, from another one or (where plaintext is let in) from anybody: checked, identified, classified, decided, forwarded, recorded. One
// object per stream; every way out ends in `#finish`, once.
import type { Timed } from "../balance/deadline-wheel.ts";
import { grpcStatusOf } from "../core/http/grpc.ts";
import { GrpcMessages, type MessageSink } from "../core/http/grpc-messages.ts";
import { joinedField } from "../core/http/headers.ts";
import { FrameBoundary, WEBSOCKET } from "../core/http/websocket.ts";
import type { Decision } from "../core/policy/decide.ts";
import { jsonRpcCodeOf, jsonRpcIdOf } from "../core/policy/mcp.ts";
import { isGrpcProtobuf } from "../core/policy/protobuf-field.ts";
import type { Reason } from "../core/policy/reason.ts";
import { traceIdOf } from "../telemetry/trace.ts";
import type { Field } from "../wire/field.ts";
import { admit, catchUp, type Refusal, speaksHttp2, wantsBody } from "./admission.ts";
import type { AnswerHead, AppExchange, AppFailure, AppPlace, Repeatable } from "./app-side.ts";
import { operationLabel, refusalDecision } from "./authorize.ts";
import { BodyRate } from "./body-rate.ts";
import { CallFacts } from "./call-facts.ts";
import type { CallerSide, CallerStream, InboundStream } from "./caller-side.ts";
import { decideCall } from "./decision.ts";

import type { DeniedCall, DutyBearer } from "./duties.ts";

import { switchedFields, writeAnswerHead, writeInformational, writeTrailers } from "./forwarded-heads.ts";
import { writeGrpcEnd } from "./grpc-answer.ts";
import { writeLastWords } from "./last-words.ts";
import { MessageCheck } from "./message-check.ts";
import { type LimitedVerdict, writeProblem } from "./problem-answer.ts";
import { decideAgain } from "./redecide.ts";
import { RequestHead } from "./request-head.ts";
import type { InboundServices } from "./services.ts";
import { WaitingBody } from "./waiting-body.ts";

const NO_ERROR = 0x0;
const PROTOCOL_ERROR = 0x1;
const INTERNAL_ERROR = 0x2;
const MCP_DENIED = -32001;
const CANCEL = 0x8;
const MAX_BUFFERED_BODY = 65_536;
/** How long the body may take that a decision needs, milliseconds from the head on. */
const BODY_WITHIN_MS = 30_000;
const IDEMPOTENT = new Set(["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"]);
const EMPTY = Buffer.alloc(0);
const NO_FIELDS: readonly Field[] = [];
/** Body bytes that are kept to be written to another connection. */
const MAX_REPLAY = 65_536;
/** Each is an object, which costs many times the bytes of a tiny one. */
const MAX_REPLAY_PIECES = 64;

export class InboundExchange implements AppExchange, DutyBearer, InboundStream, MessageSink, Timed {
  readonly #services: InboundServices;
  readonly #peer: CallerSide;
  readonly #stream: CallerStream;
  /** Place in the connection's list. */
  slot = -1;
  readonly #head: RequestHead;
  readonly #facts: CallFacts;
  #isMcp = false;
  /** The message of an MCP request, until the application answers: a denial repeats its id. */
  #rpcBody: Buffer | undefined;
  #rpcCode = MCP_DENIED;
  #traceId: string | undefined;
  // Progress.
  #body: WaitingBody | undefined;
  #rate: BodyRate | undefined;
  /** Of a gRPC call whose messages name the resource: what each must pass before it goes on. */
  #check: MessageCheck | undefined;
  #messages: GrpcMessages | undefined;
  /** Not all of them have been looked at: the request does not end before. */
  #holdsEnd = false;
  /** The body as far as it was written to the application; undefined: nothing, or too much to be kept. */
  #sent: Buffer[] | undefined;
  #sentBytes = 0;
  #trailers: readonly Field[] | undefined;
  #held = 0;
  #requestEnded = false;
  #requestSent = false;
  #app: AppPlace | undefined;
  #retried = false;
  #waiting = false;
  #upstreamAtMs = -1;
  #answerHead = false;
  #answerEnded = false;
  #answerFields: readonly Field[] = NO_FIELDS;
  #responseLength = -1;
  #over = false;
  /** The application agreed to an upgrade: both directions are bytes. */
  #switched = false;
  /** The application is asked for the upgrade over HTTP/1.1, whatever else its port speaks. */
  #byHttp1 = false;
  /** Where frames of a WebSocket end, towards the caller. */
  #frames: FrameBoundary | undefined;
  /** Of a gRPC call, monotonic milliseconds. */
  deadlineMs = Number.POSITIVE_INFINITY;
  wheelSlot = -1;
  wheelIndex = -1;

  constructor(services: InboundServices, peer: CallerSide, stream: CallerStream, fields: readonly Field[]) {
    this.#services = services;
    this.#head = new RequestHead(fields, services.ids, services.limits.head);
    this.#facts = new CallFacts(this.#head, services.clock.monotonicMs(), services.meshNowMs());
    this.#peer = peer;
    this.#stream = stream;
  }

  get upgrade(): string {
    return this.#head.upgrade;
  }

  get method(): string {
    return this.#head.method;
  }

  /**
   * Takes the request's head through every check up to forwarding, or answers it.
   *
   * @param endStream the head is all there is; of an upgrade: until it is agreed to.
   * @param barred what its connection holds against it.
   */
  start(endStream: boolean, barred?: Refusal): void {
    const facts = this.#facts;
    facts.bodyless = endStream;
    this.#requestEnded = endStream;
    const refused = admit(facts, this.#peer, this.#services, barred);
    this.#isMcp = facts.classified?.pending?.kind === "mcp";
    if (refused !== undefined) {
      this.#refuseWith(refused);
      return;
    }
    if (this.#head.grpcTimeoutMs >= 0) {
      this.deadlineMs = facts.startedMs + this.#head.grpcTimeoutMs;
      this.#services.deadlines.add(this);
    }
    if (!wantsBody(facts)) {
      this.#decide();
      return;
    }
    const isMessages = facts.classified?.pending?.kind === "protobuf";
    if (endStream || (isMessages && !isGrpcProtobuf(joinedField(this.#head.fields, "content-type")))) {
      // Nothing to read it from, or nothing that can be read.
      this.#withBody(isMessages);
      return;
    }
    if (isMessages && facts.classified !== undefined) {
      this.#check = new MessageCheck(facts.classified, facts.enforcement);
      this.#messages = new GrpcMessages(this, this.#services.waiting);
      this.#holdsEnd = true;
    } else this.#body = new WaitingBody(this.#services.waiting);
    // The client waits for this before it sends what the decision needs.
    if (this.#head.header("expect")?.toLowerCase() === "100-continue") this.#sendContinue();
  }

  redecide(): void {
    if (this.#over) return;
    const lost = decideAgain(this.#facts, this.#peer, this.#services);
    if (lost === undefined) return;
    this.#facts.error = lost.detail;
    this.#app?.abandon();
    this.#app = undefined;
    if (!this.#answerHead) {
      this.#deny(lost.decision, undefined);
      return;
    }
    this.#facts.decision = lost.decision;
    this.#facts.decisionId = this.#services.trail.decisionId();
    if (this.#answerEnded) {
      // The rest of the request alone is left.
    } else if (this.#head.isGrpc)
      writeGrpcEnd({
        peer: this.#peer,
        stream: this.#stream,
        facts: this.#facts,
        reason: lost.decision.reason,
      });
    else
      writeLastWords({
        answers: this.#peer.answers,
        stream: this.#stream,
        reason: lost.decision.reason,
        decisionId: this.#facts.decisionId,
        requestType: this.#head.header("content-type"),
        answerFields: this.#answerFields,
        hasLength: this.#responseLength >= 0,
        frames: this.#frames,
        isSwitched: this.#switched,
      });
    if (!this.#requestEnded) this.#peer.answers.resetStream(this.#stream, NO_ERROR);
    this.#answerEnded = true;
    this.#finish();
  }

  /**
   * Ends waiting for a body that the decision needs (until then a request costs memory and nobody has allowed it), and for
   * one that is dripped. Messages and upgrades, and bodies of unknown length beside an answer that has begun, may be quiet
   * as long as they like.
   */
  sweep(nowMs: number): void {
    this.#facts.duties?.sweep(nowMs);
    if (this.#over || this.#requestEnded) return;
    // A stream may be silent before its first message; half of one is a body that does not come.
    const isDeciding =
      (this.#body !== undefined || this.#messages?.isWhole === false) && this.#facts.decision === undefined;
    if (isDeciding && nowMs - this.#facts.startedMs >= BODY_WITHIN_MS)
      this.#refuse("REQ_MALFORMED", "the body that the decision needs did not come in time");
    else if ((isDeciding || this.#hasPace) && this.#isTooSlow(nowMs, isDeciding))
      this.#breakOff("the body comes too slowly");
  }

  get #hasPace(): boolean {
    const { contentLength, isGrpc, upgrade } = this.#head;
    return contentLength >= 0 || (!isGrpc && upgrade === "" && !this.#answerHead);
  }

  #isTooSlow(nowMs: number, isDeciding: boolean): boolean {
    const { requestBytes } = this.#facts;
    this.#rate ??= new BodyRate(nowMs, requestBytes);
    const isHeld =
      this.#held > 0 ||
      this.#waiting ||
      // The caller may wait for the application's 100.
      (!isDeciding && requestBytes === 0 && this.#head.header("expect") !== undefined);
    const { limits, timeouts } = this.#services;
    const pace = { bodyRate: limits.bodyRate, bodyMs: timeouts.bodyMs };
    return this.#rate.isTooSlow(nowMs, requestBytes, isHeld, pace);
  }

  #withBody(truncated: boolean): void {
    const facts = this.#facts;
    const before = facts.enforcement;
    const refused = catchUp(facts, this.#peer, this.#services);
    if (refused !== undefined) {
      this.#refuseWith(refused);
      return;
    }
    const { port, classified: head } = facts;
    if (port === undefined || head === undefined) return;
    if (facts.enforcement !== before) this.#isMcp = head.pending?.kind === "mcp";
    const body = this.#body?.bytes ?? EMPTY;
    if (this.#isMcp && !truncated) this.#rpcBody = body;
    const classified = port.classifier.withBody(head, body, {
      contentType: joinedField(this.#head.fields, "content-type"),
      contentEncoding: joinedField(this.#head.fields, "content-encoding"),
      truncated,
      header: this.#peer.lookup(this.#head.fields),
    });
    if (!classified.ok) {
      this.#rpcCode = jsonRpcCodeOf(classified.error);
      this.#refuse("REQ_MALFORMED", classified.error);
      return;
    }
    facts.classified = classified.value;
    this.#decide();
  }

  #decide(): void {
    const denied = decideCall(this.#facts, this.#peer, this.#services);
    if (denied === undefined) this.#carryOut();
    else this.#deny(denied.decision, denied.limited);
  }

  /** Of an allowed call. */
  #carryOut(): void {
    if (this.#facts.duties === undefined) this.#forward();
    else this.#facts.duties.begin(this, this.#body?.bytes);
  }

  /** A message of a call whose messages name the resource. @returns whether it may go on. */
  onMessage(message: Buffer | undefined): boolean {
    const isFirst = this.#facts.decision === undefined;
    const verdict = this.#check?.look(message, this.#facts, this.#peer, this.#services);
    if (verdict === undefined || this.#over) return false;
    if (verdict.kind === "allowed") {
      if (isFirst) this.#carryOut();
      return !this.#over;
    }
    this.#app?.abandon();
    this.#app = undefined;
    if (verdict.kind === "refused") this.#refuseWith(verdict.refusal);
    else this.#deny(verdict.decision, verdict.limited);
    return false;
  }

  /** What the messages have released. */
  onBytes(bytes: Buffer): void {
    this.#facts.duties?.requestBody(bytes);
    if (!this.#over) this.#passOn(bytes);
  }

  onNoRoom(): void {
    this.#app?.abandon();
    this.#app = undefined;
    if (this.#facts.decision === undefined) this.#refuse("OVERLOADED", "too many bodies wait for a decision");
    else this.#fail("OVERLOADED", "too many messages wait to be looked at");
  }

  #passOn(bytes: Buffer): void {
    if (this.#body !== undefined || this.#waiting || this.#app === undefined) {
      this.#keepBody(bytes, false);
      return;
    }
    this.#keepSent(bytes);
    this.#app.sendBody(bytes);
    this.#app.touch(this.#services.clock.monotonicMs());
  }

  onDutiesMet(): void {
    this.#forward();
  }

  onDutiesFailed({ decision, limited, detail }: DeniedCall): void {
    if (this.#over) return;
    this.#facts.error = detail;
    this.#deny(decision, limited);
  }

  onDutiesStale(): void {
    const facts = this.#facts;
    facts.duties = undefined;
    const refused = catchUp(facts, this.#peer, this.#services);
    if (refused !== undefined) this.#refuseWith(refused);
    else if (wantsBody(facts)) this.#refuse("NOT_READY", "the policies changed while the call waited");
    else this.#decide();
  }

  #forward(): void {
    const { correlation, metrics, state, clock, held, ownUser } = this.#services;
    const { identified, classified, enforcement } = this.#facts;
    if (ownUser !== undefined && identified?.txn !== undefined)
      ownUser.notice(identified.txn, this.#facts.nowMs);
    this.#upstreamAtMs = clock.monotonicMs();
    if (correlation !== undefined && identified !== undefined && classified !== undefined) {
      if (state.carriesTrace) {
        const traceId = traceIdOf(this.#head.traceparent);
        if (correlation.begin(traceId, identified.chain(operationLabel(classified)), this.#upstreamAtMs))
          this.#traceId = traceId;
      }
      if (identified.txn !== undefined && enforcement?.passesTxn === true)
        held.deliver(identified.chain(operationLabel(classified)));
    }
    metrics.forwarded.add(metrics.allowedAndForwarded);
    this.#take(this.#head.upgrade !== "", this.#upstreamAtMs);
  }

  #take(fresh: boolean, nowMs: number): void {
    this.#waiting = true;
    // INVARIANT: what is forwarded has passed `admit`, which found its port.
    const http2 = !this.#byHttp1 && speaksHttp2(this.#facts);
    this.#app = this.#services.app(this.#facts.port?.port ?? 0, http2).take(this, fresh, nowMs);
    if (this.#app === undefined) this.#fail("OVERLOADED", "too many connections to the application");
  }

  // --- from the application's side -------------------------------------------------------------------------------

  onAppReady(place: AppPlace): void {
    this.#app = place;
    this.#waiting = false;
    const { metrics } = this.#services;
    metrics.forwarded.add(metrics.attempts);
    place.sendHead(this.#facts);
    // What a caller sends before the application agrees to an upgrade waits for that.
    if (this.#head.upgrade !== "") return;
    const body = this.#takeBody();
    if (body.length > 0) {
      this.#keepSent(body);
      place.sendBody(body);
    }
    if (this.#held > 0) this.#giveCredit();
    if (this.#requestEnded) this.#endRequest();
  }

  onAppInformational(head: AnswerHead): void {
    if (!this.#over && !this.#answerHead) writeInformational(this.#peer.answers, this.#stream, head);
  }

  onAppHead(head: AnswerHead, ended: boolean | undefined): void {
    if (this.#over) return;
    const nowMs = this.#services.clock.monotonicMs();
    this.#app?.touch(nowMs);
    this.#facts.upstreamMs = nowMs - this.#upstreamAtMs;
    this.#facts.status = head.status;
    this.#answerHead = true;
    this.#rpcBody = undefined;
    this.#sent = undefined;
    this.#answerFields = head.fields;
    const isIgnored = this.#head.upgrade !== "";
    if (isIgnored) {
      // An answer like any other (RFC 9110 section 7.8): the head was the whole request, what came behind it is nobody's.
      this.#requestSent = true;
      this.#takeBody();
      this.#creditAll();
    }
    // HTTP/2 says itself where the answer ends: trailers may follow a body of any length.
    this.#responseLength = ended === undefined ? head.contentLength : -1;
    if (ended === true && this.#head.isGrpc) this.#facts.grpcStatus = grpcStatusOf(head.fields);
    const { duties } = this.#facts;
    duties?.answerHead(head.status, head.fields);
    this.#answerEnded = writeAnswerHead(this.#peer.answers, this.#stream, head, {
      method: this.#head.method,
      ended,
      duties,
      agreesNot: isIgnored && this.#peer.upgradesByConnect && head.status < 300,
    });
  }

  onAppSwitched(head: AnswerHead): void {
    const place = this.#app;
    if (this.#over || place === undefined) return;
    const nowMs = this.#services.clock.monotonicMs();
    this.#facts.upstreamMs = nowMs - this.#upstreamAtMs;
    this.#facts.status = 101;
    this.#answerHead = true;
    this.#answerFields = head.fields;
    this.#switched = true;
    const isWebSocket = this.#head.upgrade === WEBSOCKET;
    this.#frames = isWebSocket ? new FrameBoundary() : undefined;
    const key = isWebSocket ? (joinedField(this.#head.fields, "sec-websocket-key") ?? "") : "";
    if (!this.#peer.upgradesByConnect) this.#requestEnded = false;
    this.#peer.switchTo(this.#stream, this.#head.upgrade, switchedFields(head, key));
    place.touch(nowMs);
    const early = this.#takeBody();
    if (early.length > 0) place.sendBody(early);
    this.#giveCredit();
    if (this.#requestEnded) this.#endRequest();
  }

  onAppBody(chunk: Buffer): void {
    if (this.#over) return;
    if (this.#switched) this.#frames?.push(chunk);
    this.#facts.responseBytes += chunk.length;
    this.#facts.duties?.answerBody(chunk);
    // The last piece carries END_STREAM itself: a frame less per answer.
    this.#answerEnded = this.#facts.responseBytes === this.#responseLength;
    if (!this.#peer.answers.sendData(this.#stream, chunk, this.#answerEnded) && !this.#answerEnded)
      this.#app?.pauseResponse();
  }

  onAppEnd(trailers: readonly Field[]): void {
    const app = this.#app;
    this.#app = undefined;
    const nowMs = this.#services.clock.monotonicMs();
    app?.release(this.#requestSent, nowMs);
    if (this.#over) return;
    if (!this.#answerEnded) {
      this.#answerEnded = true;
      if (this.#head.isGrpc) this.#facts.grpcStatus = grpcStatusOf(trailers);
      const { answers } = this.#peer;
      if (!writeTrailers(answers, this.#stream, trailers)) answers.sendData(this.#stream, EMPTY, true);
    }
    // The answer came before the whole request: tell the client to stop sending (RFC 9113 section 8.1).
    if (!this.#requestEnded) this.#peer.answers.resetStream(this.#stream, NO_ERROR);
    this.#finish(nowMs);
  }

  onAppDrain(): void {
    if (!this.#over) this.#giveCredit();
  }

  onAppFailed(kind: AppFailure, detail: string, repeatable: Repeatable, code: number): void {
    this.#app = undefined;
    if (this.#over) return;
    if (kind === "upgrade") {
      // Servers of HTTP/2 that take no extended CONNECT often take upgrades of HTTP/1.1 on the same port.
      this.#byHttp1 = true;
      this.#take(true, this.#services.clock.monotonicMs());
      return;
    }
    if (!this.#retried && !this.#answerHead && this.#sentBytes <= MAX_REPLAY && this.#mayRepeat(repeatable)) {
      this.#retried = true;
      this.#requestSent = false;
      if (this.#keepAgain()) this.#take(true, this.#services.clock.monotonicMs());
      else this.#fail("OVERLOADED", "too many bodies wait for the application");
      return;
    }
    // gRPC clients know what a code of a reset means to them, and it is the application that speaks. But they need not
    // take its breach of the protocol for ours: Go's client would send the request again, without end.
    if (kind === "reset" && this.#head.isGrpc && code !== NO_ERROR) {
      this.#facts.error = detail;
      this.#peer.answers.resetStream(this.#stream, code === PROTOCOL_ERROR ? INTERNAL_ERROR : code);
      this.#finish();
      return;
    }
    this.#fail(kind === "timeout" ? "UPSTREAM_TIMEOUT" : "UPSTREAM_FAILED", detail);
  }

  /** What was sent waits again, before what has come since. @returns false: there is no room for it. */
  #keepAgain(): boolean {
    const sent = this.#sent ?? [];
    this.#sent = undefined;
    this.#sentBytes = 0;
    if (sent.length === 0) return true;
    const since = this.#takeBody();
    this.#body = new WaitingBody(this.#services.waiting);
    for (const chunk of sent) if (!this.#body.add(chunk)) return false;
    return this.#body.add(since);
  }

  /** By reference, until the answer begins: a short body, in few pieces, can be sent once more. */
  #keepSent(chunk: Buffer): void {
    if (this.#retried || this.#answerHead) return;
    this.#sentBytes += chunk.length;
    if (this.#sent?.length === MAX_REPLAY_PIECES) this.#sentBytes = Number.POSITIVE_INFINITY;
    if (this.#sentBytes > MAX_REPLAY) this.#sent = undefined;
    else {
      this.#sent ??= [];
      this.#sent.push(chunk);
    }
  }

  #mayRepeat(repeatable: Repeatable): boolean {
    return repeatable === "all" || (repeatable === "idempotent" && IDEMPOTENT.has(this.#head.method));
  }

  // --- from the caller's side ------------------------------------------------------------------------------------

  onRequestBody(chunk: Buffer, endStream: boolean): void {
    this.#facts.requestBytes += chunk.length;
    if (this.#messages === undefined) this.#facts.duties?.requestBody(chunk);
    this.#held += chunk.length;
    if (endStream) this.#requestEnded = true;
    if (this.#over || this.#answerEnded) {
      this.#giveCredit();
      return;
    }
    if (
      this.#head.contentLength >= 0 &&
      (this.#facts.requestBytes > this.#head.contentLength ||
        (endStream && this.#facts.requestBytes < this.#head.contentLength))
    ) {
      this.#breakOff("the body does not have the announced length");
      return;
    }
    if (this.#messages !== undefined) this.#passMessages(this.#messages, chunk, endStream);
    else if (this.#head.upgrade !== "" && !this.#switched) this.#keepEarly(chunk, endStream);
    else if (this.#body !== undefined || this.#waiting || this.#app === undefined)
      this.#keepBody(chunk, endStream);
    else {
      this.#keepSent(chunk);
      this.#app.sendBody(chunk);
      this.#app.touch(this.#services.clock.monotonicMs());
      this.#giveCredit();
      if (endStream) this.#endRequest();
    }
  }

  /** The decision needs its messages. */
  #passMessages(messages: GrpcMessages, chunk: Buffer, endStream: boolean): void {
    if (!messages.push(chunk) || this.#over) return;
    if (endStream) this.#endMessages(messages);
    // Credit at once, or a message as long as the window would never be whole.
    else if (this.#facts.decision === undefined) this.#creditAll();
    if (!this.#over && !this.#waiting && this.#app !== undefined) this.#giveCredit();
  }

  #endMessages(messages: GrpcMessages): void {
    if (!messages.isWhole) {
      this.#breakOff("the body ends within a message");
      return;
    }
    // A call without a message names nothing.
    if (this.#facts.decision === undefined && !this.onMessage(undefined)) return;
    this.#holdsEnd = false;
    if (!this.#waiting && this.#app !== undefined) this.#endRequest();
  }

  /** Body that cannot go on yet: the decision needs it, or the application's connection does not stand. */
  #keepBody(chunk: Buffer, endStream: boolean): void {
    const deciding = this.#facts.decision === undefined;
    this.#body ??= new WaitingBody(this.#services.waiting);
    if (!this.#body.add(chunk)) {
      this.#app?.abandon();
      this.#app = undefined;
      if (deciding) this.#refuse("OVERLOADED", "too many bodies wait for a decision");
      else this.#fail("OVERLOADED", "too many bodies wait for the application");
      return;
    }
    if (!deciding) return;
    // Credit at once, or a window of exactly 64 KiB would end before the limit is seen.
    this.#peer.answers.consumed(this.#stream, this.#held);
    this.#held = 0;
    if (this.#body.length > MAX_BUFFERED_BODY) this.#withBody(true);
    else if (endStream) this.#withBody(false);
  }

  /** Bytes behind the handshake, before there is an answer to it. Without credit the window bounds them. */
  #keepEarly(chunk: Buffer, endStream: boolean): void {
    if (this.#answerHead) {
      this.#creditAll();
      return;
    }
    this.#body ??= new WaitingBody(this.#services.waiting);
    if (!this.#body.add(chunk)) {
      this.#app?.abandon();
      this.#app = undefined;
      this.#fail("OVERLOADED", "too many bytes wait for an answer");
      return;
    }
    if (endStream && this.#facts.decision === undefined)
      this.#breakOff("the stream of an upgrade ended before its answer");
  }

  onRequestTrailers(fields: readonly Field[]): void {
    this.#requestEnded = true;
    this.#trailers = fields;
    if (this.#over || this.#answerEnded) return;
    if (this.#head.contentLength >= 0 && this.#facts.requestBytes !== this.#head.contentLength) {
      this.#breakOff("the body does not have the announced length");
      return;
    }
    if (this.#messages !== undefined) this.#endMessages(this.#messages);
    else if (this.#body !== undefined && this.#facts.decision === undefined) this.#withBody(false);
    else if (!this.#waiting && this.#app !== undefined) this.#endRequest();
  }

  /** The rest of the request cannot be read (HTTP/1.1: nothing behind it on the connection either). */
  onRequestMalformed(detail: string): void {
    if (this.#over) return;
    this.#requestEnded = true;
    this.#breakOff(detail);
  }

  onPeerWritable(): void {
    this.#app?.resumeResponse();
  }

  /** The caller reset the stream or its connection is gone. */
  onPeerGone(): void {
    if (this.#over) return;
    this.#facts.error = "the caller went away";
    this.#facts.duties?.abandon();
    this.#app?.abandon();
    this.#app = undefined;
    this.#finish();
  }

  // --- shared ----------------------------------------------------------------------------------------------------

  /** What waited; its room is free again. */
  #takeBody(): Buffer {
    const bytes = this.#body?.release() ?? EMPTY;
    this.#body = undefined;
    return bytes;
  }

  #endRequest(): void {
    if (this.#requestSent || this.#holdsEnd) return;
    this.#requestSent = true;
    this.#app?.sendEnd(this.#trailers ?? []);
  }

  /** Lets the caller send more, unless the application does not keep up. */
  #giveCredit(): void {
    if (this.#over || this.#app?.congested !== true) this.#creditAll();
  }

  #creditAll(): void {
    if (this.#held === 0) return;
    this.#peer.answers.consumed(this.#stream, this.#held);
    this.#held = 0;
  }

  /** The deadline of a gRPC call has passed. */
  timeOut(): void {
    if (this.#over) return;
    this.#app?.abandon();
    this.#app = undefined;
    this.#fail("UPSTREAM_TIMEOUT", "the deadline of the call has passed");
  }

  #sendContinue(): void {
    const { answers } = this.#peer;
    answers.beginHeaders(this.#stream);
    answers.putStatus(100);
    answers.endHeaders(false);
  }

  #breakOff(detail: string): void {
    if (this.#answerHead) {
      this.#facts.error = detail;
      this.#app?.abandon();
      this.#app = undefined;
      this.#peer.answers.resetStream(this.#stream, 0x1);
      this.#finish();
      return;
    }
    this.#app?.abandon();
    this.#app = undefined;
    this.#refuse("REQ_MALFORMED", detail);
  }

  #refuseWith({ reason, detail, ofIdentity }: Refusal): void {
    if (ofIdentity) {
      const { authnFailures } = this.#services.metrics;
      authnFailures.add(authnFailures.series(this.#facts.enforcement?.self.name ?? "", reason));
    }
    this.#refuse(reason, detail);
    if (ofIdentity) this.#peer.countBadProof();
  }

  /** The request ends before, or instead of, a decision by policy. */
  #refuse(reason: Reason, detail: string): void {
    this.#facts.error = detail;
    this.#deny(refusalDecision(reason), undefined);
  }

  #deny(decision: Decision, limited: LimitedVerdict | undefined): void {
    this.#facts.decision = decision;
    this.#answer(decision.reason, limited);
  }

  /** Something behind the decision failed. */
  #fail(reason: Reason, detail: string): void {
    this.#facts.error = detail;
    this.#answer(reason, undefined);
  }

  #answer(reason: Reason, limited: LimitedVerdict | undefined): void {
    const facts = this.#facts;
    facts.decisionId = this.#services.trail.decisionId();
    if (this.#answerHead) {
      this.#breakAnswer(reason);
      return;
    }
    const rpc = this.#isMcp ? { code: this.#rpcCode, id: jsonRpcIdOf(this.#rpcBody) } : undefined;
    this.#answerHead = true;
    this.#answerEnded = true;
    writeProblem({
      peer: this.#peer,
      stream: this.#stream,
      cache: this.#services.cache,
      facts,
      reason,
      limited,
      rpc,
    });
    if (!this.#requestEnded) this.#peer.answers.resetStream(this.#stream, NO_ERROR);
    this.#finish();
  }

  /** The answer has begun: gRPC can still say how it ends, everything else is broken off. */
  #breakAnswer(reason: Reason): void {
    const { answers } = this.#peer;
    if (this.#head.isGrpc && !this.#answerEnded) {
      this.#answerEnded = true;
      writeGrpcEnd({ peer: this.#peer, stream: this.#stream, facts: this.#facts, reason });
      if (!this.#requestEnded) answers.resetStream(this.#stream, NO_ERROR);
    } else answers.resetStream(this.#stream, INTERNAL_ERROR);
    this.#finish();
  }

  /** @param nowMs monotonic. */
  #finish(nowMs: number = this.#services.clock.monotonicMs()): void {
    if (this.#over) return;
    this.#over = true;
    if (this.wheelSlot !== -1) this.#services.deadlines.remove(this);
    this.#giveCredit();
    this.#takeBody();
    this.#messages?.close();
    if (this.#traceId !== undefined) this.#services.correlation?.end(this.#traceId, nowMs);
    this.#stream.context = undefined;
    this.#facts.duties?.end();
    this.#facts.record(this.#services, this.#peer, nowMs);
    this.#peer.finished(this, nowMs);
  }

  /** Ends the exchange because the sidecar does. */
  cancel(): void {
    if (this.#over) return;
    this.#peer.answers.resetStream(this.#stream, CANCEL);
    this.onPeerGone();
  }
}
