// Limit leases as messages of the discovery stream (proto/mesh/v1/discovery.proto); what they mean stands in
// balance/lease-shares.ts.
import type { LimitLease__Output } from "../../proto/gen/countersign/mesh/v1/LimitLease.ts";
import type { LimitReport as LimitReportMessage } from "../../proto/gen/countersign/mesh/v1/LimitReport.ts";
import type { LimitLease, LimitReport } from "../balance/lease-shares.ts";

/** Feature of a sidecar that shares limits with the other replicas of its workload. */
export const LIMIT_LEASES = "limit-leases";

/** The limits of this replica, as the stream needs them; times are monotonic milliseconds. */
export interface SharedLimits {
  begin(nowMs: number): void;
  apply(lease: LimitLease, nowMs: number): LimitReport | undefined;
  report(nowMs: number): LimitReport | undefined;
}

const COUNTER_BYTES = 12;

export function decodeLease({ sequence, replicas, ttlMs, shares }: LimitLease__Output): LimitLease {
  return {
    ...{ sequence, replicas, ttlMs },
    shares: shares
      .filter(({ counter }) => counter.length === COUNTER_BYTES)
      .map(({ counter, share }) => ({ counter: counter.toString("base64url"), share })),
  };
}

export function encodeReport({ applied, uses }: LimitReport): LimitReportMessage {
  return {
    applied,
    uses: uses.map(({ counter, wanted }) => ({ counter: Buffer.from(counter, "base64url"), wanted })),
  };
}
