// What the caller of one request is answered: the application's answer as it comes, or the sidecar's own, and what can still
// be said when an answer that has begun must end.
import { grpcStatusOf } from "../core/http/grpc.ts";
import { joinedField } from "../core/http/headers.ts";
import { FrameBoundary, WEBSOCKET } from "../core/http/websocket.ts";
import { jsonRpcIdOf } from "../core/policy/mcp.ts";
import type { Reason } from "../core/policy/reason.ts";
import type { Field } from "../wire/field.ts";
import type { FieldCache } from "../wire/field-cache.ts";
import type { AnswerHead } from "./app-side.ts";
import type { CallFacts } from "./call-facts.ts";
import type { CallerSide, CallerStream } from "./caller-side.ts";
import { switchedFields, writeAnswerHead, writeInformational, writeTrailers } from "./forwarded-heads.ts";
import { writeGrpcEnd } from "./grpc-answer.ts";
import { writeLastWords } from "./last-words.ts";
import { type LimitedVerdict, writeProblem } from "./problem-answer.ts";

const NO_ERROR = 0x0;
const INTERNAL_ERROR = 0x2;
const EMPTY = Buffer.alloc(0);
const NO_FIELDS: readonly Field[] = [];

/** What a denial of an MCP request repeats of it. */
export interface JsonRpcRequest {
  /** Of the error. */
  code: number;
  /** The message as far as it was read, for its id. */
  body: Buffer | undefined;
}

export class CallerAnswer {
  readonly #peer: CallerSide;
  readonly #stream: CallerStream;
  readonly #facts: CallFacts;
  /** Of an MCP request, until the application answers: the sidecar's answer is a JSON-RPC error. */
  rpc: JsonRpcRequest | undefined;
  #hasBegun = false;
  #hasEnded = false;
  #isSwitched = false;
  #fields: readonly Field[] = NO_FIELDS;
  /** Bytes of its body; -1: not known, or the end is told otherwise. */
  #length = -1;
  /** Where frames of a WebSocket end. */
  #frames: FrameBoundary | undefined;

  /** @param facts get status and size. */
  constructor(peer: CallerSide, stream: CallerStream, facts: CallFacts) {
    this.#peer = peer;
    this.#stream = stream;
    this.#facts = facts;
  }

  get hasBegun(): boolean {
    return this.#hasBegun;
  }

  /** Nothing more can be said on the stream. */
  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  /** The application agreed to an upgrade: both directions are bytes. */
  get isSwitched(): boolean {
    return this.#isSwitched;
  }

  // --- the application's answer ----------------------------------------------------------------------------------

  /** 100: the caller waits for it before it sends what the decision needs. */
  writeContinue(): void {
    const { answers } = this.#peer;
    answers.beginHeaders(this.#stream);
    answers.putStatus(100);
    answers.endHeaders(false);
  }

  writeInformational(head: AnswerHead): void {
    if (!this.#hasBegun) writeInformational(this.#peer.answers, this.#stream, head);
  }

  /** @param ended see `AppExchange.onAppHead`. */
  writeHead(head: AnswerHead, ended: boolean | undefined): void {
    const facts = this.#facts;
    this.#begin(head, head.status);
    // HTTP/2 says itself where the answer ends: trailers may follow a body of any length.
    this.#length = ended === undefined ? head.contentLength : -1;
    if (ended === true && facts.head.isGrpc) facts.grpcStatus = grpcStatusOf(head.fields);
    const { duties } = facts;
    duties?.answerHead(head.status, head.fields);
    this.#hasEnded = writeAnswerHead(this.#peer.answers, this.#stream, head, {
      method: facts.head.method,
      ended,
      duties,
      agreesNot: facts.head.upgrade !== "" && this.#peer.upgradesByConnect && head.status < 300,
    });
  }

  /** Agrees to the upgrade. */
  switchTo(head: AnswerHead): void {
    const { upgrade, fields } = this.#facts.head;
    this.#begin(head, 101);
    this.#isSwitched = true;
    const isWebSocket = upgrade === WEBSOCKET;
    this.#frames = isWebSocket ? new FrameBoundary() : undefined;
    const key = isWebSocket ? (joinedField(fields, "sec-websocket-key") ?? "") : "";
    this.#peer.switchTo(this.#stream, upgrade, switchedFields(head, key));
  }

  #begin(head: AnswerHead, status: number): void {
    this.#facts.status = status;
    this.#hasBegun = true;
    this.#fields = head.fields;
    this.rpc = undefined;
  }

  /** @returns whether the caller takes more at the moment. */
  writeBody(chunk: Buffer): boolean {
    const facts = this.#facts;
    if (this.#isSwitched) this.#frames?.push(chunk);
    facts.responseBytes += chunk.length;
    facts.duties?.answerBody(chunk);
    // The last piece carries END_STREAM itself: a frame less per answer.
    this.#hasEnded = facts.responseBytes === this.#length;
    return this.#peer.answers.sendData(this.#stream, chunk, this.#hasEnded) || this.#hasEnded;
  }

  /** The application has said everything. */
  writeEnd(trailers: readonly Field[]): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    if (this.#facts.head.isGrpc) this.#facts.grpcStatus = grpcStatusOf(trailers);
    const { answers } = this.#peer;
    if (!writeTrailers(answers, this.#stream, trailers)) answers.sendData(this.#stream, EMPTY, true);
  }

  // --- the sidecar's own -----------------------------------------------------------------------------------------

  /**
   * Says why there is no answer of the application; of one that has begun, why it ends, as far as that can be said: gRPC
   * still can, everything else is broken off.
   *
   * @returns false: by a reset, which stops the request too.
   */
  writeProblem(reason: Reason, limited: LimitedVerdict | undefined, cache: FieldCache): boolean {
    if (this.#hasBegun) return this.#break(reason);
    const rpc = this.rpc && { code: this.rpc.code, id: jsonRpcIdOf(this.rpc.body) };
    this.#hasBegun = true;
    this.#hasEnded = true;
    writeProblem({
      peer: this.#peer,
      stream: this.#stream,
      cache,
      facts: this.#facts,
      reason,
      limited,
      rpc,
    });
    return true;
  }

  #break(reason: Reason): boolean {
    if (this.#hasEnded || !this.#facts.head.isGrpc) {
      this.reset(INTERNAL_ERROR);
      return false;
    }
    this.#hasEnded = true;
    writeGrpcEnd({ peer: this.#peer, stream: this.#stream, facts: this.#facts, reason });
    return true;
  }

  /** The permission is lost while the answer is under way: in the words of what is spoken, or by a reset. */
  writeLastWords(reason: Reason): void {
    // Otherwise the rest of the request alone is left.
    if (!this.#hasEnded) this.#writeLastWords(reason);
    this.#hasEnded = true;
  }

  #writeLastWords(reason: Reason): void {
    const facts = this.#facts;
    if (facts.head.isGrpc) {
      writeGrpcEnd({ peer: this.#peer, stream: this.#stream, facts, reason });
      return;
    }
    writeLastWords({
      answers: this.#peer.answers,
      stream: this.#stream,
      reason,
      decisionId: facts.decisionId,
      requestType: facts.head.header("content-type"),
      answerFields: this.#fields,
      hasLength: this.#length >= 0,
      frames: this.#frames,
      isSwitched: this.#isSwitched,
    });
  }

  /** The answer is whole, the request is not: its rest is not wanted (RFC 9113 section 8.1). */
  stopRequest(): void {
    this.reset(NO_ERROR);
  }

  /** @param code of RFC 9113 section 7. */
  reset(code: number): void {
    this.#peer.answers.resetStream(this.#stream, code);
  }
}
