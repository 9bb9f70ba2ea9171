// The attempts of one request: where it was sent, and whether it is sent once more. Made with the first failure.
import { backoffMs } from "../core/runtime/backoff.ts";
import type { CallFacts } from "./call-facts.ts";
import type { EndpointGroup } from "./group.ts";
import type { Member } from "./member.ts";
import { type FailureCause, isNamed, isRepeatable, MAX_SAFE_RETRIES, RETRY_BACKOFF } from "./retry.ts";
import type { OutboundServices } from "./services.ts";

export class Attempts {
  readonly tried = new Set<Member>();
  /** After attempts that certainly were not processed. */
  #safe = 0;
  /** After ones that may have been. */
  #repeated = 0;

  /**
   * Plans the next attempt after one that failed, and takes it from the budget.
   *
   * @param asksForPause the endpoint wants to be left alone, so another one must be there.
   * @param leftMs what is left of the call's time.
   * @returns milliseconds to wait before it; undefined: the failure stands.
   */
  plan(
    cause: FailureCause,
    asksForPause: boolean,
    leftMs: number,
    facts: CallFacts,
    services: OutboundServices,
  ): number | undefined {
    const group = facts.destination?.group;
    if (group === undefined || leftMs <= 0) return undefined;
    if (cause === "connect-failure" || cause === "refused") {
      if (this.#safe >= MAX_SAFE_RETRIES) return undefined;
      this.#safe++;
      count(services, group, cause, "sent");
      return 0;
    }
    const { retries } = group.traffic;
    if (
      retries === undefined ||
      this.#repeated >= retries.attempts ||
      !isNamed(retries, cause) ||
      !isRepeatable(retries, facts.head.method, facts.classified)
    )
      return undefined;
    if (asksForPause && !group.hasOther(this.tried)) {
      count(services, group, cause, "no_endpoint");
      return undefined;
    }
    const delayMs = backoffMs(this.#repeated, RETRY_BACKOFF, services.random());
    if (delayMs >= leftMs) return undefined;
    if (!group.budget.retry(services.clock.monotonicMs(), retries.budgetPercent)) {
      count(services, group, cause, "no_budget");
      return undefined;
    }
    this.#repeated++;
    count(services, group, cause, "sent");
    return delayMs;
  }
}

function count(
  { metrics }: OutboundServices,
  { service }: EndpointGroup,
  cause: FailureCause,
  result: "sent" | "no_budget" | "no_endpoint",
): void {
  metrics.retries.add(metrics.retries.series(service, cause, result));
}
