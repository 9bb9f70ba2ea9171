// The body of one request as it comes from the caller: whether it has the announced length and comes fast enough, what of it
// waits (for the decision, or for the application), and what the caller has no credit for yet.
import type { AnswerWriter } from "../wire/answers.ts";
import type { Field } from "../wire/field.ts";
import { BodyRate } from "./body-rate.ts";
import type { CallFacts } from "./call-facts.ts";
import type { CallerStream } from "./caller-side.ts";
import type { InboundServices } from "./services.ts";
import { WaitingBody } from "./waiting-body.ts";

const EMPTY = Buffer.alloc(0);
const NO_FIELDS: readonly Field[] = [];

type BodyServices = Pick<InboundServices, "waiting" | "limits" | "timeouts">;

export class RequestBody {
  readonly #services: BodyServices;
  readonly #answers: AnswerWriter<CallerStream>;
  readonly #stream: CallerStream;
  readonly #facts: CallFacts;
  /** The caller has sent all of it; of a switched connection: its direction is closed. */
  isComplete = false;
  /** Not all of its messages have been looked at: its end does not go on before. */
  holdsEnd = false;
  trailers: readonly Field[] = NO_FIELDS;
  #waiting: WaitingBody | undefined;
  #rate: BodyRate | undefined;
  /** Bytes that the caller has no credit for. */
  #owed = 0;

  /** @param facts get the bytes that came. */
  constructor(
    services: BodyServices,
    answers: AnswerWriter<CallerStream>,
    stream: CallerStream,
    facts: CallFacts,
  ) {
    this.#services = services;
    this.#answers = answers;
    this.#stream = stream;
    this.#facts = facts;
  }

  /** Counts what came. */
  arrived(chunk: Buffer, endStream: boolean): void {
    this.#facts.requestBytes += chunk.length;
    this.#owed += chunk.length;
    if (endStream) this.isComplete = true;
  }

  /** Whether what came so far, or all of it, differs from the announced length. */
  get hasWrongLength(): boolean {
    const { requestBytes, head } = this.#facts;
    const { contentLength } = head;
    return (
      contentLength >= 0 &&
      (requestBytes > contentLength || (this.isComplete && requestBytes < contentLength))
    );
  }

  /**
   * Whether it came too slowly. Call it about twice a second.
   *
   * @param isHeld it is not the caller that it waits for.
   */
  isTooSlow(nowMs: number, isHeld: boolean): boolean {
    const { requestBytes } = this.#facts;
    const { limits, timeouts } = this.#services;
    this.#rate ??= new BodyRate(nowMs, requestBytes);
    const pace = { bodyRate: limits.bodyRate, bodyMs: timeouts.bodyMs };
    return this.#rate.isTooSlow(nowMs, requestBytes, isHeld || this.#owed > 0, pace);
  }

  /** Lets the caller send as much again as came. */
  giveCredit(): void {
    if (this.#owed === 0) return;
    const bytes = this.#owed;
    this.#owed = 0;
    this.#answers.consumed(this.#stream, bytes);
  }

  // --- what waits ------------------------------------------------------------------------------------------------

  /** Something of it waits, or will: what comes next must queue behind it. */
  get isWaiting(): boolean {
    return this.#waiting !== undefined;
  }

  /** Not to be changed, and not to be used after the next `wait`. */
  get waitingBytes(): Buffer {
    return this.#waiting?.bytes ?? EMPTY;
  }

  get waitingLength(): number {
    return this.#waiting?.length ?? 0;
  }

  /** @param chunk copied; without one, what comes will wait. @returns false: there is no room for it. */
  wait(chunk: Buffer = EMPTY): boolean {
    this.#waiting ??= new WaitingBody(this.#services.waiting);
    return chunk.length === 0 || this.#waiting.add(chunk);
  }

  /** What was sent waits again, before what has come since. @returns false: there is no room for it. */
  waitAgain(sent: readonly Buffer[]): boolean {
    if (sent.length === 0) return true;
    const since = this.takeWaiting();
    for (const chunk of sent) if (!this.wait(chunk)) return false;
    return this.wait(since);
  }

  /** What waited; its room is free again. */
  takeWaiting(): Buffer {
    const bytes = this.#waiting?.release() ?? EMPTY;
    this.#waiting = undefined;
    return bytes;
  }
}
