// PURE. Who may give out how much of a limit that the replicas of a workload share (README.md, "Limit leases"). Without a
// lease each replica has an even part of every limit. Of limits that some replica reports to be under pressure, parts
// are moved to where they are asked for: first taken from one replica, and given to another only when the first has said
// that it no longer counts on them, or its time is over. So the parts never add up to more than the whole.

/** How long a share holds at a replica that hears nothing more. */
export const LEASE_TTL_MS = 10_000;
/** What a message may take on its way, at most. */
const GRACE_MS = 2_000;
const RENEW_MS = 3_000;
/** A limit that was not under pressure for so long goes back to even parts. */
const IDLE_MS = 10_000;
/** How long the part of a replica that left is kept for it: it may be there still, and cut off. */
const HOLD_MS = LEASE_TTL_MS * 2 + GRACE_MS;
/** A new book knows nothing of leases that its predecessor gave: it waits until they are over. */
const YOUNG_MS = LEASE_TTL_MS + GRACE_MS;
/** Part of its even share that a replica keeps though it asks for nothing, so that its next call need not wait. */
const KEPT = 0.1;
/** For so long after the first word of a limit all keep even parts, and say what is asked of them. */
const LISTEN_MS = 2_000;
/** Changes smaller than this are not worth a message. */
const NOTICEABLE = 0.05;
const MAX_COUNTERS = 2_000;
/** Shares in one message. */
export const MAX_SHARES = 500;
/** Weight of the newest report in the demand of a replica. */
const NEWEST = 0.5;

export interface LimitUse {
  /** Of a counter, hex. */
  readonly counter: string;
  readonly wanted: number;
}

export interface Lease {
  readonly instance: string;
  readonly sequence: number;
  readonly replicas: number;
  readonly ttlMs: number;
  readonly shares: readonly { readonly counter: string; readonly share: number }[];
}

interface Member {
  readonly instance: string;
  sequence: number;
  /** Replicas that it was told of; 0: nothing yet. */
  toldReplicas: number;
  /** When it left; undefined: it is there. */
  leftMs: number | undefined;
}

/** What one replica has of one counter. */
interface Share {
  granted: number;
  /** What may be in force there until `granted` is acknowledged. */
  atMost: number;
  /** Of the lease with `granted`; 0: it is acknowledged. */
  sentIn: number;
  /** From then on an even part is in force, if nothing is sent. */
  validUntilMs: number;
  demand: number;
  heardMs: number;
  /** Nothing was sent, or what was sent is over: an even part is in force. */
  isEven: boolean;
}

interface SharedCounter {
  readonly shares: Map<string, Share>;
  readonly sinceMs: number;
  wantedMs: number;
  renewedMs: number;
}

/** The shared limits of one workload. */
class WorkloadLeases {
  readonly members = new Map<string, Member>();
  readonly #counters = new Map<string, SharedCounter>();
  #replicas = 1;

  get isEmpty(): boolean {
    return this.members.size === 0;
  }

  join(instance: string, replicas: number): Lease {
    const member = this.members.get(instance);
    if (member === undefined)
      this.members.set(instance, { instance, sequence: 0, toldReplicas: 0, leftMs: undefined });
    else {
      member.leftMs = undefined;
      // It gave up what it had above an even part when its stream began. What was not acknowledged may not have come.
      for (const { shares } of this.#counters.values()) {
        const share = shares.get(instance);
        if (share === undefined) continue;
        share.granted = Math.max(share.granted, share.atMost);
        share.atMost = share.granted;
        share.sentIn = 0;
        if (share.granted > this.#even()) share.isEven = true;
      }
    }
    this.#count(replicas);
    const joined = this.members.get(instance) ?? {
      instance,
      sequence: 0,
      toldReplicas: 0,
      leftMs: undefined,
    };
    return this.#lease(joined, []);
  }

  leave(instance: string, nowMs: number): void {
    const member = this.members.get(instance);
    if (member !== undefined) member.leftMs = nowMs;
  }

  report(instance: string, applied: number, uses: readonly LimitUse[], nowMs: number): void {
    const member = this.members.get(instance);
    if (member === undefined) return;
    for (const { shares } of this.#counters.values()) {
      const share = shares.get(instance);
      if (share === undefined || share.sentIn === 0 || applied < share.sentIn) continue;
      share.atMost = share.granted;
      share.sentIn = 0;
    }
    for (const { counter, wanted } of uses.slice(0, MAX_SHARES)) {
      const shared = this.#counter(counter, nowMs);
      if (shared === undefined) continue;
      shared.wantedMs = nowMs;
      const share = this.#share(shared, instance);
      share.demand += (wanted - share.demand) * NEWEST;
      share.heardMs = nowMs;
    }
  }

  tick(replicas: number, isYoung: boolean, nowMs: number): Lease[] {
    for (const [instance, { leftMs }] of this.members) {
      if (leftMs === undefined || nowMs - leftMs < HOLD_MS) continue;
      this.members.delete(instance);
      for (const { shares } of this.#counters.values()) shares.delete(instance);
    }
    this.#count(replicas);
    const changes = new Map<string, { counter: string; share: Share }[]>();
    if (!isYoung)
      for (const [counter, shared] of this.#counters) this.#divide(counter, shared, changes, nowMs);
    const leases: Lease[] = [];
    for (const member of this.members.values()) {
      if (member.leftMs !== undefined) continue;
      const mine = changes.get(member.instance) ?? [];
      if (mine.length === 0 && member.toldReplicas !== this.#replicas) leases.push(this.#lease(member, []));
      for (let at = 0; at < mine.length; at += MAX_SHARES)
        leases.push(this.#lease(member, mine.slice(at, at + MAX_SHARES)));
    }
    return leases;
  }

  #count(replicas: number): void {
    let live = 0;
    for (const { leftMs } of this.members.values()) if (leftMs === undefined) live++;
    this.#replicas = Math.max(1, replicas, live);
  }

  #even(): number {
    return 1 / this.#replicas;
  }

  #counter(id: string, nowMs: number): SharedCounter | undefined {
    let shared = this.#counters.get(id);
    if (shared === undefined) {
      if (this.#replicas < 2 || this.#counters.size >= MAX_COUNTERS) return undefined;
      shared = { shares: new Map(), sinceMs: nowMs, wantedMs: nowMs, renewedMs: Number.NEGATIVE_INFINITY };
      this.#counters.set(id, shared);
    }
    return shared;
  }

  #share({ shares }: SharedCounter, instance: string): Share {
    let share = shares.get(instance);
    if (share === undefined) {
      const even = this.#even();
      share = {
        ...{ granted: even, atMost: even, sentIn: 0, demand: 0, isEven: true },
        validUntilMs: Number.NEGATIVE_INFINITY,
        heardMs: Number.NEGATIVE_INFINITY,
      };
      shares.set(instance, share);
    }
    return share;
  }

  /** Brings what is known of a replica's share up to date. @returns the most that may be in force there. */
  #inForce(share: Share, nowMs: number): number {
    if (nowMs >= share.validUntilMs) share.isEven = true;
    if (share.isEven) {
      share.granted = this.#even();
      share.atMost = share.granted;
      share.sentIn = 0;
    }
    return Math.max(share.granted, share.atMost);
  }

  #divide(
    id: string,
    shared: SharedCounter,
    changes: Map<string, { counter: string; share: Share }[]>,
    nowMs: number,
  ): void {
    const { shares } = shared;
    if (nowMs - shared.wantedMs > IDLE_MS) {
      // No more word of it: replicas go back to even parts by themselves, those that have more first.
      let isOver = true;
      for (const { validUntilMs } of shares.values()) isOver &&= nowMs >= validUntilMs + LEASE_TTL_MS;
      if (isOver) this.#counters.delete(id);
      return;
    }
    const live: { readonly member: Member; readonly share: Share; target: number }[] = [];
    let budget = 0;
    let demand = 0;
    for (const member of this.members.values()) {
      const share = this.#share(shared, member.instance);
      const inForce = this.#inForce(share, nowMs);
      if (member.leftMs !== undefined) {
        // Its even part is not ours to divide; what it may have beyond that is not there for others.
        budget -= Math.max(0, inForce - this.#even());
        continue;
      }
      if (nowMs - share.heardMs > 1_500) share.demand *= 1 - NEWEST;
      budget += this.#even();
      demand += share.demand;
      live.push({ member, share, target: 0 });
    }
    budget = Math.max(0, budget);
    const even = budget / Math.max(1, live.length);
    const isEven = demand <= 0 || nowMs - shared.sinceMs < LISTEN_MS;
    const kept = KEPT * even;
    let spare = budget;
    let needed = 0;
    for (const one of live) {
      const { share } = one;
      one.target = isEven ? even : kept + ((budget - kept * live.length) * share.demand) / demand;
      if (one.target < share.granted * (1 - NOTICEABLE)) this.#grant(share, one.target, nowMs);
      spare -= this.#inForce(share, nowMs);
      needed += Math.max(0, one.target - share.granted);
    }
    const part = needed > 0 ? Math.min(1, Math.max(0, spare) / needed) : 0;
    const renews = nowMs - shared.renewedMs >= RENEW_MS;
    if (renews) shared.renewedMs = nowMs;
    for (const { member, share, target } of live) {
      const more = Math.max(0, target - share.granted) * part;
      if (more > share.granted * NOTICEABLE) this.#grant(share, share.granted + more, nowMs);
      if (share.sentIn >= 0 && !renews) continue;
      share.isEven = false;
      share.validUntilMs = nowMs + LEASE_TTL_MS + GRACE_MS;
      const list = changes.get(member.instance) ?? [];
      changes.set(member.instance, list);
      list.push({ counter: id, share });
    }
  }

  /** Sets what a replica is to have; the lease that says so gets its number when it is made. */
  #grant(share: Share, granted: number, nowMs: number): void {
    share.atMost = this.#inForce(share, nowMs);
    share.isEven = false;
    share.validUntilMs = nowMs + LEASE_TTL_MS + GRACE_MS;
    share.granted = granted;
    share.sentIn = -1;
  }

  #lease(member: Member, shares: readonly { counter: string; share: Share }[]): Lease {
    member.sequence++;
    member.toldReplicas = this.#replicas;
    for (const { share } of shares) if (share.sentIn !== 0) share.sentIn = member.sequence;
    return {
      instance: member.instance,
      sequence: member.sequence,
      replicas: this.#replicas,
      ttlMs: LEASE_TTL_MS,
      shares: shares.map(({ counter, share }) => ({ counter, share: share.granted })),
    };
  }
}

/** The shared limits of all workloads whose sidecars this control plane serves. */
export class LeaseBook {
  readonly #workloads = new Map<string, WorkloadLeases>();
  readonly #replicasOf: (workload: string) => number;
  readonly #youngUntilMs: number;

  /** @param replicasOf replicas of a workload, wherever they are connected; 0: not known. */
  constructor(replicasOf: (workload: string) => number, nowMs: number) {
    this.#replicasOf = replicasOf;
    this.#youngUntilMs = nowMs + YOUNG_MS;
  }

  /** A sidecar that takes leases connected. @returns what to tell it first. */
  join(workload: string, instance: string): Lease {
    let leases = this.#workloads.get(workload);
    if (leases === undefined) {
      leases = new WorkloadLeases();
      this.#workloads.set(workload, leases);
    }
    return leases.join(instance, this.#replicasOf(workload));
  }

  leave(workload: string, instance: string, nowMs: number): void {
    this.#workloads.get(workload)?.leave(instance, nowMs);
  }

  /** @param applied sequence of the last lease that is in force at the sidecar. */
  report(
    workload: string,
    instance: string,
    applied: number,
    uses: readonly LimitUse[],
    nowMs: number,
  ): void {
    this.#workloads.get(workload)?.report(instance, applied, uses, nowMs);
  }

  /** Time passed; call it about once a second. */
  tick(nowMs: number): { readonly workload: string; readonly lease: Lease }[] {
    const out: { readonly workload: string; readonly lease: Lease }[] = [];
    for (const [workload, leases] of this.#workloads) {
      const isYoung = nowMs < this.#youngUntilMs;
      for (const lease of leases.tick(this.#replicasOf(workload), isYoung, nowMs))
        out.push({ workload, lease });
      if (leases.isEmpty) this.#workloads.delete(workload);
    }
    return out;
  }
}
