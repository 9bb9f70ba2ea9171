// The answer of a host outside the mesh on its way to the application, and what is said there when the host's own is not to be
// had, or goes no further.
import { grpcStatusOf } from "../core/http/grpc.ts";
import { joinedField } from "../core/http/headers.ts";
import { FrameBoundary, WEBSOCKET } from "../core/http/websocket.ts";
import type { Reason } from "../core/policy/reason.ts";
import type { Field } from "../wire/field.ts";
import type { AppSide, AppStream } from "./app-side.ts";
import type { CallFacts } from "./call-facts.ts";
import { externalLastWords } from "./external-last-words.ts";
import type { HostAnswer } from "./external-place.ts";
import { agreedFields } from "./external-upgrade.ts";
import { writeTrailers } from "./forwarded-answers.ts";
import { STRIPPED } from "./mesh-request.ts";
import { writeGrpcEnd, writeProblem } from "./problem-answer.ts";
import type { OutboundServices } from "./services.ts";

const NO_ERROR = 0x0;
const INTERNAL_ERROR = 0x2;
const CANCEL = 0x8;
const EMPTY = Buffer.alloc(0);

export class ExternalAnswer {
  readonly #app: AppSide;
  readonly #stream: AppStream;
  readonly #facts: CallFacts;
  readonly #services: OutboundServices;
  #hasBegun = false;
  #isWhole = false;
  /** And an event can be added to it. */
  #isEventStream = false;
  /** Of a WebSocket that the host agreed to. */
  #frames: FrameBoundary | undefined;

  constructor(app: AppSide, stream: AppStream, facts: CallFacts, services: OutboundServices) {
    this.#app = app;
    this.#stream = stream;
    this.#facts = facts;
    this.#services = services;
  }

  /** A final head was written. */
  get hasBegun(): boolean {
    return this.#hasBegun;
  }

  /** Its end was written. */
  get isWhole(): boolean {
    return this.#isWhole;
  }

  get isSwitched(): boolean {
    return this.#frames !== undefined;
  }

  informational(head: HostAnswer): void {
    this.#writeHead(head, false, head.status);
    this.#app.answers.endHeaders(false);
  }

  /** @param status of it or, where that would mean something else here, another. */
  head(head: HostAnswer, status: number, isAll: boolean): void {
    this.#hasBegun = true;
    this.#facts.status = status;
    const type = joinedField(head.fields, "content-type")?.toLowerCase() ?? "";
    this.#isEventStream =
      type.startsWith("text/event-stream") &&
      !head.fields.some(({ name }) => name === "content-length" || name === "content-encoding");
    this.#writeHead(head, true, status);
    this.#app.answers.endHeaders(isAll);
    if (!isAll) return;
    this.#isWhole = true;
    if (this.#facts.isGrpc) this.#facts.grpcStatus = grpcStatusOf(head.fields);
  }

  #writeHead({ fields, connectionNames }: HostAnswer, isFinal: boolean, status: number): void {
    const { answers } = this.#app;
    answers.beginHeaders(this.#stream);
    answers.putStatus(status);
    for (const field of fields) {
      const isLength = isFinal && field.name === "content-length";
      if (!isLength && ((field.flags & STRIPPED) !== 0 || connectionNames.includes(field.name))) continue;
      answers.putField(field);
    }
  }

  /** The host agreed to a WebSocket. */
  switched(head: HostAnswer): void {
    this.#hasBegun = true;
    this.#frames = new FrameBoundary();
    this.#facts.status = 101;
    this.#app.switchTo(this.#stream, WEBSOCKET, agreedFields(head));
  }

  /** @returns false: stop until the exchange is told that there is room. */
  body(chunk: Buffer): boolean {
    this.#frames?.push(chunk);
    this.#facts.responseBytes += chunk.length;
    return this.#app.answers.sendData(this.#stream, chunk, false);
  }

  end(trailers: readonly Field[]): void {
    this.#isWhole = true;
    if (trailers.length === 0) {
      this.#app.answers.sendData(this.#stream, EMPTY, true);
      return;
    }
    if (this.#facts.isGrpc) this.#facts.grpcStatus = grpcStatusOf(trailers);
    writeTrailers(this.#app.answers, this.#stream, trailers);
  }

  /** Answers in our own words. @param requestEnded whether all of the request has come. */
  refuse(reason: Reason, detail: string, requestEnded: boolean): void {
    this.#tell(reason, detail);
    this.#hasBegun = true;
    if (!requestEnded) this.#app.closeAfterAnswer();
    writeProblem(this.#app, this.#stream, this.#facts, this.#services);
    if (!requestEnded) this.#app.answers.resetStream(this.#stream, NO_ERROR);
  }

  /** What allowed an answer that has begun is lost: says so where anything can be said. */
  withdraw(reason: Reason, detail: string, requestEnded: boolean): void {
    this.#tell(reason, detail);
    if (this.#facts.isGrpc) {
      this.#endGrpc(requestEnded);
      return;
    }
    this.#facts.decisionId = this.#services.trail.decisionId();
    const { answers } = this.#app;
    const words = externalLastWords({
      reason,
      decisionId: this.#facts.decisionId,
      frames: this.#frames,
      isEventStream: this.#isEventStream,
    });
    this.#isWhole = words !== undefined;
    if (words === undefined) answers.resetStream(this.#stream, CANCEL);
    else answers.sendData(this.#stream, words, true);
  }

  /**
   * An answer that has begun cannot be completed.
   *
   * @param code of the host's reset, which gRPC clients get as it is; -1: none.
   */
  breakOff(reason: Reason, detail: string, code: number, requestEnded: boolean): void {
    this.#tell(reason, detail);
    if (!this.#facts.isGrpc) this.#app.answers.resetStream(this.#stream, INTERNAL_ERROR);
    else if (code >= 0) this.#app.answers.resetStream(this.#stream, code);
    else this.#endGrpc(requestEnded);
  }

  #endGrpc(requestEnded: boolean): void {
    this.#isWhole = true;
    writeGrpcEnd(this.#app, this.#stream, this.#facts, this.#services);
    if (!requestEnded) this.#app.answers.resetStream(this.#stream, NO_ERROR);
  }

  #tell(reason: Reason, detail: string): void {
    this.#facts.reason = reason;
    this.#facts.error = detail;
  }
}
