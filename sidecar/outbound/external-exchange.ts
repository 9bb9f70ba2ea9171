// One request of the application (or of a client at a gateway) to a host outside the mesh: decided on and recorded here,
// carried over TLS with the host's own certificate, without any token of the mesh. One object per request; a WebSocket is a
// request that is answered 101 and is bytes both ways from then on.
import { randomBytes } from "node:crypto";
import type { Timed } from "../balance/deadline-wheel.ts";
import { joinedField } from "../core/http/headers.ts";
import type { Reason } from "../core/policy/reason.ts";
import type { CallChain } from "../telemetry/correlation.ts";
import { createTraceparent, isTraceparent } from "../telemetry/trace.ts";
import type { Field } from "../wire/field.ts";
import type { AppExchange, AppSide, AppStream, OutboundHead } from "./app-side.ts";
import { CallFacts } from "./call-facts.ts";
import { afterWaiting, chooseChain } from "./choose-chain.ts";
import type { ExternalDestination } from "./external.ts";
import { ExternalAnswer } from "./external-answer.ts";
import { ExternalBody } from "./external-body.ts";
import { ExternalGate, type GateOwner } from "./external-gate.ts";
import type { ExternalRefusal } from "./external-ground.ts";
import { ExternalPermission } from "./external-permission.ts";
import type { ExternalPlace, ExternalUser, HostAnswer, HostFailure } from "./external-place.ts";
import type { ExternalPool } from "./external-pool.ts";
import { recordExternal } from "./external-record.ts";
import { ExternalTime } from "./external-time.ts";
import { askedOf, type HostHandshake, hostHandshake } from "./external-upgrade.ts";
import type { FixedDestination } from "./resolve.ts";
import type { OutboundServices } from "./services.ts";

const NO_ERROR = 0x0;

export class ExternalExchange implements AppExchange, ExternalUser, GateOwner, Timed {
  readonly head: OutboundHead;
  appSlot = -1;
  slot = -1;
  wheelSlot = -1;
  wheelIndex = -1;
  readonly #services: OutboundServices;
  readonly #app: AppSide;
  readonly #stream: AppStream;
  readonly #facts: CallFacts;
  readonly #permission: ExternalPermission;
  readonly #answer: ExternalAnswer;
  readonly #body = new ExternalBody();
  readonly #gate: ExternalGate;
  readonly #time: ExternalTime;
  #pool: ExternalPool | undefined;
  #place: ExternalPlace | undefined;
  #sentAtMs = -1;
  /** The head was written, and of a WebSocket agreed to: what comes goes on. */
  #isWritten = false;
  /** Of the WebSocket that is asked for. */
  #handshake: HostHandshake | undefined;
  /** What the application would have sent behind its handshake is not wanted. */
  #upgradeRefused = false;
  #bodyless = false;
  #requestSent = false;
  /** Bytes of the body that the application has no credit for yet. */
  #owed = 0;
  #retried = false;
  #over = false;

  constructor(
    services: OutboundServices,
    external: ExternalDestination,
    app: AppSide,
    stream: AppStream,
    head: OutboundHead,
  ) {
    this.#services = services;
    this.#app = app;
    this.#stream = stream;
    this.head = head;
    this.#facts = new CallFacts(head, services.clock.monotonicMs(), services.meshNowMs());
    this.#permission = new ExternalPermission(services, external, app, this.#facts);
    this.#answer = new ExternalAnswer(app, stream, this.#facts, services);
    this.#time = new ExternalTime(this.#facts, services.timeouts.responseMs);
    const { waiting: room } = services;
    this.#gate = new ExternalGate(this, { permission: this.#permission, body: this.#body, room });
  }

  get method(): string {
    return this.head.method;
  }

  get accept(): string | undefined {
    return this.#handshake?.accept;
  }

  get needsHttp2(): boolean {
    return this.#facts.isGrpc;
  }

  /** Also of asking again whether it may go on: nothing may pass any more that would. */
  get deadlineMs(): number {
    return Math.min(this.#permission.askAgainAtMs, this.#time.untilMs);
  }

  start(fixed: FixedDestination | undefined, bodyless: boolean, chain?: CallChain): void {
    const facts = this.#facts;
    // The host decides where it goes, not the address that the application found for it.
    facts.fixed = fixed?.kind === "address" ? undefined : fixed;
    const { isHttp2 } = this.#app;
    const keys = joinedField(this.head.fields, "sec-websocket-key");
    const asked = askedOf(this.head, { bodyless, isHttp2, keys });
    // What comes behind the head of an upgrade is bytes, once it is agreed to; of one that is refused nobody reads them.
    const isUpgrade = this.head.upgrade !== undefined && asked !== false;
    this.#bodyless = bodyless && !isUpgrade;
    this.#body.isEnded = this.#bodyless;
    this.#readTrace();
    const refusal = this.#permission.barred() ?? (typeof asked === "boolean" ? this.#readTimeout() : asked);
    if (refusal !== undefined) {
      this.#refuse(refusal.reason, refusal.detail);
      return;
    }
    if (asked === true) this.#handshake = hostHandshake(randomBytes(16));
    const choice = chain === undefined ? chooseChain(facts, this.#services) : undefined;
    if (choice?.kind === "refused") this.#refuse(choice.reason, choice.detail);
    else if (choice?.kind === "waiting") {
      void afterWaiting(this.#services).then((own) => {
        if (!this.#over) this.#classify(own);
      });
    } else this.#classify(choice === undefined ? chain : choice.chain);
  }

  #readTrace(): void {
    const found = this.head.fields.filter(({ name }) => name === "traceparent");
    const [only] = found;
    const facts = this.#facts;
    if (only !== undefined && found.length === 1 && isTraceparent(only.value)) facts.traceparent = only.value;
    else {
      facts.traceparent = createTraceparent(this.#services.ids);
      facts.ownTrace = true;
    }
  }

  #readTimeout(): ExternalRefusal | undefined {
    if (!this.#time.read()) return { reason: "REQ_MALFORMED", detail: "the grpc-timeout is malformed" };
    if (this.#time.hasEnd) this.#services.deadlines.add(this);
    return undefined;
  }

  /** @param chain hops and person that the call goes on for. */
  #classify(chain: CallChain | undefined): void {
    this.#facts.chain = chain;
    this.#gate.open(this.#bodyless, this.#handshake !== undefined);
    // What came while the token was asked for.
    if (this.#gate.isReading) this.#returnCredit();
  }

  // --- from the gate ---------------------------------------------------------------------------------------------

  onAllowed(): void {
    this.#send();
  }

  #send(): void {
    const { externalPools } = this.#services;
    const { external } = this.#permission;
    this.#pool = externalPools.of(external.external.id, external.addressOf(this.head.authority));
    // That of a WebSocket is not used again, and must not turn out to be one that the host has closed.
    const isFresh = this.#retried || this.#handshake !== undefined;
    if (!this.#pool.take(this, isFresh)) this.#refuse("OVERLOADED", "too many requests to this host");
  }

  onRefused(refusal: ExternalRefusal): void {
    if (!this.#over) this.#lose(refusal);
  }

  onPassed(chunk: Buffer): void {
    const place = this.#place;
    if (this.#over) return;
    if (place === undefined || !this.#isWritten) {
      this.#body.keep(chunk);
      return;
    }
    if (this.#endsLost()) return;
    if (place.mayComeBack && !this.#answer.hasBegun) this.#body.keepWritten(chunk);
    this.#touch();
    place.sendBody(chunk);
  }

  onPassedAll(): void {
    if (!this.#isWritten || this.#requestSent) return;
    this.#requestSent = true;
    this.#place?.sendEnd(this.#body.trailers);
  }

  // --- while it is under way -------------------------------------------------------------------------------------

  /** Ends a call under way that lost what allowed it. Asked with all that passes, and when nothing does. */
  #endsLost(): boolean {
    if (!this.#permission.isOutdated) return false;
    const lost = this.#permission.decideAgain();
    if (lost !== undefined) this.#lose(lost);
    return lost !== undefined;
  }

  #lose({ reason, detail }: ExternalRefusal): void {
    if (this.#answer.hasBegun) {
      this.#answer.withdraw(reason, detail, this.#body.isEnded);
      this.#finish();
    } else this.#refuse(reason, detail);
  }

  // --- from the host ---------------------------------------------------------------------------------------------

  onExternalReady(place: ExternalPlace): void {
    if (this.#over) {
      place.release(false);
      return;
    }
    this.#place = place;
    this.#sentAtMs = this.#services.clock.monotonicMs();
    this.#touch();
    place.sendHead({
      head: this.head,
      authority: this.#permission.external.authorityOf(this.head.authority),
      handshake: this.#handshake,
      bodyless: this.#bodyless,
      traceparent: this.#facts.traceparent ?? "",
      grpcLeftMs: this.#time.endMs - this.#sentAtMs,
    });
    // What the application sends before the host agrees to a WebSocket waits for that.
    if (this.#handshake === undefined) this.#sendKept(place);
  }

  #sendKept(place: ExternalPlace): void {
    this.#isWritten = true;
    for (const chunk of this.#body.chunks) place.sendBody(chunk);
    if (!place.mayComeBack || this.#body.isLarge) this.#body.drop();
    if (this.#gate.isPassed) this.onPassedAll();
    if (!place.congested) this.#returnCredit();
  }

  onExternalInformational(head: HostAnswer): void {
    if (this.#over || this.#answer.hasBegun) return;
    this.#touch();
    this.#answer.informational(head);
  }

  onExternalHead(head: HostAnswer, isAll: boolean): void {
    if (this.#over || this.#endsLost()) return;
    this.#touch();
    this.#body.drop();
    this.#facts.answerBegins(this.#services.clock.monotonicMs(), this.#sentAtMs);
    const isUpgrade = this.#handshake !== undefined;
    if (isUpgrade) {
      // An answer like any other (RFC 9110 section 7.8): the head was the whole request.
      this.#upgradeRefused = !this.#body.isEnded;
      this.#body.isEnded = true;
      this.#returnCredit();
    }
    // Over HTTP/2 a 2xx would say that the WebSocket is agreed to (RFC 8441 section 5).
    const agreesNot = isUpgrade && this.#app.isHttp2 && head.status < 300;
    this.#answer.head(head, agreesNot ? 502 : head.status, isAll);
    if (isAll) this.#finish();
  }

  onExternalSwitched(head: HostAnswer): void {
    const place = this.#place;
    if (this.#over || place === undefined || this.#endsLost()) return;
    this.#facts.answerBegins(this.#services.clock.monotonicMs(), this.#sentAtMs);
    this.#answer.switched(head);
    this.#touch();
    this.#sendKept(place);
  }

  onExternalBody(chunk: Buffer): void {
    if (this.#over || this.#endsLost()) return;
    this.#touch();
    if (!this.#answer.body(chunk)) this.#place?.pause();
  }

  onExternalEnd(trailers: readonly Field[]): void {
    if (this.#over) return;
    this.#answer.end(trailers);
    this.#finish();
  }

  onExternalDrain(): void {
    if (this.#isWritten) this.#returnCredit();
  }

  onExternalFailed({ kind, detail, untouched, code }: HostFailure): void {
    if (this.#over) return;
    this.#place = undefined;
    const { isGrpc } = this.#facts;
    if (this.#answer.hasBegun) {
      const isReset = kind === "reset" && code !== NO_ERROR;
      this.#answer.breakOff("UPSTREAM_FAILED", detail, isReset ? code : -1, this.#body.isEnded);
      this.#finish();
    } else if (untouched && kind !== "connect" && !this.#retried && !this.#body.isLarge) {
      this.#retried = true;
      this.#isWritten = false;
      this.#requestSent = false;
      this.#send();
    } else if (kind === "reset" && isGrpc && code !== NO_ERROR) {
      // gRPC clients know what a code of a reset means to them.
      this.#answer.breakOff("UPSTREAM_FAILED", detail, code, this.#body.isEnded);
      this.#finish();
    } else this.#refuse("UPSTREAM_FAILED", detail);
  }

  // --- from the application --------------------------------------------------------------------------------------

  onRequestBody(chunk: Buffer, endStream: boolean): void {
    this.#facts.requestBytes += chunk.length;
    this.#owed += chunk.length;
    if (endStream) this.#body.isEnded = true;
    if (this.#over || this.#upgradeRefused) {
      this.#returnCredit();
      return;
    }
    this.#gate.push(chunk);
    if (endStream && !this.#over) this.#gate.end();
    if (this.#over) return;
    // What is read for the decision may be as long as the window, and a little longer.
    if (this.#gate.isReading || (this.#isWritten && this.#place?.congested === false)) this.#returnCredit();
  }

  onRequestTrailers(trailers: readonly Field[]): void {
    this.#body.isEnded = true;
    this.#body.trailers = trailers;
    if (this.#over || this.#upgradeRefused) return;
    this.#gate.end();
  }

  onAppDrain(): void {
    this.#place?.resume();
  }

  onRequestMalformed(detail: string): boolean {
    if (this.#over || this.#answer.hasBegun) {
      this.onAppGone(detail, "REQ_MALFORMED");
      return false;
    }
    this.#refuse("REQ_MALFORMED", detail);
    return true;
  }

  onAppGone(detail: string, reason: Reason = "ALLOWED"): void {
    if (this.#over) return;
    this.#facts.error = detail;
    this.#facts.reason = reason;
    this.#finish();
  }

  timeOut(): void {
    if (this.#over) return;
    const nowMs = this.#services.clock.monotonicMs();
    if (nowMs >= this.#permission.askAgainAtMs) {
      const lost = this.#permission.decideAgain();
      if (lost !== undefined) {
        this.#lose(lost);
        return;
      }
    }
    if (nowMs < this.#time.untilMs) {
      // The wheel lets go of whom it tells.
      if (this.#time.hasEnd) this.#services.deadlines.add(this);
      return;
    }
    const detail = this.#answer.hasBegun ? "the answer stopped" : "the host did not answer in time";
    if (this.#answer.hasBegun) {
      this.#answer.breakOff("UPSTREAM_TIMEOUT", detail, -1, this.#body.isEnded);
      this.#finish();
    } else this.#refuse("UPSTREAM_TIMEOUT", detail);
  }

  #touch(): void {
    this.#time.touch(this.#services.clock.monotonicMs(), this.#answer.isSwitched);
  }

  #returnCredit(): void {
    if (this.#owed === 0) return;
    const bytes = this.#owed;
    this.#owed = 0;
    this.#app.answers.consumed(this.#stream, bytes);
  }

  #refuse(reason: Reason, detail: string): void {
    if (this.#over) return;
    this.#answer.refuse(reason, detail, this.#body.isEnded);
    this.#finish();
  }

  #finish(): void {
    if (this.#over) return;
    this.#over = true;
    this.#gate.close();
    this.#body.drop();
    if (this.wheelSlot !== -1) this.#services.deadlines.remove(this);
    const requestEnded = this.#body.isEnded;
    const place = this.#place;
    this.#place = undefined;
    // The host answered before the whole request was sent.
    if (!requestEnded && this.#facts.reason === "ALLOWED") this.#app.closeAfterAnswer();
    // Of an upgrade never kept: whoever stands before the host may take it for switched, whatever was answered.
    if (place === undefined) this.#pool?.cancel(this);
    else place.release(this.#handshake === undefined && (this.#bodyless || this.#requestSent));
    this.#returnCredit();
    // Nothing of what would still come is wanted (RFC 9113 section 8.1).
    if (this.#answer.isWhole && this.#app.isHttp2 && (this.#upgradeRefused || !requestEnded))
      this.#app.answers.resetStream(this.#stream, NO_ERROR);
    this.#stream.context = undefined;
    const { external, call, decision } = this.#permission;
    recordExternal({ facts: this.#facts, external, call, decision }, this.#services);
    this.#app.finished(this, requestEnded);
  }
}
