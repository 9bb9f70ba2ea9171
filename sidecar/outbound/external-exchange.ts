// One request of the application (or of a client at a gateway) to a host outside the mesh: decided on and recorded here,
// carried over TLS with the host's own certificate, without any token of the mesh. One object per request; a WebSocket is a
// request that is answered 101 and is bytes both ways from then on.
import { randomBytes } from "node:crypto";
import { joinedField } from "../core/http/headers.ts";
import { closeFrame, FrameBoundary, WEBSOCKET, WEBSOCKET_HOP_FIELDS } from "../core/http/websocket.ts";
import { checkChain, scopeEntries } from "../core/identity/chain.ts";
import type { ViaHop } from "../core/identity/claims.ts";
import type { IssuedTo, Revocations } from "../core/identity/revocations.ts";
import type { Call } from "../core/policy/call.ts";
import { hopOf, scopeOfTxn, userOfTxn } from "../core/policy/call-subjects.ts";
import type { Classified } from "../core/policy/classified.ts";
import { type Decision, decide, needsResource } from "../core/policy/decide.ts";
import { MAX_RESOURCE_BODY_BYTES } from "../core/policy/operations.ts";
import type { Reason } from "../core/policy/reason.ts";
import { intersectScopes } from "../core/policy/scope.ts";
import type { SidecarTable } from "../discovery/table.ts";
import type { CallChain } from "../telemetry/correlation.ts";
import { createTraceparent, isTraceparent } from "../telemetry/trace.ts";
import { type Field, FieldFlag } from "../wire/field.ts";
import type { ResponseHead } from "../wire/http1/parser.ts";
import { CHUNK_END, CHUNKED_LINE, chunkHeader, lastChunk, requestLine } from "../wire/http1/serializer.ts";
import type { AppExchange, AppSide, AppStream, OutboundHead } from "./app-side.ts";
import { CallFacts } from "./call-facts.ts";
import { afterWaiting, chooseChain } from "./choose-chain.ts";
import { type ExternalDestination, unmetDemand } from "./external.ts";
import type { ExternalConnection, ExternalUser } from "./external-connection.ts";
import { recordExternal } from "./external-record.ts";
import { agreedFields, askedOf, type HostHandshake, hostHandshake } from "./external-upgrade.ts";
import { writeTrailers } from "./forwarded-answers.ts";
import { STRIPPED } from "./mesh-request.ts";
import { labelOf } from "./operation-label.ts";
import { writeProblem } from "./problem-answer.ts";
import type { FixedDestination } from "./resolve.ts";
import type { OutboundServices } from "./services.ts";

const NO_ERROR = 0x0;
const INTERNAL_ERROR = 0x2;
const CANCEL = 0x8;
/** RFC 6455 section 7.4.1. */
const POLICY_VIOLATION = 1008;
const EMPTY = Buffer.alloc(0);
/** Why a call must not go on. */
interface Lost {
  readonly reason: Reason;
  readonly detail: string;
}

export class ExternalExchange implements AppExchange, ExternalUser {
  readonly head: OutboundHead;
  appSlot = -1;
  slot = -1;
  readonly #services: OutboundServices;
  /** As the table tells of it that it was decided by, last: another would keep an old one. */
  #external: ExternalDestination;
  readonly #app: AppSide;
  readonly #stream: AppStream;
  readonly #facts: CallFacts;
  #classified: Classified | undefined;
  #call: Call | undefined;
  #decision: Decision | undefined;
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
  /** The own certificate that was decided by. */
  #issuedTo: IssuedTo | undefined;
  /** Table that it was decided by, last. */
  #decidedBy: SidecarTable | undefined;
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
    this.#external = external;
    this.#app = app;
    this.#stream = stream;
    this.head = head;
    this.#facts = new CallFacts(head, services.clock.monotonicMs(), services.meshNowMs());
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
    return this.#isToBeAskedAgain ? 0 : this.#silentUntilMs;
  }

  get #isToBeAskedAgain(): boolean {
    const table = this.#services.state.directory?.table;
    return this.#decidedBy !== undefined && table !== undefined && table !== this.#decidedBy;
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
    const { state } = this.#services;
    if (state.identity === undefined || state.identityUntilMs === 0) {
      this.#refuse("NOT_READY", "no policy or identity yet");
      return;
    }
    if (facts.nowMs >= state.identityUntilMs) {
      this.#refuse("IDENTITY_EXPIRED", "the own certificate has expired");
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
    const facts = this.#facts;
    facts.chain = chain;
    const classified = this.#external.classifier.classify({
      method: this.head.method,
      websocket: this.#handshake !== undefined,
      target: this.head.target,
      contentType: joinedField(this.head.fields, "content-type"),
      hasBody: !this.#bodyless && this.#handshake === undefined,
      header: this.#app.lookup(this.head.fields),
      corsMethod:
        this.head.method === "OPTIONS" && facts.header("origin") !== undefined
          ? joinedField(this.head.fields, "access-control-request-method")
          : undefined,
    });
    if (!classified.ok) {
      this.#refuse("REQ_MALFORMED", classified.error);
      return;
    }
    this.#know(classified.value);
    const { pending, operation } = classified.value;
    const wantsBody =
      pending !== undefined && (pending.kind === "mcp" || needsResource(this.#external.program, operation));
    if (!wantsBody) this.#decide();
    else if (this.#handshake !== undefined) this.#readBody(true);
    else if (pending.kind === "protobuf" || this.#keptBytes > MAX_RESOURCE_BODY_BYTES) this.#readBody(true);
    else if (this.#requestEnded) this.#readBody(false);
    else {
      this.#isDeciding = true;
      // What came while the token was asked for.
      this.#returnCredit();
    }
  }

  #know(classified: Classified): void {
    this.#classified = classified;
    this.#facts.classified = classified;
    this.#facts.operation = labelOf(classified);
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
    const classified = this.#classified;
    if (classified === undefined) return;
    this.#isDeciding = false;
    const body = truncated ? EMPTY : Buffer.concat(this.#kept);
    const read = this.#external.classifier.withBody(classified, body, {
      contentType: joinedField(this.head.fields, "content-type"),
      contentEncoding: joinedField(this.head.fields, "content-encoding"),
      truncated,
      header: this.#app.lookup(this.head.fields),
    });
    if (!read.ok) {
      this.#refuse("REQ_MALFORMED", read.error);
      return;
    }
    this.#know(read.value);
    this.#decide();
  }

  /** As the callee's sidecar would, with ourselves as the caller (DOMAIN 2.5 V5 to V9). */
  #decide(): void {
    const { state } = this.#services;
    const { identity, externals, directory } = state;
    const classified = this.#classified;
    if (
      identity === undefined ||
      externals === undefined ||
      directory === undefined ||
      classified === undefined
    ) {
      this.#refuse("NOT_READY", "no policy or identity yet");
      return;
    }
    const { caller, issuedTo } = externals.self(identity);
    const { nowMs } = this.#facts;
    const { chain } = this.#facts;
    const txn = chain?.txn;
    // The hops come from a verified proof, whose IDs were parsed (claims.ts).
    const via = (chain?.via ?? []) as readonly ViaHop[];
    const caveat = chain?.caveat;
    this.#issuedTo = issuedTo;
    this.#decidedBy = directory.table;
    const revoked = this.#revokedBy(directory.table.revocations);
    if (revoked !== undefined) {
      this.#refuse("REVOKED", revoked);
      return;
    }
    if (txn !== undefined && nowMs >= txn.claims.exp * 1_000) {
      this.#refuse("AUTHN_TXN_EXPIRED", "the transaction token has expired");
      return;
    }
    const hops = checkChain(via, caller.spiffeId, via.length + 1, this.#external.external.program.maxHops);
    if (!hops.ok) {
      this.#refuse(hops.error, "the call chain is too deep or loops");
      return;
    }
    if (caveat?.exp !== undefined && nowMs >= caveat.exp * 1_000) {
      this.#refuse("SCOPE_EXCEEDED", "the caveat of the proof has expired");
      return;
    }
    const limits = caveat?.scope === undefined ? undefined : scopeEntries(caveat.scope);
    const call: Call = {
      caller,
      user: txn === undefined ? undefined : userOfTxn(txn),
      via: via.map((hop) => hopOf(hop.s, hop.o)),
      port: this.#external.port,
      request: { ...classified.request, host: this.#external.hostOf(this.head.authority) },
      operation: classified.operation,
      resource: classified.resource,
      folded: classified.folded,
      sourceIp: txn?.claims.rctx.reqIp,
      scope: intersectScopes(limits, scopeOfTxn(txn)),
      nowMs,
    };
    this.#call = call;
    const decision = decide(this.#external.program, call);
    this.#decision = decision;
    if (decision.would !== undefined) {
      const { dryRun } = this.#services.metrics;
      const { policy, rule, allowed } = decision.would;
      dryRun.add(dryRun.series(policy ?? "", rule ?? "", allowed ? "Allow" : "Deny"));
    }
    if (!decision.allowed) {
      this.#refuse(decision.reason, "policy does not allow this call to a host outside the mesh");
      return;
    }
    const unmet = unmetDemand(decision);
    if (unmet === undefined && decision.audit?.mode !== "Required") this.#send();
    else
      this.#refuse(
        "UNSUPPORTED",
        `\`${unmet ?? "audit: Required"}\` cannot be met for hosts outside the mesh`,
      );
  }

  /** What of this call's ground is revoked, in words. */
  #revokedBy(revocations: Revocations): string | undefined {
    const issuedTo = this.#issuedTo;
    if (issuedTo === undefined || revocations.covers(issuedTo))
      return "what this workload was issued is revoked";
    const txn = this.#facts.chain?.txn;
    return txn !== undefined && revocations.coversTxn(txn.claims)
      ? "the user or the session is revoked"
      : undefined;
  }

  /** Why a call under way is not allowed any more by the table in force. Of its body nothing is there to be read again. */
  #lostBy(table: SidecarTable): Lost | undefined {
    const revoked = this.#revokedBy(table.revocations);
    if (revoked !== undefined) return { reason: "REVOKED", detail: revoked };
    const { id } = this.#external.external;
    const external = this.#services.state.externals?.ofId(id);
    if (external === undefined || this.#call === undefined)
      return { reason: "UNKNOWN_DESTINATION", detail: "the host is none of the mesh's any more" };
    const isSame = external.external.program === this.#external.external.program;
    this.#external = external;
    if (isSame) return undefined;
    const decision = decide(external.program, { ...this.#call, nowMs: this.#services.meshNowMs() });
    if (decision.allowed) return undefined;
    this.#decision = decision;
    return { reason: decision.reason, detail: "policy does not allow this call any more" };
  }

  /** Ends a call under way that lost what allowed it. Asked with all that passes, and when nothing does. */
  #endsLost(): boolean {
    const table = this.#services.state.directory?.table;
    if (table === undefined || !this.#isToBeAskedAgain) return false;
    this.#decidedBy = table;
    const lost = this.#lostBy(table);
    if (lost === undefined) return false;
    const { reason, detail } = lost;
    if (!this.#answerHead) {
      this.#refuse(reason, detail);
      return true;
    }
    this.#facts.reason = reason;
    this.#facts.error = detail;
    const { answers } = this.#app;
    const words = this.#lastWords(reason);
    this.#answerEnded = words !== undefined;
    if (words === undefined) answers.resetStream(this.#stream, CANCEL);
    else answers.sendData(this.#stream, words, true);
    this.#finish();
    return true;
  }

  /** What says in the middle of an answer why it ends; undefined: nothing can be said there. */
  #lastWords(reason: Reason): Buffer | undefined {
    const { trail } = this.#services;
    if (this.#frames === undefined)
      // The empty line ends an event that may be under way.
      return this.#isEventStream
        ? Buffer.from(`\n\nevent: error\ndata: ${JSON.stringify({ reason })}\n\n`)
        : undefined;
    if (!this.#frames.between) return undefined;
    this.#facts.decisionId = trail.decisionId();
    return closeFrame(POLICY_VIOLATION, `${reason} ${this.#facts.decisionId}`);
  }

  #send(): void {
    const { externalPools } = this.#services;
    const host = this.#external.hostOf(this.head.authority);
    // That of a WebSocket is not used again, and must not turn out to be one that the host has closed.
    const isFresh = this.#retried || this.#handshake !== undefined;
    const connection = externalPools.of(host, this.#external.port).take(this, isFresh);
    if (connection === undefined) this.#refuse("OVERLOADED", "too many connections to this host");
    else if (!this.#over) this.#connection = connection;
  }

  // --- from the host ---------------------------------------------------------------------------------------------

  onExternalReady(connection: ExternalConnection): void {
    if (this.#over) return;
    this.#connection = connection;
    this.#sentAtMs = this.#services.clock.monotonicMs();
    this.#touch();
    connection.socket.write(this.#requestText());
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

  #requestText(): string {
    const { method, target, fields, connectionNames } = this.head;
    const { port } = this.#external;
    const host = this.#external.hostOf(this.head.authority);
    let text = `${requestLine(method, target)}host: ${port === 443 ? host : `${host}:${port}`}\r\n`;
    let hasLength = false;
    const handshake = this.#handshake;
    for (const field of fields) {
      if (
        handshake !== undefined &&
        (field.name === "content-length" || WEBSOCKET_HOP_FIELDS.has(field.name))
      )
        continue;
      if (field.name === "content-length") {
        hasLength = true;
        text += field.line;
      }
      if ((field.flags & (STRIPPED | FieldFlag.methodOverride)) !== 0) continue;
      if (connectionNames.includes(field.name) || TRACE_FIELDS.has(field.name)) continue;
      text += field.line;
    }
    if (handshake !== undefined) text += handshake.lines;
    else if (!this.#bodyless && !hasLength) {
      this.#isChunked = true;
      text += CHUNKED_LINE;
    }
    return `${text}traceparent: ${this.#facts.traceparent ?? ""}\r\n\r\n`;
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
    if (this.#isToBeAskedAgain) {
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
        external: this.#external,
        call: this.#call,
        decision: this.#decision,
      },
      this.#services,
    );
    this.#app.finished(this, this.#requestEnded);
  }
}

const TRACE_FIELDS: ReadonlySet<string> = new Set(["traceparent"]);
