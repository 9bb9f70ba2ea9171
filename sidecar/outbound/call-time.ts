// PURE. How long one call, its present attempt and its silence may last. Long limits are left to the sweep of the connection
// that the request came on, short ones are told by the wheel of all requests.
import type { Timed } from "../balance/deadline-wheel.ts";
import type { Deadlines } from "../balance/deadlines.ts";
import type { CallFacts } from "./call-facts.ts";
import type { ServiceTraffic } from "./service-traffic.ts";

export class CallTime implements Timed {
  readonly #deadlines: Pick<Deadlines, "add" | "remove">;
  readonly #owner: { timeOut(): void };
  /** Monotonic milliseconds after which the answer comes too late, or the next attempt is due. */
  deadlineMs: number;
  wheelSlot = -1;
  wheelIndex = -1;
  #idleMs: number;
  /** End of the call. */
  #endMs = Number.POSITIVE_INFINITY;
  /** Of what limits it at the moment: the call's, or the attempt's. */
  #limitMs = Number.POSITIVE_INFINITY;
  /** Its limits are too short for the sweep. */
  #isPrecise = false;

  /**
   * @param startedMs monotonic, as every time here.
   * @param idleMs until it is known where the call goes.
   */
  constructor(
    deadlines: Pick<Deadlines, "add" | "remove">,
    owner: { timeOut(): void },
    startedMs: number,
    idleMs: number,
  ) {
    this.#deadlines = deadlines;
    this.#owner = owner;
    this.#idleMs = idleMs;
    this.deadlineMs = startedMs + idleMs;
  }

  get endMs(): number {
    return this.#endMs;
  }

  /** Sets the limits of the call: it is known where it goes. */
  limit(facts: CallFacts, { timing }: Pick<ServiceTraffic, "timing">): void {
    const { startedMs, timeoutMs, route } = facts;
    const requestMs = route?.requestTimeoutMs ?? timing.requestMs;
    // A gRPC call may be silent as long as its deadline lets it, and for ever without one.
    this.#idleMs = facts.isGrpc ? timing.grpcIdleMs : timing.idleMs;
    this.#endMs = startedMs + Math.min(requestMs, timeoutMs);
    this.#limitMs = this.#endMs;
    this.touch(startedMs);
    this.#isPrecise =
      timing.isPrecise || timeoutMs !== Number.POSITIVE_INFINITY || route?.requestTimeoutMs !== undefined;
    if (this.#isPrecise) this.#deadlines.add(this);
  }

  /** An attempt begins. @param tryMs how long it may take; infinite: as long as the call. */
  beginTry(nowMs: number, tryMs: number): void {
    if (tryMs !== Number.POSITIVE_INFINITY) {
      this.#limitMs = Math.min(this.#endMs, nowMs + tryMs);
      this.#rearm(this.#limitMs);
    }
    this.touch(nowMs);
  }

  /** The attempt has failed. */
  endTry(): void {
    this.#limitMs = this.#endMs;
  }

  /** The next attempt comes then. */
  waitUntil(dueMs: number): void {
    this.#rearm(dueMs);
  }

  /** It has come. */
  goOn(nowMs: number): void {
    this.touch(nowMs);
    if (this.#isPrecise) this.#deadlines.add(this);
  }

  /** The answer begins: the attempt's limit was for that. */
  answerBegins(nowMs: number): void {
    this.#limitMs = this.#endMs;
    this.touch(nowMs);
  }

  /** Both directions are bytes: from now on only silence may have a limit. */
  switched(nowMs: number, streamMs: number): void {
    this.close();
    this.#idleMs = streamMs;
    this.#limitMs = Number.POSITIVE_INFINITY;
    this.touch(nowMs);
  }

  /** Something moved. */
  touch(nowMs: number): void {
    this.deadlineMs = Math.min(nowMs + this.#idleMs, this.#limitMs);
  }

  timeOut(): void {
    this.#owner.timeOut();
  }

  close(): void {
    if (this.wheelSlot !== -1) this.#deadlines.remove(this);
  }

  /** Comes before what the wheel knows. */
  #rearm(deadlineMs: number): void {
    this.#deadlines.remove(this);
    this.deadlineMs = deadlineMs;
    this.#deadlines.add(this);
  }
}
