// An allowed request on its way to the application, and the answer on its way back: a place on a connection, the body as
// fast as the application takes it, and once more where that is safe. It ends with `onForwarded` or `onForwardFailed`,
// unless it is abandoned.
import type { Reason } from "../core/policy/reason.ts";
import type { Field } from "../wire/field.ts";
import { speaksHttp2 } from "./admission.ts";
import type { AnswerHead, AppExchange, AppFailure, AppPlace, Repeatable } from "./app-side.ts";
import type { CallFacts } from "./call-facts.ts";
import type { CallerAnswer } from "./caller-answer.ts";
import type { CallerSide } from "./caller-side.ts";
import type { RequestBody } from "./request-body.ts";
import { SentBody } from "./sent-body.ts";
import type { InboundServices } from "./services.ts";

const NO_ERROR = 0x0;
const PROTOCOL_ERROR = 0x1;
const INTERNAL_ERROR = 0x2;
const IDEMPOTENT = new Set(["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"]);

/** The call that is forwarded. */
export interface ForwardedCall {
  readonly facts: CallFacts;
  readonly peer: CallerSide;
  readonly body: RequestBody;
  readonly answer: CallerAnswer;
  /** Nothing more of it is wanted. */
  readonly isOver: boolean;
  /** The caller has been answered. @param nowMs monotonic. */
  onForwarded(nowMs: number): void;
  /** There is no answer of the application, or no end of it. */
  onForwardFailed(reason: Reason, detail: string): void;
}

type ForwardingServices = Pick<InboundServices, "app" | "clock" | "metrics">;

export class Forwarding implements AppExchange {
  readonly #services: ForwardingServices;
  readonly #call: ForwardedCall;
  #place: AppPlace | undefined;
  /** A place was asked for and is not ready. */
  #isWaiting = false;
  /** The end of the request was written. */
  #isSent = false;
  /** What was written of the body; undefined: nothing. */
  #sent: SentBody | undefined;
  /** It may be sent once more: it was not yet, and no answer has begun. */
  #isFirst = true;
  /** The application is asked for the upgrade over HTTP/1.1, whatever else its port speaks. */
  #byHttp1 = false;
  readonly #startedMs: number;

  /** @param nowMs monotonic. */
  constructor(services: ForwardingServices, call: ForwardedCall, nowMs: number) {
    this.#services = services;
    this.#call = call;
    this.#startedMs = nowMs;
  }

  get method(): string {
    return this.#call.facts.head.method;
  }

  get upgrade(): string {
    return this.#call.facts.head.upgrade;
  }

  start(): void {
    const { metrics } = this.#services;
    metrics.forwarded.add(metrics.allowedAndForwarded);
    this.#take(this.upgrade !== "", this.#startedMs);
  }

  #take(fresh: boolean, nowMs: number): void {
    const { facts } = this.#call;
    this.#isWaiting = true;
    // INVARIANT: what is forwarded has passed `admit`, which found its port.
    const http2 = !this.#byHttp1 && speaksHttp2(facts);
    this.#place = this.#services.app(facts.port?.port ?? 0, http2).take(this, fresh, nowMs);
    if (this.#place === undefined)
      this.#call.onForwardFailed("OVERLOADED", "too many connections to the application");
  }

  // --- the request -----------------------------------------------------------------------------------------------

  /** Whether body can be written at once. */
  get isReady(): boolean {
    return !this.#isWaiting && this.#place !== undefined;
  }

  get isWaiting(): boolean {
    return this.#isWaiting;
  }

  /** Only where it `isReady`. */
  sendBody(chunk: Buffer): void {
    const place = this.#place;
    if (place === undefined) return;
    this.#remember(chunk);
    place.sendBody(chunk);
    place.touch(this.#services.clock.monotonicMs());
  }

  /** Passes the request's end on when it has come and may. */
  sendEnd(): void {
    const { body } = this.#call;
    if (this.#isSent || this.#isWaiting || !body.isComplete || body.holdsEnd) return;
    this.#isSent = true;
    this.#place?.sendEnd(body.trailers);
  }

  /** Lets the caller send more, unless the application does not keep up. */
  giveCredit(): void {
    if (this.#place?.congested !== true) this.#call.body.giveCredit();
  }

  /** The caller takes more of the answer. */
  resume(): void {
    this.#place?.resumeResponse();
  }

  /** The caller gets nothing more of it. */
  abandon(): void {
    this.#place?.abandon();
    this.#place = undefined;
  }

  #remember(chunk: Buffer): void {
    if (!this.#isFirst) return;
    this.#sent ??= new SentBody();
    this.#sent.add(chunk);
  }

  // --- from the application's side -------------------------------------------------------------------------------

  onAppReady(place: AppPlace): void {
    const { facts, body } = this.#call;
    this.#place = place;
    this.#isWaiting = false;
    const { metrics } = this.#services;
    metrics.forwarded.add(metrics.attempts);
    place.sendHead(facts);
    // What a caller sends before the application agrees to an upgrade waits for that.
    if (this.upgrade !== "") return;
    if (body.isWaiting) {
      const waited = body.takeWaiting();
      if (waited.length > 0) {
        this.#remember(waited);
        place.sendBody(waited);
      }
    }
    this.giveCredit();
    this.sendEnd();
  }

  onAppInformational(head: AnswerHead): void {
    if (!this.#call.isOver) this.#call.answer.writeInformational(head);
  }

  onAppHead(head: AnswerHead, ended: boolean | undefined): void {
    if (this.#call.isOver) return;
    this.#answerBegins();
    const { body, answer } = this.#call;
    if (this.upgrade !== "") {
      // An answer like any other (RFC 9110 section 7.8): the head was the whole request, what came behind it is nobody's.
      this.#isSent = true;
      body.takeWaiting();
      body.giveCredit();
    }
    answer.writeHead(head, ended);
  }

  onAppSwitched(head: AnswerHead): void {
    if (this.#call.isOver || this.#place === undefined) return;
    this.#answerBegins();
    const { peer, body, answer } = this.#call;
    // Over HTTP/1.1 the request was whole; what comes now is bytes.
    if (!peer.upgradesByConnect) body.isComplete = false;
    answer.switchTo(head);
    const early = body.takeWaiting();
    if (early.length > 0) this.#place?.sendBody(early);
    this.giveCredit();
    this.sendEnd();
  }

  #answerBegins(): void {
    const nowMs = this.#services.clock.monotonicMs();
    this.#place?.touch(nowMs);
    this.#call.facts.answerBegins(nowMs, this.#startedMs);
    this.#isFirst = false;
    this.#sent = undefined;
  }

  onAppBody(chunk: Buffer): void {
    if (this.#call.isOver) return;
    if (!this.#call.answer.writeBody(chunk)) this.#place?.pauseResponse();
  }

  onAppEnd(trailers: readonly Field[]): void {
    const place = this.#place;
    this.#place = undefined;
    const nowMs = this.#services.clock.monotonicMs();
    place?.release(this.#isSent, nowMs);
    if (this.#call.isOver) return;
    const { body, answer } = this.#call;
    answer.writeEnd(trailers);
    if (!body.isComplete) answer.stopRequest();
    this.#call.onForwarded(nowMs);
  }

  onAppDrain(): void {
    if (!this.#call.isOver) this.giveCredit();
  }

  onAppFailed(kind: AppFailure, detail: string, repeatable: Repeatable, code: number): void {
    this.#place = undefined;
    if (this.#call.isOver) return;
    const nowMs = this.#services.clock.monotonicMs();
    if (kind === "upgrade") {
      // Servers of HTTP/2 that take no extended CONNECT often take upgrades of HTTP/1.1 on the same port.
      this.#byHttp1 = true;
      this.#take(true, nowMs);
    } else if (this.#mayRepeat(repeatable)) this.#repeat(nowMs);
    // gRPC clients know what a code of a reset means to them, and it is the application that speaks. But they need not
    // take its breach of the protocol for ours: Go's client would send the request again, without end.
    else if (kind === "reset" && this.#call.facts.head.isGrpc && code !== NO_ERROR) {
      this.#call.facts.error = detail;
      this.#call.answer.reset(code === PROTOCOL_ERROR ? INTERNAL_ERROR : code);
      this.#call.onForwarded(nowMs);
    } else this.#call.onForwardFailed(kind === "timeout" ? "UPSTREAM_TIMEOUT" : "UPSTREAM_FAILED", detail);
  }

  #mayRepeat(repeatable: Repeatable): boolean {
    if (!this.#isFirst || this.#sent?.isWhole === false) return false;
    return repeatable === "all" || (repeatable === "idempotent" && IDEMPOTENT.has(this.method));
  }

  #repeat(nowMs: number): void {
    const sent = this.#sent;
    this.#isFirst = false;
    this.#isSent = false;
    this.#sent = undefined;
    if (sent === undefined || this.#call.body.waitAgain(sent.pieces)) this.#take(true, nowMs);
    else this.#call.onForwardFailed("OVERLOADED", "too many bodies wait for the application");
  }
}
