// One request at an application that speaks HTTP/2: first a place in the queue, then a stream.

import type { Timeouts } from "../config.ts";
import type { Clock } from "../core/runtime/clock.ts";
import type { Field } from "../wire/field.ts";
import type { FieldCache } from "../wire/field-cache.ts";
import type { Http2Stream } from "../wire/http2/connection.ts";
import type { Slotted } from "../wire/slot-list.ts";
import type { Http2AppSide } from "./app-http2.ts";
import type { Http2AppConnection } from "./app-http2-connection.ts";
import { writeAppHead } from "./app-http2-head.ts";
import type { AppExchange, AppFailure, AppPlace, Repeatable } from "./app-side.ts";
import type { CallFacts } from "./call-facts.ts";
import { STRIPPED } from "./request-head.ts";

const NO_ERROR = 0x0;
const CANCEL = 0x8;
const EMPTY = Buffer.alloc(0);

interface PlaceDeps {
  readonly cache: FieldCache;
  readonly clock: Clock;
  readonly timeouts: Timeouts;
}

export class Http2Place implements AppPlace, Slotted {
  slot = -1;
  readonly #side: Http2AppSide;
  readonly #exchange: AppExchange;
  readonly #deps: PlaceDeps;
  #connection: Http2AppConnection | undefined;
  #stream: Http2Stream<Http2Place | undefined> | undefined;
  #congested = false;
  #paused = false;
  /** Bytes of the answer that the application has no credit for yet. */
  #held = 0;
  #hasAnswered = false;
  #over = false;
  #isPatient = false;
  #bodyless = false;
  /** Monotonic milliseconds after which something took too long. */
  deadlineMs: number;

  constructor(side: Http2AppSide, exchange: AppExchange, deps: PlaceDeps, deadlineMs: number) {
    this.#side = side;
    this.#exchange = exchange;
    this.#deps = deps;
    this.deadlineMs = deadlineMs;
  }

  get over(): boolean {
    return this.#over;
  }

  get congested(): boolean {
    return this.#congested;
  }

  /** Takes a stream and has the request written on it; false when there is none. */
  begin(connection: Http2AppConnection): boolean {
    if (this.#exchange.upgrade !== "" && !connection.h2.extendedConnect) {
      // Later: whoever takes a place does not expect it to be over at once.
      setImmediate(() =>
        this.fail("upgrade", "the application takes no upgrades over HTTP/2 (RFC 8441)", "nothing", 0),
      );
      return true;
    }
    const stream = connection.open(this);
    if (stream === undefined) return false;
    this.#connection = connection;
    this.#stream = stream;
    this.#exchange.onAppReady(this);
    return true;
  }

  // --- from the exchange -----------------------------------------------------------------------------------------

  sendHead(facts: CallFacts): void {
    const { h2 } = this.#at();
    const { cache, clock } = this.#deps;
    // A gRPC call may be silent as long as its deadline lets it, and for ever without one.
    this.#isPatient = facts.head.isGrpc;
    this.#bodyless = facts.bodyless && facts.head.upgrade === "";
    const nowMs = clock.monotonicMs();
    this.touch(nowMs);
    h2.beginHeaders(this.#at().stream);
    writeAppHead(h2, facts, cache, nowMs);
    h2.endHeaders(this.#bodyless);
  }

  sendBody(chunk: Buffer): void {
    const { h2, stream } = this.#at();
    if (!h2.sendData(stream, chunk, false)) this.#congested = true;
  }

  sendEnd(trailers: readonly Field[]): void {
    if (this.#bodyless) return;
    const { h2, stream } = this.#at();
    const kept = trailers.filter((field) => (field.flags & STRIPPED) === 0);
    if (kept.length === 0) {
      h2.sendData(stream, EMPTY, true);
      return;
    }
    h2.beginHeaders(stream);
    for (const field of kept) h2.putField(field);
    h2.endHeaders(true);
  }

  touch(nowMs: number): void {
    this.deadlineMs = this.#isPatient ? Number.POSITIVE_INFINITY : nowMs + this.#deps.timeouts.responseMs;
  }

  pauseResponse(): void {
    this.#paused = true;
  }

  resumeResponse(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.touch(this.#deps.clock.monotonicMs());
    this.#giveCredit();
  }

  abandon(): void {
    this.#leave(CANCEL);
  }

  release(requestSent: boolean, _nowMs: number): void {
    // The head of an upgrade is all of its request, but leaves the stream open.
    this.#leave(requestSent && this.#exchange.upgrade === "" ? -1 : NO_ERROR);
  }

  // --- from the connection ---------------------------------------------------------------------------------------

  onHead(fields: readonly Field[], ended: boolean): void {
    this.#hasAnswered = true;
    const head = answerHead(fields);
    if (this.#exchange.upgrade !== "" && head.status < 300) {
      // How long a stream of bytes may be silent is for the caller's side to say.
      this.#isPatient = true;
      this.#exchange.onAppSwitched(head);
    } else this.#exchange.onAppHead(head, ended);
    if (ended) this.#exchange.onAppEnd([]);
  }

  onInformational(fields: readonly Field[]): void {
    this.#hasAnswered = true;
    this.touch(this.#deps.clock.monotonicMs());
    this.#exchange.onAppInformational(answerHead(fields));
  }

  onData(chunk: Buffer, ended: boolean): void {
    this.#held += chunk.length;
    if (chunk.length > 0) this.#exchange.onAppBody(chunk);
    if (!this.#paused) {
      if (!ended) this.touch(this.#deps.clock.monotonicMs());
      this.#giveCredit();
    }
    if (ended) this.#exchange.onAppEnd([]);
  }

  onTrailers(fields: readonly Field[]): void {
    this.#exchange.onAppEnd(fields);
  }

  onWritable(): void {
    this.#congested = false;
    this.#exchange.onAppDrain();
  }

  /** @param untouched the application certainly did not process the request. */
  onReset(code: number, untouched: boolean): void {
    this.fail(
      "reset",
      `the application reset the stream (code ${code})`,
      untouched ? "all" : "nothing",
      code,
    );
  }

  /** The connection is gone. */
  onLost(detail: string): void {
    this.fail("closed", detail, this.#hasAnswered ? "nothing" : "idempotent", 0);
  }

  /** Ends the place; its exchange is told why. */
  fail(kind: AppFailure, detail: string, repeatable: Repeatable, code: number): void {
    if (this.#over) return;
    this.#leave(CANCEL);
    this.#exchange.onAppFailed(kind, detail, repeatable, code);
  }

  #giveCredit(): void {
    const connection = this.#connection;
    const stream = this.#stream;
    if (this.#held === 0 || connection === undefined || stream === undefined) return;
    connection.h2.consumed(stream, this.#held);
    this.#held = 0;
  }

  /** @param code the stream is reset with, unless it is over; -1: it is. */
  #leave(code: number): void {
    if (this.#over) return;
    this.#over = true;
    const connection = this.#connection;
    const stream = this.#stream;
    if (connection === undefined || stream === undefined) {
      this.#side.forget(this);
      return;
    }
    this.#giveCredit();
    if (code >= 0) connection.h2.resetStream(stream, code);
    connection.finished(this, stream);
  }

  /** INVARIANT: exchanges write between `onAppReady` and the end of their place only. */
  #at(): { h2: Http2AppConnection["h2"]; stream: Http2Stream<Http2Place | undefined> } {
    if (this.#connection === undefined || this.#stream === undefined)
      throw new Error("a request cannot be written before its place is ready");
    return { h2: this.#connection.h2, stream: this.#stream };
  }
}

/** INVARIANT: the codec refuses a response whose first field is not a `:status` of three digits. */
function answerHead(fields: readonly Field[]): Parameters<AppExchange["onAppHead"]>[0] {
  let contentLength = -1;
  for (let i = 1; i < fields.length; i++)
    if (fields[i]?.name === "content-length") contentLength = Number(fields[i]?.value);
  return { status: Number(fields[0]?.value), fields, contentLength, connectionNames: NO_NAMES };
}

const NO_NAMES: readonly string[] = [];
