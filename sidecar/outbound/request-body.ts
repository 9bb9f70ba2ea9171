// The body of one request of the application: kept until there is a stream for it, as much as the application's window lets
// come, and a small one until the answer begins, to be sent again.
import type { AnswerWriter } from "../wire/answers.ts";
import type { Field } from "../wire/field.ts";
import { ownCopy } from "../wire/own-memory.ts";
import type { AppStream } from "./app-side.ts";
import type { CallFacts } from "./call-facts.ts";
import type { RequestCopies } from "./mirror.ts";
import { MAX_REPLAY_BYTES } from "./retry.ts";

const NOTHING: readonly Buffer[] = [];

export class RequestBody {
  readonly #answers: AnswerWriter<AppStream>;
  readonly #stream: AppStream;
  readonly #facts: CallFacts;
  /** All of the request has come, or no more of it is wanted. */
  isComplete = false;
  trailers: readonly Field[] | undefined;
  #kept: Buffer[] | undefined;
  #keptBytes = 0;
  /** Everything that was sent is kept, and no answer has begun. */
  #isReplayable = true;
  /** Bytes that the application has no credit for. */
  #owed = 0;
  #copies: RequestCopies | undefined;

  /** @param facts get the bytes that came. */
  constructor(answers: AnswerWriter<AppStream>, stream: AppStream, facts: CallFacts) {
    this.#answers = answers;
    this.#stream = stream;
    this.#facts = facts;
  }

  /** Whether the request can be sent once more. */
  get isReplayable(): boolean {
    return this.#isReplayable;
  }

  arrived(chunk: Buffer, endStream: boolean): void {
    this.#facts.requestBytes += chunk.length;
    this.#owed += chunk.length;
    if (endStream) this.isComplete = true;
    if (this.#copies === undefined) return;
    this.#copies.take(chunk);
    if (endStream) this.#copies.end();
  }

  /** The request is complete. */
  ended(trailers: readonly Field[]): void {
    this.isComplete = true;
    this.trailers = trailers;
    this.#copies?.end();
  }

  /** Mirrors what has come, and what comes. */
  copyTo(copies: RequestCopies): void {
    this.#copies = copies;
    for (const chunk of this.#kept ?? NOTHING) copies.take(chunk);
    if (this.isComplete) copies.end();
  }

  /** What came before there is a stream for it. */
  hold(chunk: Buffer): void {
    // A copy: the view would keep the whole received buffer alive.
    if (chunk.length > 0) this.#keep(ownCopy(chunk));
  }

  /** What is sent as it comes. */
  remember(chunk: Buffer): void {
    if (!this.#isReplayable || chunk.length === 0) return;
    this.#keep(chunk);
    this.#keepLittle();
  }

  /** Everything that is kept, to be sent now. A body that is too long to be kept cannot be sent again. */
  takeKept(): readonly Buffer[] {
    const kept = this.#kept ?? NOTHING;
    this.#keepLittle();
    return kept;
  }

  /** It is not sent again: an answer has begun, or the exchange is over. */
  forget(): void {
    this.#isReplayable = false;
    this.#kept = undefined;
  }

  /** Lets the application send more. */
  giveCredit(): void {
    if (this.#owed === 0) return;
    const bytes = this.#owed;
    this.#owed = 0;
    this.#answers.consumed(this.#stream, bytes);
  }

  /** The exchange is over. */
  close(): void {
    this.forget();
    this.#copies?.abandon();
    this.giveCredit();
  }

  #keep(chunk: Buffer): void {
    this.#kept ??= [];
    this.#kept.push(chunk);
    this.#keptBytes += chunk.length;
  }

  #keepLittle(): void {
    if (this.#keptBytes > MAX_REPLAY_BYTES) this.forget();
  }
}
