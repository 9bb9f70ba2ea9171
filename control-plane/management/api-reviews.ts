// Asks the API server who a token belongs to and what its user may do, with a deadline and a bound on how much is asked
// at once. An API server that does not answer means "unavailable", never "allowed".
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { messageOf } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";

export const REVIEW_WITHIN_MS = 5_000;
const MAX_CONCURRENT = 32;

export type Reviewed<T> =
  | { readonly kind: "answered"; readonly value: T }
  | { readonly kind: "unavailable"; readonly detail: string };

/** Runs calls of the API server for one purpose. */
export class ApiReviews {
  readonly #clock: Clock;
  readonly #log: Logger;
  #running = 0;

  constructor(clock: Clock, log: Logger) {
    this.#clock = clock;
    this.#log = log;
  }

  /** @param name of the review, for the log and the answer. */
  async ask<T>(name: string, call: () => Promise<T>): Promise<Reviewed<T>> {
    if (this.#running >= MAX_CONCURRENT)
      return { kind: "unavailable", detail: "too many requests are being checked; try again in a second" };
    this.#running++;
    const done = new AbortController();
    // The typed calls take no signal: one that hangs keeps its socket until the library gives up, but not its place here.
    const late = this.#clock.sleep(REVIEW_WITHIN_MS, done.signal).then((): never => {
      throw new Error(`no answer within ${REVIEW_WITHIN_MS / 1000} s`);
    });
    // When the answer came first, nobody waits for this any more.
    late.catch(() => {});
    try {
      return { kind: "answered", value: await Promise.race([call(), late]) };
    } catch (error) {
      this.#log.warn("management caller cannot be checked", { review: name, error: reasonOf(error) });
      return {
        kind: "unavailable",
        detail: `the API server did not answer the ${name}, so nobody is let in; see the control plane's log and try again`,
      };
    } finally {
      this.#running--;
      done.abort();
    }
  }
}

/** The first line, without the headers that the client library puts into its messages. */
function reasonOf(error: unknown): string {
  return messageOf(error).split("\nHeaders:", 1)[0]?.replaceAll("\n", " ").slice(0, 300) ?? "";
}
