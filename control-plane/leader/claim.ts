// Who may hold a Lease, decided from what one candidate has seen of it. PURE. No clock of another machine is believed: a
// holder is judged by how long its record has not changed, on the candidate's own monotonic clock.

/** What matters of a Lease object. */
export interface LeaseRecord {
  /** `resourceVersion`: another one is another record. */
  readonly version: string;
  /** Empty: released. */
  readonly holder: string;
  /** As its holder states it, milliseconds. */
  readonly durationMs: number;
  readonly transitions: number;
}

export interface LeaseTiming {
  /** How long a record must not have changed until others may take it. */
  readonly leaseMs: number;
  /** A leader that could not renew for this long gives up; counted from the sending of the last renewal that came through. */
  readonly renewDeadlineMs: number;
  readonly renewEveryMs: number;
  /** Between looks of a candidate, and between attempts of a leader whose renewal failed. */
  readonly retryEveryMs: number;
  /** For one call of the API. */
  readonly callMs: number;
}

/** 5 s between giving up and being followed: clocks may differ in speed by a third before two could lead. */
export const DEFAULT_TIMING: LeaseTiming = {
  leaseMs: 15_000,
  renewDeadlineMs: 10_000,
  renewEveryMs: 5_000,
  retryEveryMs: 1_500,
  callMs: 4_000,
};

/** The record as last seen, and since when it is known to be so. */
export interface Sighting {
  /** undefined: there is no such Lease. */
  readonly record: LeaseRecord | undefined;
  /** Monotonic milliseconds at which its present version was first read. */
  readonly sinceMs: number;
  /** Whether somebody held the Lease when it was last seen, if it is gone. */
  readonly wasHeld: boolean;
  /** How long its holder may count on it, milliseconds. */
  readonly holdsMs: number;
}

/** A holder's word on its own duration counts up to this. */
const MAX_LEASE_MS = 60_000;

/** @param nowMs monotonic, read after the answer came. */
export function sight(
  before: Sighting | undefined,
  record: LeaseRecord | undefined,
  nowMs: number,
  timing: LeaseTiming,
): Sighting {
  if (before && before.record?.version === record?.version) return before;
  if (record === undefined) {
    const wasHeld = before?.record !== undefined && before.record.holder !== "";
    return { record, sinceMs: nowMs, wasHeld, holdsMs: before?.holdsMs ?? timing.leaseMs };
  }
  const holdsMs = Math.min(MAX_LEASE_MS, Math.max(timing.leaseMs, record.durationMs));
  return { record, sinceMs: nowMs, wasHeld: false, holdsMs };
}

export type Claim =
  | { readonly kind: "create" }
  | { readonly kind: "take" }
  /** For so many milliseconds, unless the record changes. */
  | { readonly kind: "wait"; readonly forMs: number };

/**
 * What a candidate may do now. A Lease of its own name is one that a former process of this identity left.
 *
 * A Lease that somebody deletes while it is held is made again at once by its holder, and by others only after the
 * holder must have given up; a candidate that never saw it cannot know and makes it at once.
 */
export function claim(sighting: Sighting, identity: string, nowMs: number): Claim {
  const { record, sinceMs, wasHeld, holdsMs } = sighting;
  const isFree = record === undefined ? !wasHeld : record.holder === "" || record.holder === identity;
  const forMs = sinceMs + holdsMs - nowMs;
  if (!isFree && forMs > 0) return { kind: "wait", forMs };
  return { kind: record === undefined ? "create" : "take" };
}
