// One request of the application (or of a client at a gateway) to a host outside the mesh: decided on and recorded here,
// carried over TLS with the host's own certificate, without any token of the mesh. One object per request; a WebSocket is a
// request that is answered 101 and is bytes both ways from then on.
import { randomBytes } from "node:crypto";
import { joinedField } from "../core/http/headers.ts";
import { FrameBoundary, WEBSOCKET } from "../core/http/websocket.ts";
import { MAX_RESOURCE_BODY_BYTES } from "../core/policy/operations.ts";
import type { Reason } from "../core/policy/reason.ts";
import type { CallChain } from "../telemetry/correlation.ts";
import { createTraceparent, isTraceparent } from "../telemetry/trace.ts";
import type { Field } from "../wire/field.ts";
import type { ResponseHead } from "../wire/http1/parser.ts";
import { CHUNK_END, chunkHeader, lastChunk } from "../wire/http1/serializer.ts";
import type { AppExchange, AppSide, AppStream, OutboundHead } from "./app-side.ts";
import { CallFacts } from "./call-facts.ts";
import { afterWaiting, chooseChain } from "./choose-chain.ts";
import type { ExternalDestination } from "./external.ts";
import type { ExternalConnection, ExternalUser } from "./external-connection.ts";
import { externalLastWords } from "./external-last-words.ts";
import { ExternalPermission } from "./external-permission.ts";
import { recordExternal } from "./external-record.ts";
import { http1Request } from "./external-request.ts";
import { agreedFields, askedOf, type HostHandshake, hostHandshake } from "./external-upgrade.ts";
import { writeTrailers } from "./forwarded-answers.ts";
import { STRIPPED } from "./mesh-request.ts";
import { writeProblem } from "./problem-answer.ts";
import type { FixedDestination } from "./resolve.ts";
import type { OutboundServices } from "./services.ts";

const NO_ERROR = 0x0;
const INTERNAL_ERROR = 0x2;
const CANCEL = 0x8;
const EMPTY = Buffer.alloc(0);

export class ExternalExchange implements AppExchange, ExternalUser {
  readonly head: OutboundHead;
  appSlot = -1;
  slot = -1;
  readonly #services: OutboundServices;
  readonly #app: AppSide;
  readonly #stream: AppStream;
  readonly #facts: CallFacts;
  readonly #permission: ExternalPermission;
  #connection: ExternalConnection | undefined;
  #sentAtMs = -1;
  #isWritten = false;
  #isChunked = false;
  #isDeciding = false;
  /** Of the WebSocket that is asked for. */
  #handshake: HostHandshake | undefined;
  /** Towards the application, of a WebSocket that the host agreed to. */
  #frames: FrameBoundary | undefined;
  /** What the application would have sent behind its handshake is not wanted. */
  #upgradeRefused = false;
  #bodyless = false;
  #requestEnded = false;
  #requestSent = false;
  #kept: Buffer[] = [];
  #keptBytes = 0;
  #trailers: readonly Field[] = [];
  #owed = 0;
  #retried = false;
  #answerHead = false;
  #answerEnded = false;
  /** And an event can be added to it. */
  #isEventStream = false;
  #over = false;
  /** Monotonic milliseconds. */
  #silentUntilMs: number;

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
    this.#silentUntilMs = this.#facts.startedMs + services.timeouts.responseMs;
  }

  get method(): string {
    return this.head.method;
  }

  get accept(): string | undefined {
    return this.#handshake?.accept;
  }

  /** At once where a table has come since it was decided on: nothing may pass any more that would ask. */
  get deadlineMs(): number {
    return this.#permission.isOutdated ? 0 : this.#silentUntilMs;
  }

  get #host(): string {
    return this.#permission.external.hostOf(this.head.authority);
  }

  start(fixed: FixedDestination | undefined, bodyless: boolean, chain?: CallChain): void {
    const facts = this.#facts;
    // The host decides where it goes, not the address that the application found for it.
    facts.fixed = fixed?.kind === "address" ? undefined : fixed;
    const { isGrpc } = facts;
    const { isHttp2 } = this.#app;
    const keys = joinedField(this.head.fields, "sec-websocket-key");
    const asked = askedOf(this.head, { bodyless, isGrpc, isHttp2, keys });
    // What comes behind the head of an upgrade is bytes, once it is agreed to; of one that is refused nobody reads them.
    const isUpgrade = this.head.upgrade !== undefined && asked !== false;
    this.#bodyless = bodyless && !isUpgrade;
    this.#requestEnded = this.#bodyless;
    this.#readTrace();
    const barred = this.#permission.barred();
    if (barred !== undefined) {
      this.#refuse(barred.reason, barred.detail);
      return;
    }
    if (typeof asked !== "boolean") {
      this.#refuse(asked.reason, asked.detail);
      return;
    }
    if (asked) this.#handshake = hostHandshake(randomBytes(16));
    const choice = chain === undefined ? chooseChain(facts, this.#services) : undefined;
    if (choice?.kind === "refused") this.#refuse(choice.reason, choice.detail);
    else if (choice?.kind === "waiting") {
      void afterWaiting(this.#services).then((own) => {
        if (!this.#over) this.#classify(own);
      });
    } else this.#classify(choice === undefined ? chain : choice.chain);
  }

  /** @param chain hops and person that the call goes on for. */
  #classify(chain: CallChain | undefined): void {
    this.#facts.chain = chain;
    const isWebSocket = this.#handshake !== undefined;
    const wanted = this.#permission.classify({ bodyless: this.#bodyless, isWebSocket });
    if (typeof wanted !== "string") this.#refuse(wanted.reason, wanted.detail);
    else if (wanted === "nothing") this.#decide();
    else if (isWebSocket || wanted === "messages" || this.#keptBytes > MAX_RESOURCE_BODY_BYTES)
      this.#readBody(true);
    else if (this.#requestEnded) this.#readBody(false);
    else {
      this.#isDeciding = true;
      // What came while the token was asked for.
      this.#returnCredit();
    }
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

  #readBody(truncated: boolean): void {
    this.#isDeciding = false;
    const refusal = this.#permission.readBody(truncated ? undefined : Buffer.concat(this.#kept));
    if (refusal === undefined) this.#decide();
    else this.#refuse(refusal.reason, refusal.detail);
  }

  #decide(): void {
    const refusal = this.#permission.decide();
    if (refusal === undefined) this.#send();
    else this.#refuse(refusal.reason, refusal.detail);
  }

  /** Ends a call under way that lost what allowed it. Asked with all that passes, and when nothing does. */
  #endsLost(): boolean {
    const lost = this.#permission.decideAgain();
    if (lost === undefined) return false;
    const { reason, detail } = lost;
    if (!this.#answerHead) {
      this.#refuse(reason, detail);
      return true;
    }
    this.#facts.reason = reason;
    this.#facts.error = detail;
    const { answers } = this.#app;
    this.#facts.decisionId = this.#services.trail.decisionId();
    const words = externalLastWords({
      reason,
      decisionId: this.#facts.decisionId,
      frames: this.#frames,
      isEventStream: this.#isEventStream,
    });
    this.#answerEnded = words !== undefined;
    if (words === undefined) answers.resetStream(this.#stream, CANCEL);
    else answers.sendData(this.#stream, words, true);
    this.#finish();
    return true;
  }

  #send(): void {
    const { externalPools } = this.#services;
    // That of a WebSocket is not used again, and must not turn out to be one that the host has closed.
    const isFresh = this.#retried || this.#handshake !== undefined;
    const connection = externalPools.of(this.#host, this.#permission.external.port).take(this, isFresh);
    if (connection === undefined) this.#refuse("OVERLOADED", "too many connections to this host");
    else if (!this.#over) this.#connection = connection;
  }

  // --- from the host ---------------------------------------------------------------------------------------------

  onExternalReady(connection: ExternalConnection): void {
    if (this.#over) return;
    this.#connection = connection;
    this.#sentAtMs = this.#services.clock.monotonicMs();
    this.#touch();
    this.#writeHeadTo(connection);
    // What the application sends before the host agrees to a WebSocket waits for that.
    if (this.#handshake === undefined) this.#sendKept(connection);
  }

  #sendKept(connection: ExternalConnection): void {
    this.#isWritten = true;
    for (const chunk of this.#kept) this.#writeBody(chunk);
    // Needed no more, unless the host may have closed this connection before it read any of it.
    if (!connection.isReused) this.#kept = [];
    if (this.#requestEnded) this.#writeEnd();
    if (!connection.socket.congested) this.#returnCredit();
  }

  #writeHeadTo(connection: ExternalConnection): void {
    const { port } = this.#permission.external;
    const host = this.#host;
    const { text, isChunked } = http1Request({
      head: this.head,
      authority: port === 443 ? host : `${host}:${port}`,
      handshake: this.#handshake,
      bodyless: this.#bodyless,
      traceparent: this.#facts.traceparent ?? "",
    });
    this.#isChunked = isChunked;
    connection.socket.write(text);
  }

  onExternalInformational(head: ResponseHead): void {
    if (this.#over || this.#answerHead) return;
    this.#touch();
    this.#writeHead(head, false, head.status);
  }

  onExternalHead(head: ResponseHead): void {
    if (this.#over) return;
    this.#touch();
    this.#kept = [];
    this.#answerHead = true;
    this.#facts.upstreamMs = this.#services.clock.monotonicMs() - this.#sentAtMs;
    // Over HTTP/2 a 2xx would say that the WebSocket is agreed to (RFC 8441 section 5).
    const agreesNot = this.#handshake !== undefined && this.#app.isHttp2 && head.status < 300;
    const status = agreesNot ? 502 : head.status;
    this.#facts.status = status;
    if (this.#handshake !== undefined) {
      // An answer like any other (RFC 9110 section 7.8): the head was the whole request.
      this.#upgradeRefused = !this.#requestEnded;
      this.#requestEnded = true;
      this.#returnCredit();
    }
    const type = joinedField(head.fields, "content-type")?.toLowerCase() ?? "";
    this.#isEventStream =
      type.startsWith("text/event-stream") &&
      !head.fields.some(({ name }) => name === "content-length" || name === "content-encoding");
    this.#writeHead(head, true, status);
  }

  onExternalSwitched(head: ResponseHead): void {
    const connection = this.#connection;
    if (this.#over || connection === undefined || this.#endsLost()) return;
    this.#answerHead = true;
    this.#frames = new FrameBoundary();
    this.#facts.upstreamMs = this.#services.clock.monotonicMs() - this.#sentAtMs;
    this.#facts.status = 101;
    // How long it is quiet is its own affair.
    this.#silentUntilMs = Number.POSITIVE_INFINITY;
    this.#app.switchTo(this.#stream, WEBSOCKET, agreedFields(head));
    this.#sendKept(connection);
  }

  #writeHead(
    { fields, connectionNames }: Pick<ResponseHead, "fields" | "connectionNames">,
    isFinal: boolean,
    status: number,
  ): void {
    const { answers } = this.#app;
    answers.beginHeaders(this.#stream);
    answers.putStatus(status);
    for (const field of fields) {
      const isLength = isFinal && field.name === "content-length";
      if (!isLength && ((field.flags & STRIPPED) !== 0 || connectionNames.includes(field.name))) continue;
      answers.putField(field);
    }
    answers.endHeaders(false);
  }

  onExternalBody(chunk: Buffer): void {
    if (this.#over || this.#endsLost()) return;
    this.#touch();
    this.#frames?.push(chunk);
    this.#facts.responseBytes += chunk.length;
    // A view of what was received: writers of this process copy or send it before they return.
    if (!this.#app.answers.sendData(this.#stream, Buffer.from(chunk), false)) this.#connection?.pause();
  }

  onExternalEnd(trailers: readonly Field[]): void {
    if (this.#over) return;
    this.#answerEnded = true;
    if (trailers.length > 0) writeTrailers(this.#app.answers, this.#stream, trailers);
    else this.#app.answers.sendData(this.#stream, EMPTY, true);
    this.#finish();
  }

  onExternalDrain(): void {
    if (this.#isWritten) this.#returnCredit();
  }

  onExternalFailed(kind: "connect" | "closed" | "protocol", detail: string, untouched: boolean): void {
    if (this.#over) return;
    this.#connection = undefined;
    this.#facts.error = detail;
    if (this.#answerHead) {
      this.#facts.reason = "UPSTREAM_FAILED";
      this.#app.answers.resetStream(this.#stream, INTERNAL_ERROR);
      this.#finish();
    } else if (
      untouched &&
      kind === "closed" &&
      !this.#retried &&
      this.#keptBytes <= MAX_RESOURCE_BODY_BYTES
    ) {
      this.#retried = true;
      this.#isWritten = false;
      this.#send();
    } else this.#refuse("UPSTREAM_FAILED", detail);
  }

  // --- from the application --------------------------------------------------------------------------------------

  onRequestBody(chunk: Buffer, endStream: boolean): void {
    this.#facts.requestBytes += chunk.length;
    this.#owed += chunk.length;
    if (endStream) this.#requestEnded = true;
    if (this.#over || this.#upgradeRefused) {
      this.#returnCredit();
      return;
    }
    const connection = this.#connection;
    const isHeld = connection === undefined || !this.#isWritten;
    if (isHeld || (connection.isReused && !this.#answerHead)) {
      this.#keptBytes += chunk.length;
      if (isHeld || this.#keptBytes <= MAX_RESOURCE_BODY_BYTES) this.#kept.push(Buffer.from(chunk));
    }
    if (this.#isDeciding) {
      if (this.#keptBytes > MAX_RESOURCE_BODY_BYTES) this.#readBody(true);
      else if (endStream) this.#readBody(false);
      // A body that is read for the decision may be as long as the window, and a little longer.
      else this.#returnCredit();
      return;
    }
    if (isHeld || this.#endsLost()) return;
    this.#touch();
    this.#writeBody(chunk);
    if (endStream) this.#writeEnd();
    if (!connection.socket.congested) this.#returnCredit();
  }

  onRequestTrailers(trailers: readonly Field[]): void {
    this.#requestEnded = true;
    this.#trailers = trailers;
    if (this.#over || this.#upgradeRefused) return;
    if (this.#isDeciding) this.#readBody(false);
    else if (this.#isWritten) this.#writeEnd();
  }

  #writeBody(chunk: Buffer): void {
    const socket = this.#connection?.socket;
    if (socket === undefined || chunk.length === 0) return;
    if (this.#isChunked) socket.write(chunkHeader(chunk.length));
    socket.write(Buffer.from(chunk));
    if (this.#isChunked) socket.write(CHUNK_END);
  }

  #writeEnd(): void {
    if (this.#frames !== undefined) this.#connection?.socket.end();
    else if (this.#isChunked) this.#connection?.socket.write(lastChunk(this.#trailers));
    this.#requestSent = true;
  }

  onAppDrain(): void {
    this.#connection?.resume();
  }

  onRequestMalformed(detail: string): boolean {
    if (this.#over || this.#answerHead) {
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
    if (this.#permission.isOutdated) {
      this.#endsLost();
      return;
    }
    if (!this.#answerHead) {
      this.#refuse("UPSTREAM_TIMEOUT", "the host did not answer in time");
      return;
    }
    this.#facts.reason = "UPSTREAM_TIMEOUT";
    this.#facts.error = "the answer stopped";
    this.#app.answers.resetStream(this.#stream, INTERNAL_ERROR);
    this.#finish();
  }

  #touch(): void {
    if (this.#frames === undefined)
      this.#silentUntilMs = this.#services.clock.monotonicMs() + this.#services.timeouts.responseMs;
  }

  #returnCredit(): void {
    if (this.#owed === 0) return;
    const bytes = this.#owed;
    this.#owed = 0;
    this.#app.answers.consumed(this.#stream, bytes);
  }

  #refuse(reason: Reason, detail: string): void {
    if (this.#over) return;
    this.#facts.error = detail;
    this.#facts.reason = reason;
    this.#answerHead = true;
    if (!this.#requestEnded) this.#app.closeAfterAnswer();
    writeProblem(this.#app, this.#stream, this.#facts, this.#services);
    if (!this.#requestEnded) this.#app.answers.resetStream(this.#stream, NO_ERROR);
    this.#finish();
  }

  #finish(): void {
    if (this.#over) return;
    this.#over = true;
    this.#kept = [];
    const connection = this.#connection;
    this.#connection = undefined;
    // The host answered before the whole request was sent.
    if (!this.#requestEnded && this.#facts.reason === "ALLOWED") this.#app.closeAfterAnswer();
    // Of an upgrade never kept: whoever stands before the host may take it for switched, whatever was answered.
    connection?.release(this.#handshake === undefined && (this.#bodyless || this.#requestSent));
    this.#returnCredit();
    // Nothing of what would still come is wanted (RFC 9113 section 8.1).
    if (this.#answerEnded && this.#app.isHttp2 && (this.#upgradeRefused || !this.#requestEnded))
      this.#app.answers.resetStream(this.#stream, NO_ERROR);
    this.#stream.context = undefined;
    recordExternal(
      {
        facts: this.#facts,
        external: this.#permission.external,
        call: this.#permission.call,
        decision: this.#permission.decision,
      },
      this.#services,
    );
    this.#app.finished(this, this.#requestEnded);
  }
}
