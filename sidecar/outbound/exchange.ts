// One request of the application to another workload: resolved, classified, countersigned, sent over the mesh, answered.
// One object per request; every way out ends in `#finish`, once. What comes of the request is a `RequestBody`, the stream that
// carries it a `MeshStream`, its limits in time a `CallTime`.
import { grpcStatusOf } from "../core/http/grpc.ts";
import { WEBSOCKET_HOP_FIELDS } from "../core/http/websocket.ts";
import type { Reason } from "../core/policy/reason.ts";
import type { CallChain } from "../telemetry/correlation.ts";
import type { Field } from "../wire/field.ts";
import type { AppExchange, AppSide, AppStream, OutboundHead } from "./app-side.ts";
import { Attempts } from "./attempts.ts";
import { CallFacts } from "./call-facts.ts";
import { CallTime } from "./call-time.ts";
import { afterWaiting, chooseChain } from "./choose-chain.ts";
import { classifyCall, classifyFor, readFields } from "./classify-call.ts";
import { followRoute, isRouteRefusal } from "./follow-route.ts";
import { answerBesideConnect, writeAnswerFields, writeTrailers } from "./forwarded-answers.ts";
import type { EndpointGroup } from "./group.ts";
import { hashKeyOf } from "./hash-key.ts";
import { askFor, isDestination, locate } from "./locate.ts";
import type { Member } from "./member.ts";
import { STRIPPED, writeMeshHead } from "./mesh-request.ts";
import { MeshStream } from "./mesh-stream.ts";
import { copiesOf } from "./mirror.ts";
import { writeGrpcEnd, writeProblem } from "./problem-answer.ts";
import { RequestBody } from "./request-body.ts";
import type { Destination, FixedDestination } from "./resolve.ts";
import { causeOfAnswer, type FailureCause, grpcVerdict, retryAfterMs, verdictOf } from "./retry.ts";
import type { DestinationRoute, MirrorTarget } from "./route.ts";
import type { OutboundServices } from "./services.ts";
import type { UpstreamConnection, UpstreamExchange } from "./upstream-connection.ts";

const NO_ERROR = 0x0;
const INTERNAL_ERROR = 0x2;
const REFUSED_STREAM = 0x7;
const EMPTY = Buffer.alloc(0);

export class OutboundExchange implements AppExchange, UpstreamExchange {
  readonly head: OutboundHead;
  appSlot = -1;
  /** Place in the list of the connection that carries it. */
  slot = -1;
  readonly #services: OutboundServices;
  readonly #app: AppSide;
  readonly #appStream: AppStream;
  readonly #facts: CallFacts;
  readonly #body: RequestBody;
  readonly #time: CallTime;
  /** No body follows the head, known with it. */
  #bodyless = false;
  #member: Member | undefined;
  #attempts: Attempts | undefined;
  #waitsToRetry = false;
  #mesh: MeshStream | undefined;
  #sentAtMs = -1;
  #answerHead = false;
  #answerEnded = false;
  /** What the application would have sent after an upgrade is not wanted. */
  #upgradeRefused = false;
  #over = false;

  constructor(services: OutboundServices, app: AppSide, stream: AppStream, head: OutboundHead) {
    this.#services = services;
    this.#app = app;
    this.#appStream = stream;
    this.head = head;
    this.#facts = new CallFacts(head, services.clock.monotonicMs(), services.meshNowMs());
    this.#body = new RequestBody(app.answers, stream, this.#facts);
    const { deadlines, timeouts } = services;
    this.#time = new CallTime(deadlines, this, this.#facts.startedMs, timeouts.responseMs);
  }

  get over(): boolean {
    return this.#over;
  }

  get deadlineMs(): number {
    return this.#time.deadlineMs;
  }

  // --- where it goes ---------------------------------------------------------------------------------------------

  /**
   * @param fixed what a local listener or a captured connection means; undefined on the proxy port.
   * @param bodyless known with the head: no body follows.
   * @param chain that the call continues, of a gateway; undefined: what propagation selects.
   */
  start(fixed: FixedDestination | undefined, bodyless: boolean, chain?: CallChain): void {
    const facts = this.#facts;
    facts.fixed = fixed;
    facts.chain = chain;
    readFields(facts, this.#services.ids);
    if (facts.upgrade !== "" && !bodyless) {
      this.#refuse("UNSUPPORTED", "an upgrade whose request has a body is not carried");
      return;
    }
    // What comes behind the head of an upgrade is bytes, once it is agreed to.
    this.#bodyless = bodyless && facts.upgrade === "";
    this.#body.isComplete = this.#bodyless;
    const located = locate(facts, this.#services);
    if (isDestination(located)) this.#onLocated(located);
    else if (located.kind === "refused") this.#refuse(located.reason, located.detail);
    else {
      void askFor(located, facts, this.#services).then((found) => {
        if (this.#over) return;
        if (isDestination(found)) this.#onLocated(found);
        else this.#refuse(found.reason, found.detail);
      });
    }
  }

  /** Finds out on whose behalf the call goes on. */
  #onLocated(destination: Destination): void {
    const facts = this.#facts;
    facts.destination = destination;
    if (facts.malformed !== "") {
      this.#refuse("REQ_MALFORMED", facts.malformed);
      return;
    }
    const choice = facts.chain === undefined ? chooseChain(facts, this.#services) : undefined;
    if (choice?.kind === "refused") this.#refuse(choice.reason, choice.detail);
    else if (choice?.kind === "waiting") {
      void afterWaiting(this.#services).then((chain) => {
        if (this.#over) return;
        facts.chain = chain;
        this.#classify(destination);
      });
    } else {
      if (choice !== undefined) facts.chain = choice.chain;
      this.#classify(destination);
    }
  }

  #classify(destination: Destination): void {
    const facts = this.#facts;
    const refused = classifyCall(facts, this.#app, destination);
    if (refused !== undefined) {
      this.#refuse(refused.reason, refused.detail);
      return;
    }
    if (destination.route !== undefined && !this.#follow(destination.route)) return;
    const { group } = facts.destination ?? destination;
    group.called(facts.startedMs);
    this.#time.limit(facts, group.traffic);
    this.#try();
  }

  /** @returns false: the call is refused. */
  #follow(route: DestinationRoute): boolean {
    const found = followRoute(route, this.#facts, (to) => classifyFor(this.#facts, this.#app, to));
    if (isRouteRefusal(found)) {
      this.#refuse(found.reason, found.detail);
      return false;
    }
    if (found.length > 0) this.#copyFor(found);
    return true;
  }

  #copyFor(mirrors: readonly MirrorTarget[]): void {
    const facts = this.#facts;
    // Two servers cannot answer one stream of bytes.
    if (facts.upgrade !== "") return;
    const copies = copiesOf(mirrors, {
      facts,
      services: this.#services,
      classify: (destination) => classifyFor(facts, this.#app, destination),
    });
    if (copies !== undefined) this.#body.copyTo(copies);
  }

  // --- an attempt ------------------------------------------------------------------------------------------------

  #try(): void {
    const { destination } = this.#facts;
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

  onUpstreamReady(connection: UpstreamConnection): void {
    const { destination, upgrade, upstream, route } = this.#facts;
    if (this.#over || destination === undefined) return;
    if (upgrade !== "" && !connection.h2.extendedConnect) {
      this.#refuse("UPSTREAM_FAILED", "the callee's side takes no upgrades (RFC 8441)");
      return;
    }
    const mesh = MeshStream.open(connection, this);
    if (mesh === undefined) {
      if (upstream?.wait(this) !== true)
        this.#refuse("OVERLOADED", "too many requests wait for a connection");
      return;
    }
    this.#mesh = mesh;
    this.#sentAtMs = this.#services.clock.monotonicMs();
    const tryMs = route?.tryTimeoutMs ?? destination.group.traffic.timing.perTryMs;
    this.#time.beginTry(this.#sentAtMs, tryMs);
    this.#sendHead(mesh, destination);
    this.#sendKept(mesh);
  }

  #sendHead({ connection, stream }: MeshStream, destination: Destination): void {
    const { h2, countersigner } = connection;
    const { operation, nowMs, chain, authorization } = this.#facts;
    const proof = destination.asksFreshProof(operation)
      ? countersigner.freshFields(operation, destination.packsDigest, chain, authorization, nowMs)
      : countersigner.fields(operation, destination.packsDigest, chain, authorization, nowMs);
    h2.beginHeaders(stream);
    const { cache } = this.#services;
    const { protocol } = this.#app;
    const leftMs = this.#time.endMs - this.#sentAtMs;
    writeMeshHead(h2, this.#facts, { proof, cache, protocol, leftMs });
    h2.endHeaders(this.#bodyless);
  }

  /** What had come of the request before there was a stream for it. */
  #sendKept(mesh: MeshStream): void {
    const body = this.#body;
    let hasRoom = true;
    for (const chunk of body.takeKept()) hasRoom = this.#send(mesh, chunk, false);
    if (body.isComplete && !this.#bodyless) {
      if (body.trailers !== undefined) mesh.sendTrailers(body.trailers);
      else this.#send(mesh, EMPTY, true);
    }
    if (hasRoom) body.giveCredit();
  }

  #send(mesh: MeshStream, chunk: Buffer, endStream: boolean): boolean {
    this.#time.touch(this.#services.clock.monotonicMs());
    return mesh.sendData(chunk, endStream);
  }

  #planRetry(cause: FailureCause, asksForPause: boolean): number | undefined {
    if (!this.#body.isReplayable) return undefined;
    this.#attempts ??= new Attempts();
    if (this.#member !== undefined) this.#attempts.tried.add(this.#member);
    const leftMs = this.#time.endMs - this.#services.clock.monotonicMs();
    return this.#attempts.plan(cause, asksForPause, leftMs, this.#facts, this.#services);
  }

  #retryAfter(delayMs: number): void {
    this.#time.endTry();
    if (delayMs === 0) {
      this.#try();
      return;
    }
    this.#waitsToRetry = true;
    this.#time.waitUntil(this.#services.clock.monotonicMs() + delayMs);
  }

  /** Leaves the stream of an attempt that is given up. */
  #letGo(): void {
    const mesh = this.#mesh;
    this.#mesh = undefined;
    mesh?.reset();
    mesh?.release();
  }

  // --- from the mesh ---------------------------------------------------------------------------------------------

  onUpstreamInformational(fields: readonly Field[]): void {
    if (this.#over || this.#answerHead) return;
    writeAnswerFields(this.#app.answers, this.#appStream, fields);
    this.#app.answers.endHeaders(false);
  }

  onUpstreamHead(received: readonly Field[], endStream: boolean): void {
    if (this.#over) return;
    const facts = this.#facts;
    // What the callee's application said where CONNECT could not.
    const ignored = facts.upgrade === "" || this.#app.isHttp2 ? undefined : answerBesideConnect(received);
    const fields = ignored ?? received;
    const group = facts.destination?.group;
    if (group?.traffic.watchesAnswers === true && this.#isRetried(group, fields, endStream)) return;
    const nowMs = this.#services.clock.monotonicMs();
    facts.answerBegins(nowMs, this.#sentAtMs);
    this.#time.answerBegins(nowMs);
    this.#body.forget();
    this.#answerHead = true;
    if (facts.upgrade !== "") {
      if (ignored === undefined && Number(fields[0]?.value) < 300) {
        this.#switch(fields, endStream);
        return;
      }
      // An answer like any other: nothing more is sent on the stream.
      this.#upgradeRefused = !this.#body.isComplete;
      this.#body.isComplete = true;
      this.#mesh?.sendData(EMPTY, true);
    }
    if (endStream && facts.isGrpc) facts.grpcStatus = grpcStatusOf(fields);
    const { answers } = this.#app;
    facts.status = writeAnswerFields(answers, this.#appStream, fields, facts.route?.responseEdit);
    answers.endHeaders(endStream);
    if (endStream) this.#endAnswer();
  }

  #switch(fields: readonly Field[], endStream: boolean): void {
    const facts = this.#facts;
    facts.status = 101;
    const streamMs = facts.destination?.group.traffic.timing.streamMs ?? Number.POSITIVE_INFINITY;
    this.#time.switched(this.#services.clock.monotonicMs(), streamMs);
    this.#app.switchTo(
      this.#appStream,
      facts.upgrade,
      fields.filter((field) => (field.flags & STRIPPED) === 0 && !WEBSOCKET_HOP_FIELDS.has(field.name)),
    );
    if (endStream) this.onUpstreamData(EMPTY, true);
  }

  onUpstreamData(chunk: Buffer, endStream: boolean): void {
    if (this.#over) return;
    this.#facts.responseBytes += chunk.length;
    this.#mesh?.received(chunk.length);
    // Nothing is waited for behind the end.
    if (!endStream) this.#time.touch(this.#services.clock.monotonicMs());
    if (this.#app.answers.sendData(this.#appStream, chunk, endStream)) this.#mesh?.giveCredit();
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
    this.#body.giveCredit();
  }

  onUpstreamFailed(
    kind: "connect" | "closed" | "reset" | "timeout",
    detail: string,
    untouched: boolean,
    code: number,
  ): void {
    if (this.#over) return;
    this.#mesh = undefined;
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

  // --- from the application, and time ----------------------------------------------------------------------------

  onRequestBody(chunk: Buffer, endStream: boolean): void {
    const body = this.#body;
    body.arrived(chunk, endStream);
    if (this.#over || this.#answerEnded) body.giveCredit();
    else if (this.#mesh === undefined) body.hold(chunk);
    else {
      body.remember(chunk);
      if (this.#send(this.#mesh, chunk, endStream)) body.giveCredit();
    }
  }

  onRequestTrailers(trailers: readonly Field[]): void {
    this.#body.ended(trailers);
    if (!this.#over && !this.#answerEnded) this.#mesh?.sendTrailers(trailers);
  }

  onAppDrain(): void {
    this.#mesh?.giveCredit();
  }

  /** The callee's stream is reset. */
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
    this.#mesh?.reset();
    this.#finish(true);
  }

  timeOut(): void {
    if (this.#over) return;
    const nowMs = this.#services.clock.monotonicMs();
    if (this.#waitsToRetry && nowMs < this.#time.endMs) {
      this.#waitsToRetry = false;
      this.#time.goOn(nowMs);
      this.#try();
      return;
    }
    this.#facts.upstream?.cancel(this);
    if (this.#answerHead) {
      this.#breakAnswer("the answer stopped", -1, "UPSTREAM_TIMEOUT");
      return;
    }
    // A time that the application chose says nothing about the endpoint.
    const isItsFault = nowMs < this.#time.endMs || this.#facts.timeoutMs === Number.POSITIVE_INFINITY;
    if (this.#mesh !== undefined && this.#member !== undefined && isItsFault)
      this.#facts.destination?.group.failed(this.#member);
    this.#letGo();
    this.#facts.error = "the target did not answer in time";
    const delayMs = this.#planRetry("timeout", false);
    if (delayMs !== undefined) this.#retryAfter(delayMs);
    else this.#refuse("UPSTREAM_TIMEOUT", this.#facts.error);
  }

  // --- ways out --------------------------------------------------------------------------------------------------

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
    this.#mesh?.reset();
    if (!this.#facts.isGrpc || this.#answerEnded) answers.resetStream(this.#appStream, INTERNAL_ERROR);
    else if (code >= 0) answers.resetStream(this.#appStream, code);
    else {
      writeGrpcEnd(this.#app, this.#appStream, this.#facts, this.#services);
      if (!this.#body.isComplete) answers.resetStream(this.#appStream, NO_ERROR);
    }
    this.#finish(true);
  }

  #refuse(reason: Reason, detail: string): void {
    if (reason === "OVERLOADED") this.#facts.destination?.group.overflowed();
    this.#facts.error = detail;
    this.#facts.reason = reason;
    this.#answerHead = true;
    this.#answerEnded = true;
    const { isComplete } = this.#body;
    // A body that nobody will read: an HTTP/1.1 connection cannot be used again without reading it.
    if (!isComplete) this.#app.closeAfterAnswer();
    writeProblem(this.#app, this.#appStream, this.#facts, this.#services);
    if (!isComplete) this.#app.answers.resetStream(this.#appStream, NO_ERROR);
    this.#mesh?.reset();
    this.#finish(false);
  }

  #finish(broken: boolean): void {
    if (this.#over) return;
    this.#over = true;
    const body = this.#body;
    const app = this.#app;
    const mesh = this.#mesh;
    this.#mesh = undefined;
    this.#time.close();
    mesh?.giveCredit();
    body.close();
    // Over HTTP/1.1 its request was whole.
    if (this.#upgradeRefused && !broken && app.isHttp2) app.answers.resetStream(this.#appStream, NO_ERROR);
    // The answer came before the whole request was sent: nothing more of it will follow.
    if (mesh !== undefined && !broken && !body.isComplete && this.#facts.reason === "ALLOWED") {
      mesh.reset(NO_ERROR);
      app.closeAfterAnswer();
      app.answers.resetStream(this.#appStream, NO_ERROR);
    }
    mesh?.release();
    this.#appStream.context = undefined;
    const nowMs = this.#services.clock.monotonicMs();
    this.#facts.record(this.#services, nowMs);
    app.finished(this, body.isComplete, nowMs);
  }
}
