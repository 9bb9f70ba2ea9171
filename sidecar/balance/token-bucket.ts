// PURE. The arithmetic of one limit: a bucket of units that refills evenly (the same as GCRA, ITU-T I.371 annex A), of
// which this replica holds a share. What a changed share gains comes with time alone, so that pieces of one bucket that
// are moved about between replicas never hold more than the whole did.

/** A limit as a bucket: `amount` units in `perMs`, at most `burst` at once. */
export interface BucketLimit {
  readonly amount: number;
  readonly perMs: number;
  readonly burst: number;
  /** What the smallest share can hold at least: 1 where calls are counted, or a small share would admit nothing ever. */
  readonly floor: number;
}

/** Some of a bucket. */
export interface Bucket {
  /** Units left at `atMs`; below 0 after a charge that was known only afterwards. */
  level: number;
  atMs: number;
}

/** Sums of fractions must not refuse the last unit of a full bucket. */
const ALLOWANCE = 1e-6;

/** What a bucket holds when it is full. @param share of the whole limit, above 0 and at most 1. */
export function capacityOf(limit: BucketLimit, share: number): number {
  return Math.max(limit.floor, limit.burst * share);
}

/** Milliseconds in which one unit comes back. */
function intervalMs(limit: BucketLimit, share: number): number {
  return limit.perMs / (limit.amount * share);
}

/** Brings a bucket up to `nowMs`. An earlier time than before adds nothing. */
export function refill(bucket: Bucket, limit: BucketLimit, share: number, nowMs: number): void {
  const elapsedMs = nowMs - bucket.atMs;
  if (elapsedMs > 0) {
    bucket.level += elapsedMs / intervalMs(limit, share);
    bucket.atMs = nowMs;
  }
  const capacity = capacityOf(limit, share);
  if (bucket.level > capacity) bucket.level = capacity;
}

/** Milliseconds until a bucket that was brought up to date has `units`; 0: now. */
export function waitMs(bucket: Bucket, limit: BucketLimit, share: number, units: number): number {
  const missing = units - bucket.level;
  return missing <= ALLOWANCE ? 0 : (missing - ALLOWANCE) * intervalMs(limit, share);
}

/** Milliseconds until a bucket that was brought up to date is full. */
export function fullInMs(bucket: Bucket, limit: BucketLimit, share: number): number {
  return Math.max(0, capacityOf(limit, share) - bucket.level) * intervalMs(limit, share);
}
