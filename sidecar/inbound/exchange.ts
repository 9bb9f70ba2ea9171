// One request to our workload, from another one or (where plaintext is let in) from anybody: checked, identified, classified, decided, forwarded, recorded. One
// object per stream; every way out ends in `#finish`, once.
import { joinedField } from "../core/http/headers.ts";
import { checkChain, checkOperation } from "../core/identity/chain.ts";
import type { VerifiedCaller } from "../core/identity/proofs.ts";
import type { Call } from "../core/policy/call.ts";
import type { Classified } from "../core/policy/classified.ts";
import { type CompiledProgram, type Decision, decide, needsResource } from "../core/policy/decide.ts";
import { jsonRpcCodeOf, jsonRpcIdOf } from "../core/policy/mcp.ts";
import type { Reason } from "../core/policy/reason.ts";
import type { Result } from "../core/runtime/errors.ts";
import { traceIdOf } from "../telemetry/trace.ts";
import { type Field, FieldFlag } from "../wire/field.ts";
import type { ResponseHead } from "../wire/http1/parser.ts";
import { CHUNK_END, CHUNKED_LINE, chunkHeader, lastChunk, requestLine } from "../wire/http1/serializer.ts";
import { HIGH_WATER_BYTES } from "../wire/socket.ts";
import {
  type EnforcedPort,
  type Enforcement,
  operationLabel,
  proofOperation,
  refusalDecision,
} from "./authorize.ts";
import { CallFacts } from "./call-facts.ts";
import type { CallerSide, CallerStream } from "./caller-side.ts";
import type { AppConnection, AppExchange, AppFailure } from "./forward.ts";
import { changeHeaders } from "./header-changes.ts";
import { type LimitedVerdict, writeProblem } from "./problem-answer.ts";
import { RequestHead, STRIPPED } from "./request-head.ts";
import type { InboundServices } from "./services.ts";
import { IdentifiedCaller } from "./verify.ts";

const NO_ERROR = 0x0;
const INTERNAL_ERROR = 0x2;
const MCP_DENIED = -32001;
const CANCEL = 0x8;
const MAX_BUFFERED_BODY = 65_536;
/** How long the body may take that a decision needs, milliseconds from the head on. */
const BODY_WITHIN_MS = 30_000;
const IDEMPOTENT = new Set(["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"]);
const EMPTY = Buffer.alloc(0);
const STRIPPED_RESPONSE = FieldFlag.hopByHop | FieldFlag.framing | FieldFlag.identity | FieldFlag.pseudo;

export class InboundExchange implements AppExchange {
  readonly #services: InboundServices;
  readonly #peer: CallerSide;
  readonly #stream: CallerStream;
  /** Place in the connection's list. */
  slot = -1;
  readonly #head: RequestHead;
  readonly #facts: CallFacts;
  #bodyless = false;
  // What was found out.
  #port: EnforcedPort | undefined;
  /** What decides on calls of this peer. */
  #program: CompiledProgram | undefined;
  #isMcp = false;
  /** The message of an MCP request, until the application answers: a denial repeats its id. */
  #rpcBody: Buffer | undefined;
  #rpcCode = MCP_DENIED;
  #traceId: string | undefined;
  // Progress.
  #body: Buffer[] | undefined;
  #bodyBytes = 0;
  #trailers: readonly Field[] | undefined;
  #held = 0;
  #requestEnded = false;
  #requestSent = false;
  #app: AppConnection | undefined;
  #retried = false;
  #waiting = false;
  #upstreamAtMs = -1;
  #answerHead = false;
  #answerEnded = false;
  #responseLength = -1;
  #over = false;

  constructor(services: InboundServices, peer: CallerSide, stream: CallerStream, fields: readonly Field[]) {
    this.#services = services;
    this.#head = new RequestHead(fields, services.ids);
    this.#facts = new CallFacts(this.#head, services.clock.monotonicMs(), services.meshNowMs());
    this.#peer = peer;
    this.#stream = stream;
  }

  get method(): string {
    return this.#head.method;
  }

  /**
   * Takes the request's head through every check up to forwarding, or answers it.
   *
   * @param unsupported what this build does not carry of it; empty: nothing.
   */
  start(endStream: boolean, unsupported = ""): void {
    const head = this.#head;
    this.#bodyless = endStream;
    this.#requestEnded = endStream;
    const { enforcement, identityUntilMs, bundleEpoch } = this.#services.state;
    this.#facts.enforcement = enforcement;
    if (enforcement === undefined) {
      this.#refuse("NOT_READY", "no policy yet");
      return;
    }
    if (this.#facts.nowMs >= identityUntilMs) {
      this.#refuse("IDENTITY_EXPIRED", "the own certificate has expired");
      return;
    }
    if (head.malformed !== "") {
      this.#refuse("REQ_MALFORMED", head.malformed);
      return;
    }
    const program = this.#peer.programOf(enforcement);
    if (program === undefined) {
      this.#refuseIdentity("AUTHN_MTLS_REQUIRED", "plaintext is refused here");
      return;
    }
    this.#program = program;
    if (head.method === "CONNECT" || unsupported !== "") {
      this.#refuse("UNSUPPORTED", unsupported === "" ? "CONNECT is not carried yet" : unsupported);
      return;
    }
    // V1 to V4.
    const identified =
      head.twice === ""
        ? this.#peer.identify(head, bundleEpoch, this.#facts.nowMs)
        : { reason: "AUTHN_PROOF_INVALID" as const, detail: `\`${head.twice}\` came twice` };
    if (!(identified instanceof IdentifiedCaller)) {
      this.#refuseIdentity(identified.reason, identified.detail);
      return;
    }
    this.#facts.identified = identified;
    if (identified.verified?.kind === "mtls" && enforcement.table.settings.proofs === "Required") {
      this.#refuseIdentity("AUTHN_PROOF_INVALID", "this mesh requires proof tokens");
      return;
    }
    const portText = this.#peer.port === undefined ? head.portText : String(this.#peer.port);
    const port =
      portText === undefined
        ? enforcement.onlyPort
        : /^[1-9][0-9]{0,4}$/.test(portText)
          ? enforcement.ports.get(Number(portText))
          : undefined;
    if (port === undefined) {
      this.#refuse(
        "REQ_MALFORMED",
        portText === undefined
          ? "`countersign-port` is missing and more than one port is declared"
          : `port \`${portText.slice(0, 8)}\` is not declared by this workload`,
      );
      return;
    }
    this.#port = port;
    if (port.protocol !== "http") {
      this.#refuse("UNSUPPORTED", `protocol \`${port.protocol}\` is not carried yet`);
      return;
    }
    this.#classify(enforcement, port, identified);
  }

  #classify(enforcement: Enforcement, port: EnforcedPort, identified: IdentifiedCaller): void {
    const classified = this.#classification(port);
    if (!classified.ok) {
      this.#refuse("REQ_MALFORMED", classified.error);
      return;
    }
    this.#facts.classified = classified.value;
    this.#isMcp = classified.value.pending?.kind === "mcp";
    const { verified } = identified;
    if (verified !== undefined && !this.#checkProof(enforcement, port, verified, classified.value)) return;
    const { pending, operation } = classified.value;
    const wantsBody =
      pending !== undefined &&
      (pending.kind === "mcp" || (this.#program !== undefined && needsResource(this.#program, operation)));
    if (!wantsBody) {
      this.#decide();
      return;
    }
    if (this.#requestEnded) {
      this.#withBody(false);
      return;
    }
    this.#body = [];
    // The client waits for this before it sends what the decision needs.
    if (this.#head.header("expect")?.toLowerCase() === "100-continue") this.#sendContinue();
  }

  /** V6 and V8; false: the call is refused. */
  #checkProof(
    enforcement: Enforcement,
    port: EnforcedPort,
    { hop, via, peer }: VerifiedCaller,
    classified: Classified,
  ): boolean {
    if (hop !== undefined) {
      const outcome = checkOperation(hop, proofOperation(classified), port.packsDigest);
      if (outcome === "skew") this.#services.metrics.proofSkew.add(this.#services.metrics.skew);
      else if (outcome !== "match") {
        this.#refuseIdentity(outcome, "the proof names another operation");
        return false;
      }
    }
    const chain = checkChain(via, peer.spiffeId, hop?.n ?? 1, enforcement.table.program.maxHops);
    if (!chain.ok) {
      this.#refuse(chain.error, "the call chain is too deep or loops");
      return false;
    }
    const until = hop?.cav?.exp;
    if (until !== undefined && this.#facts.nowMs >= until * 1_000) {
      this.#refuse("SCOPE_EXCEEDED", "the caveat of the proof has expired");
      return false;
    }
    return true;
  }

  #classification(port: EnforcedPort): Result<Classified, string> {
    return port.classifier.classify({
      method: this.#head.method,
      target: this.#head.target,
      contentType: joinedField(this.#head.fields, "content-type"),
      hasBody: !this.#bodyless,
      header: this.#peer.lookup(this.#head.fields),
      corsMethod:
        this.#head.method === "OPTIONS" && this.#head.header("origin") !== undefined
          ? joinedField(this.#head.fields, "access-control-request-method")
          : undefined,
    });
  }

  /** A table that came while the body was awaited decides: a caller must not hold on to a withdrawn permission. */
  #catchUp(): Result<void, string> {
    const { enforcement } = this.#services.state;
    if (enforcement === undefined || enforcement === this.#facts.enforcement)
      return { ok: true, value: undefined };
    const program = this.#peer.programOf(enforcement);
    if (program === undefined) return { ok: false, error: "plaintext is refused here from now on" };
    this.#program = program;
    const port = enforcement.ports.get(this.#port?.port ?? 0);
    if (port?.protocol !== "http")
      return { ok: false, error: "the port is not declared by this workload any more" };
    const classified = this.#classification(port);
    if (!classified.ok) return classified;
    this.#facts.enforcement = enforcement;
    this.#port = port;
    this.#facts.classified = classified.value;
    this.#isMcp = classified.value.pending?.kind === "mcp";
    return { ok: true, value: undefined };
  }

  /** Ends waiting for a body that the decision needs: until then a request costs memory and nobody has allowed it. */
  sweep(nowMs: number): void {
    if (this.#over || this.#body === undefined || this.#facts.decision !== undefined) return;
    if (nowMs - this.#facts.startedMs >= BODY_WITHIN_MS)
      this.#refuse("REQ_MALFORMED", "the body that the decision needs did not come in time");
  }

  #withBody(truncated: boolean): void {
    const current = this.#catchUp();
    if (!current.ok) {
      this.#refuse("REQ_MALFORMED", current.error);
      return;
    }
    const { classifier } = this.#port ?? {};
    const before = this.#facts.classified;
    if (classifier === undefined || before === undefined) return;
    const body = Buffer.concat(this.#body ?? []);
    if (this.#isMcp && !truncated) this.#rpcBody = body;
    const classified = classifier.withBody(before, body, {
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
    this.#facts.classified = classified.value;
    this.#decide();
  }

  #decide(): void {
    const enforcement = this.#facts.enforcement;
    const identified = this.#facts.identified;
    const classified = this.#facts.classified;
    const port = this.#port;
    const program = this.#program;
    if (
      enforcement === undefined ||
      identified === undefined ||
      classified === undefined ||
      port === undefined ||
      program === undefined
    )
      return;
    const call: Call = {
      caller: identified.caller,
      user: undefined,
      via: identified.via,
      port: port.port,
      request: { ...classified.request, host: this.#head.authority },
      operation: classified.operation,
      resource: classified.resource,
      folded: classified.folded,
      sourceIp: this.#peer.remoteAddress,
      scope: identified.scope,
      nowMs: this.#facts.nowMs,
    };
    this.#facts.call = call;
    const decision = decide(program, call);
    this.#facts.decision = decision;
    if (decision.would !== undefined) this.#countDryRun(decision.would);
    if (!decision.allowed) {
      this.#deny(decision, undefined);
      return;
    }
    if (decision.winners.length > 0) {
      this.#head.lines = changeHeaders(this.#head.lines, decision.winners);
      const admitted = this.#services.limiter.admit(program, decision, call, this.#facts.nowMs);
      if (!admitted.allowed) {
        const { metrics } = this.#services;
        metrics.limited.add(
          metrics.limited.series(admitted.policy, admitted.rule, admitted.limit.key.join("+")),
        );
        this.#deny(refusalDecision("RATE_LIMITED", admitted.policy, admitted.rule), admitted);
        return;
      }
    }
    if (decision.audit?.mode === "Required" && !this.#services.trail.hasRoom) {
      this.#deny(refusalDecision("AUDIT_UNAVAILABLE", decision.policy, decision.rule), undefined);
      return;
    }
    this.#forward(port, identified, classified);
  }

  #countDryRun(would: NonNullable<Decision["would"]>): void {
    const { dryRun } = this.#services.metrics;
    dryRun.add(dryRun.series(would.policy ?? "", would.rule ?? "", would.allowed ? "Allow" : "Deny"));
  }

  #forward(port: EnforcedPort, identified: IdentifiedCaller, classified: Classified): void {
    const { correlation, metrics, state } = this.#services;
    if (correlation !== undefined && state.carriesTrace && this.#head.traceparent !== undefined) {
      this.#traceId = traceIdOf(this.#head.traceparent);
      correlation.begin(this.#traceId, identified.chain(operationLabel(classified)), this.#facts.nowMs);
    }
    metrics.forwarded.add(metrics.allowedAndForwarded);
    this.#upstreamAtMs = this.#services.clock.monotonicMs();
    this.#take(port, false);
  }

  #take(port: EnforcedPort, fresh: boolean): void {
    this.#waiting = true;
    this.#app = this.#services.pool(port.port).take(this, fresh);
    if (this.#app === undefined) this.#fail("OVERLOADED", "too many connections to the application");
  }

  // --- from the application's side -------------------------------------------------------------------------------

  onAppReady(connection: AppConnection): void {
    this.#app = connection;
    this.#waiting = false;
    const { metrics } = this.#services;
    metrics.forwarded.add(metrics.attempts);
    let head = `${requestLine(this.#head.method, this.#head.target)}host: ${this.#head.authority}\r\n${this.#head.lines}`;
    if (this.#head.contentLength >= 0) head += `content-length: ${this.#head.contentLength}\r\n`;
    else if (!this.#bodyless) head += CHUNKED_LINE;
    head += this.#identityLines();
    connection.socket.write(`${head}\r\n`);
    const body = this.#body;
    this.#body = undefined;
    if (body !== undefined) for (const chunk of body) this.#sendToApp(chunk);
    if (this.#held > 0) this.#giveCredit();
    if (this.#requestEnded) this.#endRequest();
  }

  #identityLines(): string {
    const decision = this.#facts.decision;
    const caller = this.#facts.identified?.caller;
    if (decision === undefined || !caller?.authenticated || decision.identityHeaders.length === 0) return "";
    let lines = "";
    for (const header of decision.identityHeaders) {
      if (header === "caller") lines += `x-mesh-caller: ${caller.kind}/${caller.name}\r\n`;
      else if (header === "xfcc") {
        const thumbprint = this.#facts.identified?.verified?.leafThumbprint ?? "";
        const hash = Buffer.from(thumbprint, "base64url").toString("hex");
        lines += `x-forwarded-client-cert: By=${this.#facts.enforcement?.table.program.spiffeId ?? ""};Hash=${hash};Subject="";URI=${caller.spiffeId}\r\n`;
      }
    }
    return lines;
  }

  onAppInformational(head: ResponseHead): void {
    if (this.#over || this.#answerHead) return;
    const { answers } = this.#peer;
    answers.beginHeaders(this.#stream);
    answers.putStatus(head.status);
    for (const field of head.fields)
      if ((field.flags & STRIPPED_RESPONSE) === 0 && !head.connectionNames.includes(field.name))
        answers.putField(field);
    answers.endHeaders(false);
  }

  onAppHead(head: ResponseHead): void {
    if (this.#over) return;
    this.#facts.upstreamMs = this.#services.clock.monotonicMs() - this.#upstreamAtMs;
    this.#facts.status = head.status;
    this.#answerHead = true;
    this.#rpcBody = undefined;
    const { answers } = this.#peer;
    answers.beginHeaders(this.#stream);
    answers.putStatus(head.status);
    const { fields, connectionNames } = head;
    for (let i = 0; i < fields.length; i++) {
      const field = fields[i];
      if (field === undefined) continue;
      if ((field.flags & STRIPPED_RESPONSE) !== 0) {
        if (head.contentLength >= 0 && field.name === "content-length") answers.putField(field);
      } else if (connectionNames.length === 0 || !connectionNames.includes(field.name))
        answers.putField(field);
    }
    const empty =
      this.#head.method === "HEAD" || head.status === 204 || head.status === 304 || head.contentLength === 0;
    this.#responseLength = head.contentLength;
    this.#answerEnded = empty;
    answers.endHeaders(empty);
  }

  onAppBody(chunk: Buffer): void {
    if (this.#over) return;
    this.#facts.responseBytes += chunk.length;
    // The last piece carries END_STREAM itself: a frame less per answer.
    this.#answerEnded = this.#facts.responseBytes === this.#responseLength;
    if (!this.#peer.answers.sendData(this.#stream, chunk, this.#answerEnded) && !this.#answerEnded)
      this.#app?.pauseResponse();
  }

  onAppEnd(trailers: readonly Field[]): void {
    const app = this.#app;
    this.#app = undefined;
    app?.release(this.#requestSent);
    if (this.#over) return;
    if (!this.#answerEnded) {
      this.#answerEnded = true;
      const kept = trailers.filter((field) => (field.flags & STRIPPED) === 0);
      if (kept.length === 0) this.#peer.answers.sendData(this.#stream, EMPTY, true);
      else {
        this.#peer.answers.beginHeaders(this.#stream);
        for (const field of kept) this.#peer.answers.putField(field);
        this.#peer.answers.endHeaders(true);
      }
    }
    // The answer came before the whole request: tell the client to stop sending (RFC 9113 section 8.1).
    if (!this.#requestEnded) this.#peer.answers.resetStream(this.#stream, NO_ERROR);
    this.#finish();
  }

  onAppDrain(): void {
    if (!this.#over) this.#giveCredit();
  }

  onAppFailed(kind: AppFailure, detail: string, silent: boolean): void {
    const app = this.#app;
    this.#app = undefined;
    if (this.#over) return;
    // The application closed a kept connection just as we used it: it has not looked at this request. Only what may be
    // done twice is tried again, and only once (RFC 9110 section 9.2.2).
    if (
      kind === "closed" &&
      silent &&
      app?.reused === true &&
      !this.#retried &&
      this.#bodyless &&
      IDEMPOTENT.has(this.#head.method) &&
      this.#port !== undefined
    ) {
      this.#retried = true;
      this.#requestSent = false;
      this.#take(this.#port, true);
      return;
    }
    this.#fail(kind === "timeout" ? "UPSTREAM_TIMEOUT" : "UPSTREAM_FAILED", detail);
  }

  // --- from the caller's side ------------------------------------------------------------------------------------

  onRequestBody(chunk: Buffer, endStream: boolean): void {
    this.#facts.requestBytes += chunk.length;
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
    if (this.#body !== undefined || this.#waiting || this.#app === undefined)
      this.#keepBody(chunk, endStream);
    else {
      this.#sendToApp(chunk);
      this.#app.touch();
      this.#giveCredit();
      if (endStream) this.#endRequest();
    }
  }

  /** Body that cannot go on yet: the decision needs it, or the application's connection does not stand. */
  #keepBody(chunk: Buffer, endStream: boolean): void {
    const deciding = this.#facts.decision === undefined;
    // A copy: the view would keep the whole received buffer alive.
    this.#body ??= [];
    this.#body.push(Buffer.from(chunk));
    this.#bodyBytes += chunk.length;
    if (!deciding) return;
    // Credit at once, or a window of exactly 64 KiB would end before the limit is seen.
    this.#peer.answers.consumed(this.#stream, this.#held);
    this.#held = 0;
    if (this.#bodyBytes > MAX_BUFFERED_BODY) this.#withBody(true);
    else if (endStream) this.#withBody(false);
  }

  onRequestTrailers(fields: readonly Field[]): void {
    this.#requestEnded = true;
    this.#trailers = fields;
    if (this.#over || this.#answerEnded) return;
    if (this.#head.contentLength >= 0 && this.#facts.requestBytes !== this.#head.contentLength) {
      this.#breakOff("the body does not have the announced length");
      return;
    }
    if (this.#body !== undefined && this.#facts.decision === undefined) this.#withBody(false);
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
    this.#app?.abandon();
    this.#app = undefined;
    this.#finish();
  }

  // --- shared ----------------------------------------------------------------------------------------------------

  #sendToApp(chunk: Buffer): void {
    const socket = this.#app?.socket;
    if (socket === undefined || chunk.length === 0) return;
    if (this.#head.contentLength >= 0) socket.write(chunk);
    else {
      socket.write(chunkHeader(chunk.length));
      socket.write(chunk);
      socket.write(CHUNK_END);
    }
  }

  #endRequest(): void {
    if (this.#requestSent) return;
    this.#requestSent = true;
    if (!this.#bodyless && this.#head.contentLength < 0)
      this.#app?.socket.write(lastChunk(this.#trailers ?? []));
  }

  /** Lets the caller send more, unless the application does not keep up. */
  #giveCredit(): void {
    if (this.#held === 0) return;
    if (!this.#over && this.#app !== undefined && this.#app.socket.bufferedBytes >= HIGH_WATER_BYTES) return;
    this.#peer.answers.consumed(this.#stream, this.#held);
    this.#held = 0;
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

  #refuseIdentity(reason: Reason, detail: string): void {
    const { authnFailures } = this.#services.metrics;
    authnFailures.add(authnFailures.series(this.#facts.enforcement?.self.name ?? "", reason));
    this.#refuse(reason, detail);
    this.#peer.countBadProof();
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

  /** Something behind the decision failed: answer if none has begun, else break the stream. */
  #fail(reason: Reason, detail: string): void {
    this.#facts.error = detail;
    if (!this.#answerHead) {
      this.#answer(reason, undefined);
      return;
    }
    this.#peer.answers.resetStream(this.#stream, INTERNAL_ERROR);
    this.#finish();
  }

  #answer(reason: Reason, limited: LimitedVerdict | undefined): void {
    const facts = this.#facts;
    facts.decisionId = this.#services.trail.decisionId();
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

  #finish(): void {
    if (this.#over) return;
    this.#over = true;
    this.#giveCredit();
    this.#body = undefined;
    if (this.#traceId !== undefined) this.#services.correlation?.end(this.#traceId);
    this.#stream.context = undefined;
    this.#facts.record(this.#services, this.#peer);
    this.#peer.finished(this);
  }

  /** Ends the exchange because the sidecar does. */
  cancel(): void {
    if (this.#over) return;
    this.#peer.answers.resetStream(this.#stream, CANCEL);
    this.onPeerGone();
  }
}
