// One request on a stream of an HTTP/2 connection to a host outside the mesh. The host is given credit for what the
// application takes, so it is held back by who reads and not by memory here.
import type { Field } from "../wire/field.ts";
import type { FieldCache } from "../wire/field-cache.ts";
import type { Http2Stream } from "../wire/http2/connection.ts";
import type { Slotted } from "../wire/slot-list.ts";
import type { ExternalHttp2 } from "./external-http2.ts";
import type { ExternalPlace, ExternalUser, HostAnswer, HostFailure } from "./external-place.ts";
import { type HostRequest, writeHttp2Request } from "./external-request.ts";
import { writeTrailers } from "./forwarded-answers.ts";

const NO_ERROR = 0x0;
const REFUSED_STREAM = 0x7;
const CANCEL = 0x8;
const NO_NAMES: readonly string[] = [];
/** May be sent again when nobody knows what became of them (RFC 9110 section 9.2.2). */
const IDEMPOTENT: ReadonlySet<string> = new Set(["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"]);

interface PlaceDeps {
  readonly cache: FieldCache;
  readonly scheme: "http" | "https";
}

export class ExternalHttp2Place implements ExternalPlace, Slotted {
  slot = -1;
  /** A request is refused, and a connection left, at any time. */
  readonly mayComeBack = true;
  readonly #connection: ExternalHttp2;
  readonly #stream: Http2Stream<ExternalHttp2Place | undefined>;
  readonly #user: ExternalUser;
  readonly #deps: PlaceDeps;
  #congested = false;
  #paused = false;
  /** Bytes of the answer that the host has no credit for yet. */
  #held = 0;
  #hasAnswered = false;
  #isAnswered = false;
  #bodyless = false;
  #over = false;

  constructor(
    connection: ExternalHttp2,
    stream: Http2Stream<ExternalHttp2Place | undefined>,
    user: ExternalUser,
    deps: PlaceDeps,
  ) {
    this.#connection = connection;
    this.#stream = stream;
    this.#user = user;
    this.#deps = deps;
  }

  get congested(): boolean {
    return this.#congested;
  }

  // --- from the exchange -----------------------------------------------------------------------------------------

  sendHead(request: HostRequest): void {
    const { h2 } = this.#connection;
    this.#bodyless = request.bodyless;
    h2.beginHeaders(this.#stream);
    writeHttp2Request(h2, request, this.#deps.scheme, this.#deps.cache);
    h2.endHeaders(request.bodyless);
  }

  sendBody(chunk: Buffer): void {
    if (!this.#connection.h2.sendData(this.#stream, chunk, false)) this.#congested = true;
  }

  sendEnd(trailers: readonly Field[]): void {
    if (!this.#bodyless) writeTrailers(this.#connection.h2, this.#stream, trailers);
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.#giveCredit();
  }

  release(isWhole: boolean): void {
    // What is still queued of a request that was answered nobody may ever read.
    if (!this.#isAnswered || this.#stream.queuedBytes > 0) this.#leave(CANCEL);
    else this.#leave(isWhole ? -1 : NO_ERROR);
  }

  // --- from the connection ---------------------------------------------------------------------------------------

  onHead(fields: readonly Field[], ended: boolean): void {
    this.#hasAnswered = true;
    this.#isAnswered = ended;
    this.#user.onExternalHead(answerOf(fields), ended);
  }

  onInformational(fields: readonly Field[]): void {
    this.#hasAnswered = true;
    this.#user.onExternalInformational(answerOf(fields));
  }

  onData(chunk: Buffer, ended: boolean): void {
    this.#held += chunk.length;
    this.#isAnswered = ended;
    if (chunk.length > 0) this.#user.onExternalBody(chunk);
    if (!this.#paused) this.#giveCredit();
    if (ended && !this.#over) this.#user.onExternalEnd([]);
  }

  onTrailers(fields: readonly Field[]): void {
    this.#isAnswered = true;
    this.#user.onExternalEnd(fields);
  }

  onWritable(): void {
    this.#congested = false;
    this.#user.onExternalDrain();
  }

  onReset(code: number): void {
    this.#fail({
      kind: "reset",
      detail: `the host reset the stream (code ${code})`,
      untouched: code === REFUSED_STREAM,
      code,
    });
  }

  /** The connection is gone. */
  onLost(detail: string): void {
    // Closed just as it was used again, without a word on which requests it had read.
    const untouched = !this.#hasAnswered && this.#connection.isReused && IDEMPOTENT.has(this.#user.method);
    this.#fail({ kind: "closed", detail, untouched, code: 0 });
  }

  #fail(failure: HostFailure): void {
    if (this.#over) return;
    this.#leave(-1);
    this.#user.onExternalFailed(failure);
  }

  #giveCredit(): void {
    if (this.#held === 0) return;
    const bytes = this.#held;
    this.#held = 0;
    this.#connection.h2.consumed(this.#stream, bytes);
  }

  /** @param code the stream is reset with, unless it is over; -1: it is. */
  #leave(code: number): void {
    if (this.#over) return;
    this.#over = true;
    this.#giveCredit();
    if (code >= 0) this.#connection.h2.resetStream(this.#stream, code);
    this.#connection.finished(this, this.#stream);
  }
}

/** INVARIANT: the codec refuses a response whose first field is not a `:status` of three digits. */
function answerOf(fields: readonly Field[]): HostAnswer {
  return { status: Number(fields[0]?.value), fields, connectionNames: NO_NAMES };
}
