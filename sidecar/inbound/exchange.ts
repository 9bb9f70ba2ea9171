// One request to our workload, from another one or (where plaintext is let in) from anybody: checked, identified, classified,
// decided, forwarded, recorded. One object per stream; every way out ends in `#finish`, once. What comes of the request is a
// `RequestBody`, what goes back a `CallerAnswer`, between application and both of them stands a `Forwarding`.
import type { Timed } from "../balance/deadline-wheel.ts";
import { GrpcMessages, type MessageSink } from "../core/http/grpc-messages.ts";
import { joinedField } from "../core/http/headers.ts";
import type { Decision } from "../core/policy/decide.ts";
import { jsonRpcCodeOf } from "../core/policy/mcp.ts";
import { isGrpcProtobuf } from "../core/policy/protobuf-field.ts";
import type { Reason } from "../core/policy/reason.ts";
import type { Field } from "../wire/field.ts";
import { admit, catchUp, type Refusal, wantsBody } from "./admission.ts";
import { refusalDecision } from "./authorize.ts";
import { CallFacts } from "./call-facts.ts";
import { CallerAnswer } from "./caller-answer.ts";
import type { CallerSide, CallerStream, InboundStream } from "./caller-side.ts";
import { decideCall } from "./decision.ts";
import type { DeniedCall, DutyBearer } from "./duties.ts";
import { type ForwardedCall, Forwarding } from "./forwarding.ts";
import { MessageCheck } from "./message-check.ts";
import type { LimitedVerdict } from "./problem-answer.ts";
import { beginPropagation } from "./propagation.ts";
import { decideAgain } from "./redecide.ts";
import { RequestBody } from "./request-body.ts";
import { RequestHead } from "./request-head.ts";
import type { InboundServices } from "./services.ts";

const PROTOCOL_ERROR = 0x1;
const CANCEL = 0x8;
const MCP_DENIED = -32001;
const MAX_BUFFERED_BODY = 65_536;
/** How long the body may take that a decision needs, milliseconds from the head on. */
const BODY_WITHIN_MS = 30_000;
const WRONG_LENGTH = "the body does not have the announced length";

export class InboundExchange implements DutyBearer, ForwardedCall, InboundStream, MessageSink, Timed {
  readonly #services: InboundServices;
  readonly #stream: CallerStream;
  readonly peer: CallerSide;
  readonly facts: CallFacts;
  readonly body: RequestBody;
  readonly answer: CallerAnswer;
  /** Place in the connection's list. */
  slot = -1;
  /** Of a gRPC call whose messages name the resource: what each must pass before it goes on. */
  #check: MessageCheck | undefined;
  #messages: GrpcMessages | undefined;
  #forwarding: Forwarding | undefined;
  /** Calls of the application continue this one by it. */
  #traceId: string | undefined;
  #isOver = false;
  /** Of a gRPC call, monotonic milliseconds. */
  deadlineMs = Number.POSITIVE_INFINITY;
  wheelSlot = -1;
  wheelIndex = -1;

  constructor(services: InboundServices, peer: CallerSide, stream: CallerStream, fields: readonly Field[]) {
    this.#services = services;
    this.#stream = stream;
    this.peer = peer;
    const head = new RequestHead(fields, services.ids, services.limits.head);
    this.facts = new CallFacts(head, services.clock.monotonicMs(), services.meshNowMs());
    this.body = new RequestBody(services, peer.answers, stream, this.facts);
    this.answer = new CallerAnswer(peer, stream, this.facts);
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  // --- up to the decision ----------------------------------------------------------------------------------------

  /**
   * Takes the request's head through every check up to forwarding, or answers it.
   *
   * @param endStream the head is all there is; of an upgrade: until it is agreed to.
   * @param barred what its connection holds against it.
   */
  start(endStream: boolean, barred?: Refusal): void {
    const { facts, body } = this;
    const { head } = facts;
    facts.bodyless = endStream;
    body.isComplete = endStream;
    const refused = admit(facts, this.peer, this.#services, barred);
    this.#noteMcp();
    if (refused !== undefined) {
      this.#refuseWith(refused);
      return;
    }
    if (head.grpcTimeoutMs >= 0) {
      this.deadlineMs = facts.startedMs + head.grpcTimeoutMs;
      this.#services.deadlines.add(this);
    }
    if (!wantsBody(facts)) {
      this.#decide();
      return;
    }
    const isMessages = facts.classified?.pending?.kind === "protobuf";
    if (endStream || (isMessages && !isGrpcProtobuf(joinedField(head.fields, "content-type")))) {
      // Nothing to read it from, or nothing that can be read.
      this.#decideWithBody(isMessages);
      return;
    }
    if (isMessages && facts.classified !== undefined) {
      this.#check = new MessageCheck(facts.classified, facts.enforcement);
      this.#messages = new GrpcMessages(this, this.#services.waiting);
      body.holdsEnd = true;
    } else body.wait();
    // The client waits for this before it sends what the decision needs.
    if (head.header("expect")?.toLowerCase() === "100-continue") this.answer.writeContinue();
  }

  #noteMcp(): void {
    const isMcp = this.facts.classified?.pending?.kind === "mcp";
    this.answer.rpc = isMcp ? { code: MCP_DENIED, body: undefined } : undefined;
  }

  /** @param truncated there is more of it than is read. */
  #decideWithBody(truncated: boolean): void {
    const { facts, body, answer, peer } = this;
    const before = facts.enforcement;
    const refused = catchUp(facts, peer, this.#services);
    if (refused !== undefined) {
      this.#refuseWith(refused);
      return;
    }
    const { port, classified: pending, head } = facts;
    if (port === undefined || pending === undefined) return;
    if (facts.enforcement !== before) this.#noteMcp();
    const bytes = body.waitingBytes;
    if (answer.rpc !== undefined && !truncated) answer.rpc.body = bytes;
    const classified = port.classifier.withBody(pending, bytes, {
      contentType: joinedField(head.fields, "content-type"),
      contentEncoding: joinedField(head.fields, "content-encoding"),
      truncated,
      header: peer.lookup(head.fields),
    });
    if (!classified.ok) {
      if (answer.rpc !== undefined) answer.rpc.code = jsonRpcCodeOf(classified.error);
      this.#refuse("REQ_MALFORMED", classified.error);
      return;
    }
    facts.classified = classified.value;
    this.#decide();
  }

  #decide(): void {
    const denied = decideCall(this.facts, this.peer, this.#services);
    if (denied === undefined) this.#carryOut();
    else this.#deny(denied.decision, denied.limited);
  }

  /** Of an allowed call. */
  #carryOut(): void {
    const { duties } = this.facts;
    if (duties === undefined) this.#forward();
    else duties.begin(this, this.body.isWaiting ? this.body.waitingBytes : undefined);
  }

  onDutiesMet(): void {
    this.#forward();
  }

  onDutiesFailed({ decision, limited, detail }: DeniedCall): void {
    if (this.#isOver) return;
    this.facts.error = detail;
    this.#deny(decision, limited);
  }

  onDutiesStale(): void {
    const { facts } = this;
    facts.duties = undefined;
    const refused = catchUp(facts, this.peer, this.#services);
    if (refused !== undefined) this.#refuseWith(refused);
    else if (wantsBody(facts)) this.#refuse("NOT_READY", "the policies changed while the call waited");
    else this.#decide();
  }

  redecide(): void {
    if (this.#isOver) return;
    const { facts, answer } = this;
    const lost = decideAgain(facts, this.peer, this.#services);
    if (lost === undefined) return;
    facts.error = lost.detail;
    if (!answer.hasBegun) {
      this.#deny(lost.decision, undefined);
      return;
    }
    facts.decision = lost.decision;
    facts.decisionId = this.#services.trail.decisionId();
    answer.writeLastWords(lost.decision.reason);
    if (!this.body.isComplete) answer.stopRequest();
    this.#finish();
  }

  // --- between decision and answer -------------------------------------------------------------------------------

  #forward(): void {
    const nowMs = this.#services.clock.monotonicMs();
    this.#traceId = beginPropagation(this.facts, this.#services, nowMs);
    this.#forwarding = new Forwarding(this.#services, this, nowMs);
    this.#forwarding.start();
  }

  onForwarded(nowMs: number): void {
    this.#finish(nowMs);
  }

  onForwardFailed(reason: Reason, detail: string): void {
    this.#fail(reason, detail);
  }

  // --- the request's body ----------------------------------------------------------------------------------------

  onRequestBody(chunk: Buffer, endStream: boolean): void {
    const { facts, body, answer } = this;
    body.arrived(chunk, endStream);
    if (this.#messages === undefined) facts.duties?.requestBody(chunk);
    if (this.#isOver || answer.hasEnded) this.#giveCredit();
    else if (body.hasWrongLength) this.#breakOff(WRONG_LENGTH);
    else if (this.#messages !== undefined) this.#passMessages(this.#messages, chunk, endStream);
    else if (facts.head.upgrade !== "" && !answer.isSwitched) this.#keepEarly(chunk, endStream);
    else if (!this.#pass(chunk)) this.#keep(chunk, endStream);
    else {
      this.#forwarding?.giveCredit();
      this.#forwarding?.sendEnd();
    }
  }

  /** @returns false: the application's connection does not stand, or something waits before it. */
  #pass(chunk: Buffer): boolean {
    if (this.body.isWaiting || this.#forwarding?.isReady !== true) return false;
    this.#forwarding.sendBody(chunk);
    return true;
  }

  /** Body that cannot go on yet: the decision needs it, or the application's connection does not stand. */
  #keep(chunk: Buffer, endStream: boolean): void {
    const { body } = this;
    const isDeciding = this.facts.decision === undefined;
    if (!body.wait(chunk)) {
      if (isDeciding) this.#refuse("OVERLOADED", "too many bodies wait for a decision");
      else this.#fail("OVERLOADED", "too many bodies wait for the application");
      return;
    }
    if (!isDeciding) return;
    // Credit at once, or a window of exactly 64 KiB would end before the limit is seen.
    body.giveCredit();
    if (body.waitingLength > MAX_BUFFERED_BODY) this.#decideWithBody(true);
    else if (endStream) this.#decideWithBody(false);
  }

  /** Bytes behind the handshake, before there is an answer to it. Without credit the window bounds them. */
  #keepEarly(chunk: Buffer, endStream: boolean): void {
    if (this.answer.hasBegun) this.body.giveCredit();
    else if (!this.body.wait(chunk)) this.#fail("OVERLOADED", "too many bytes wait for an answer");
    else if (endStream && this.facts.decision === undefined)
      this.#breakOff("the stream of an upgrade ended before its answer");
  }

  onRequestTrailers(fields: readonly Field[]): void {
    const { body } = this;
    body.isComplete = true;
    body.trailers = fields;
    if (this.#isOver || this.answer.hasEnded) return;
    if (body.hasWrongLength) this.#breakOff(WRONG_LENGTH);
    else if (this.#messages !== undefined) this.#endMessages(this.#messages);
    else if (body.isWaiting && this.facts.decision === undefined) this.#decideWithBody(false);
    else this.#forwarding?.sendEnd();
  }

  /** The rest of the request cannot be read (HTTP/1.1: nothing behind it on the connection either). */
  onRequestMalformed(detail: string): void {
    if (this.#isOver) return;
    this.body.isComplete = true;
    this.#breakOff(detail);
  }

  /** Lets the caller send more, unless the application does not keep up. */
  #giveCredit(): void {
    if (this.#isOver || this.#forwarding === undefined) this.body.giveCredit();
    else this.#forwarding.giveCredit();
  }

  // --- messages that the decision needs --------------------------------------------------------------------------

  #passMessages(messages: GrpcMessages, chunk: Buffer, endStream: boolean): void {
    if (!messages.push(chunk) || this.#isOver) return;
    if (endStream) this.#endMessages(messages);
    // Credit at once, or a message as long as the window would never be whole.
    else if (this.facts.decision === undefined) this.body.giveCredit();
    if (!this.#isOver && this.#forwarding?.isReady === true) this.#forwarding.giveCredit();
  }

  #endMessages(messages: GrpcMessages): void {
    if (!messages.isWhole) {
      this.#breakOff("the body ends within a message");
      return;
    }
    // A call without a message names nothing.
    if (this.facts.decision === undefined && !this.onMessage(undefined)) return;
    this.body.holdsEnd = false;
    this.#forwarding?.sendEnd();
  }

  /** @returns whether it may go on. */
  onMessage(message: Buffer | undefined): boolean {
    const isFirst = this.facts.decision === undefined;
    const verdict = this.#check?.look(message, this.facts, this.peer, this.#services);
    if (verdict === undefined || this.#isOver) return false;
    if (verdict.kind === "allowed") {
      if (isFirst) this.#carryOut();
      return !this.#isOver;
    }
    if (verdict.kind === "refused") this.#refuseWith(verdict.refusal);
    else this.#deny(verdict.decision, verdict.limited);
    return false;
  }

  /** What the messages have released. */
  onBytes(bytes: Buffer): void {
    this.facts.duties?.requestBody(bytes);
    if (!this.#isOver && !this.#pass(bytes)) this.#keep(bytes, false);
  }

  onNoRoom(): void {
    if (this.facts.decision === undefined) this.#refuse("OVERLOADED", "too many bodies wait for a decision");
    else this.#fail("OVERLOADED", "too many messages wait to be looked at");
  }

  // --- time, and ends from outside -------------------------------------------------------------------------------

  /**
   * Ends waiting for a body that the decision needs (until then a request costs memory and nobody has allowed it), and for
   * one that is dripped. Messages and upgrades, and bodies of unknown length beside an answer that has begun, may be quiet
   * as long as they like.
   */
  sweep(nowMs: number): void {
    const { facts, body } = this;
    facts.duties?.sweep(nowMs);
    if (this.#isOver || body.isComplete) return;
    // A stream may be silent before its first message; half of one is a body that does not come.
    const isDeciding = (body.isWaiting || this.#messages?.isWhole === false) && facts.decision === undefined;
    if (isDeciding && nowMs - facts.startedMs >= BODY_WITHIN_MS)
      this.#refuse("REQ_MALFORMED", "the body that the decision needs did not come in time");
    else if ((isDeciding || this.#hasPace) && body.isTooSlow(nowMs, this.#holdsBack(isDeciding)))
      this.#breakOff("the body comes too slowly");
  }

  get #hasPace(): boolean {
    const { contentLength, isGrpc, upgrade } = this.facts.head;
    return contentLength >= 0 || (!isGrpc && upgrade === "" && !this.answer.hasBegun);
  }

  /** Whether it is not the caller that the body waits for. */
  #holdsBack(isDeciding: boolean): boolean {
    if (this.#forwarding?.isWaiting === true) return true;
    // The caller may wait for the application's 100.
    const { requestBytes, head } = this.facts;
    return !isDeciding && requestBytes === 0 && head.header("expect") !== undefined;
  }

  /** The deadline of a gRPC call has passed. */
  timeOut(): void {
    if (!this.#isOver) this.#fail("UPSTREAM_TIMEOUT", "the deadline of the call has passed");
  }

  onPeerWritable(): void {
    this.#forwarding?.resume();
  }

  /** The caller reset the stream or its connection is gone. */
  onPeerGone(): void {
    if (this.#isOver) return;
    this.facts.error = "the caller went away";
    this.facts.duties?.abandon();
    this.#finish();
  }

  /** Ends the exchange because the sidecar does. */
  cancel(): void {
    if (this.#isOver) return;
    this.answer.reset(CANCEL);
    this.onPeerGone();
  }

  // --- ways out --------------------------------------------------------------------------------------------------

  #breakOff(detail: string): void {
    if (!this.answer.hasBegun) {
      this.#refuse("REQ_MALFORMED", detail);
      return;
    }
    this.facts.error = detail;
    this.answer.reset(PROTOCOL_ERROR);
    this.#finish();
  }

  #refuseWith({ reason, detail, ofIdentity }: Refusal): void {
    if (ofIdentity) {
      const { authnFailures } = this.#services.metrics;
      authnFailures.add(authnFailures.series(this.facts.enforcement?.self.name ?? "", reason));
    }
    this.#refuse(reason, detail);
    if (ofIdentity) this.peer.countBadProof();
  }

  /** The request ends before, or instead of, a decision by policy. */
  #refuse(reason: Reason, detail: string): void {
    this.facts.error = detail;
    this.#deny(refusalDecision(reason), undefined);
  }

  #deny(decision: Decision, limited: LimitedVerdict | undefined): void {
    this.facts.decision = decision;
    this.#endWith(decision.reason, limited);
  }

  /** Something behind the decision failed. */
  #fail(reason: Reason, detail: string): void {
    this.facts.error = detail;
    this.#endWith(reason, undefined);
  }

  /** Answers with the reason, or breaks off what has begun. */
  #endWith(reason: Reason, limited: LimitedVerdict | undefined): void {
    const { facts, answer, body } = this;
    const { trail, cache } = this.#services;
    facts.decisionId = trail.decisionId();
    const isSaid = answer.writeProblem(reason, limited, cache);
    if (isSaid && !body.isComplete) answer.stopRequest();
    this.#finish();
  }

  /** @param nowMs monotonic. */
  #finish(nowMs: number = this.#services.clock.monotonicMs()): void {
    if (this.#isOver) return;
    this.#isOver = true;
    const { facts, body } = this;
    const { correlation, deadlines } = this.#services;
    if (this.wheelSlot !== -1) deadlines.remove(this);
    this.#forwarding?.abandon();
    body.giveCredit();
    body.takeWaiting();
    this.#messages?.close();
    if (this.#traceId !== undefined) correlation?.end(this.#traceId, nowMs);
    this.#stream.context = undefined;
    facts.duties?.end();
    facts.record(this.#services, this.peer, nowMs);
    this.peer.finished(this, nowMs);
  }
}
