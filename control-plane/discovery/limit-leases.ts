// Limit leases as messages: the lease book (lease-book.ts) at the discovery port.
import type { ControlPlaneMessage } from "../../proto/gen/countersign/mesh/v1/ControlPlaneMessage.ts";
import type { LimitReport__Output } from "../../proto/gen/countersign/mesh/v1/LimitReport.ts";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { type Lease, LeaseBook } from "./lease-book.ts";

/** Feature of a sidecar that shares limits with the other replicas of its workload. */
export const LIMIT_LEASES = "limit-leases";

const COUNTER_BYTES = 12;
const MOST_WANTED = 1e12;

export class LimitLeases {
  readonly #book: LeaseBook;
  readonly #clock: Clock;

  /** @param replicas see `DiscoveryTables`. */
  constructor(replicas: (workload: string) => number, clock: Clock) {
    this.#clock = clock;
    this.#book = new LeaseBook(replicas, clock.monotonicMs());
  }

  /** A sidecar with the feature said hello. @returns its first lease. */
  join(workload: string, instance: string): ControlPlaneMessage {
    return messageOf(this.#book.join(workload, instance));
  }

  leave(workload: string, instance: string): void {
    this.#book.leave(workload, instance, this.#clock.monotonicMs());
  }

  report(workload: string, instance: string, { applied, uses }: LimitReport__Output): void {
    const known = uses
      .filter(
        ({ counter, wanted }) => counter.length === COUNTER_BYTES && wanted >= 0 && wanted <= MOST_WANTED,
      )
      .map(({ counter, wanted }) => ({ counter: counter.toString("hex"), wanted }));
    this.#book.report(workload, instance, applied, known, this.#clock.monotonicMs());
  }

  /** Leases that are due. */
  tick(): { readonly workload: string; readonly instance: string; readonly message: ControlPlaneMessage }[] {
    return this.#book
      .tick(this.#clock.monotonicMs())
      .map(({ workload, lease }) => ({ workload, instance: lease.instance, message: messageOf(lease) }));
  }
}

function messageOf({ sequence, replicas, ttlMs, shares }: Lease): ControlPlaneMessage {
  return {
    limitLease: {
      ...{ sequence, replicas, ttlMs },
      shares: shares.map(({ counter, share }) => ({ counter: Buffer.from(counter, "hex"), share })),
    },
  };
}
