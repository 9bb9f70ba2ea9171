// PURE. What this replica may give out of limits that all replicas of its workload share: even parts, or what the control
// plane leased to it. A lease above the even part ends with its time, one below it a whole time later, so that parts never
// add up to more than the limit when the control plane is away.
import type { LimitShares } from "./limit-counters.ts";

/** A lease as it arrived. */
export interface LimitLease {
  readonly sequence: number;
  readonly replicas: number;
  readonly ttlMs: number;
  readonly shares: readonly { readonly counter: string; readonly share: number }[];
}

/** What is reported; ids of counters are 16 characters of base64url. */
export interface LimitReport {
  readonly applied: number;
  readonly uses: readonly { readonly counter: string; readonly wanted: number }[];
}

/** Which limits are under pressure; `RateLimiter` knows. */
export interface PressedLimits {
  takePressed(
    max: number,
    isLeased: (id: string) => boolean,
    nowMs: number,
  ): { readonly id: string; readonly wanted: number }[];
}

interface Held {
  readonly share: number;
  readonly untilMs: number;
  /** From then on it means nothing. */
  readonly overMs: number;
}

const MAX_LEASES = 4_000;
const MAX_USES = 500;
const MAX_TTL_MS = 60_000;
/** A control plane that has just begun may not know all replicas yet: for so long fewer than before are not believed. */
const BELIEVE_MS = 12_000;

export class LeaseShares implements LimitShares {
  readonly #leases = new Map<string, Held>();
  #told = 1;
  /** Of the stream before, until the new one is believed. */
  #before = 1;
  #believeFromMs = Number.NEGATIVE_INFINITY;
  #applied = 0;
  #reported = 0;

  get replicas(): number {
    return Math.max(this.#told, this.#before);
  }

  shareOf(id: string, nowMs: number): number {
    if (this.#before > this.#told && nowMs >= this.#believeFromMs) this.#before = this.#told;
    const even = 1 / this.replicas;
    const held = this.#leases.get(id);
    if (held === undefined) return even;
    if (nowMs < held.untilMs) return held.share;
    if (nowMs < held.overMs) return Math.min(held.share, even);
    this.#leases.delete(id);
    return even;
  }

  /** A stream to a control plane, maybe another one, begins: it counts on no more than even parts here. */
  begin(nowMs: number): void {
    this.#before = this.replicas;
    this.#believeFromMs = nowMs + BELIEVE_MS;
    this.#applied = 0;
    this.#reported = 0;
    const even = 1 / this.replicas;
    for (const [id, { share }] of this.#leases) if (share > even) this.#leases.delete(id);
  }

  /** @returns the answer that is due at once; undefined: none. */
  apply(lease: LimitLease, nowMs: number): LimitReport | undefined {
    if (lease.sequence <= this.#applied) return undefined;
    if (this.#leases.size + lease.shares.length > MAX_LEASES) this.#forget(nowMs);
    // Twice what a control plane leases. What is not held must not be acknowledged.
    if (this.#leases.size + lease.shares.length > MAX_LEASES) return undefined;
    this.#applied = lease.sequence;
    this.#told = Math.max(1, lease.replicas);
    const ttlMs = Math.min(MAX_TTL_MS, lease.ttlMs);
    for (const { counter, share } of lease.shares) {
      if (!(share > 0 && share <= 1)) continue;
      this.#leases.set(counter, { share, untilMs: nowMs + ttlMs, overMs: nowMs + 2 * ttlMs });
    }
    if (lease.shares.length === 0) return undefined;
    this.#reported = this.#applied;
    return { applied: this.#applied, uses: [] };
  }

  /** What to report now; call it about once a second. @returns undefined: nothing. */
  report(limits: PressedLimits, nowMs: number): LimitReport | undefined {
    const pressed = limits.takePressed(MAX_USES, (id) => this.#leases.has(id), nowMs);
    if (pressed.length === 0 && this.#reported === this.#applied) return undefined;
    this.#reported = this.#applied;
    return { applied: this.#applied, uses: pressed.map(({ id, wanted }) => ({ counter: id, wanted })) };
  }

  #forget(nowMs: number): void {
    for (const [id, { overMs }] of this.#leases) if (nowMs >= overMs) this.#leases.delete(id);
  }
}
