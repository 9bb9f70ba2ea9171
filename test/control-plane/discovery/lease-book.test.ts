// The lease book against real limiters over a simulated network: messages are late, streams break, replicas are cut off,
// the control plane begins anew.
import { hash } from "node:crypto";
import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { LEASE_TTL_MS, type Lease, LeaseBook } from "../../../control-plane/discovery/lease-book.ts";
import { LeaseShares, type LimitReport } from "../../../sidecar/balance/lease-shares.ts";
import { counterKey } from "../../../sidecar/balance/limit-key.ts";
import { createRateLimiter } from "../../../sidecar/balance/limits.ts";
import type { Call } from "../../../sidecar/core/policy/call.ts";
import type { RateLimit } from "../../../sidecar/core/policy/rule.ts";
import { Dice, randomCall } from "../../conformance/random-world.ts";

const WORKLOAD = "ml/things";
const CALL: Call = { ...randomCall(new Dice(3)), user: undefined };
/** Of the one counter there is, as every replica computes it. */
const COUNTER = hash(
  "sha256",
  JSON.stringify(["p", "r", "requests", counterKey(["workload"], WORKLOAD, CALL)]),
  "base64url",
).slice(0, 16);
const STEP_MS = 50;
/** Longest way of a message; the book reckons with 2 s. */
const LATEST_MS = 1_500;

class Replica {
  readonly name: string;
  readonly shares = new LeaseShares();
  readonly limiter;
  readonly #winners;
  connected = false;
  /** Grows with each stream: what belongs to an earlier one is not delivered. */
  stream = 0;
  reportAtMs = 0;
  admitted = 0;
  asked = 0;
  #owed = 0;

  constructor(name: string, limit: RateLimit) {
    this.name = name;
    this.limiter = createRateLimiter({ maxKeys: 100, shares: this.shares });
    this.#winners = {
      winners: [{ policy: "p", policyName: "p", rule: "r", ruleIndex: 0, with: { rateLimit: limit } }],
    };
  }

  /** Asks for as many calls as come in a step. */
  ask(perSecond: number, nowMs: number): number {
    this.#owed += (perSecond * STEP_MS) / 1_000;
    let admitted = 0;
    for (; this.#owed >= 1; this.#owed--) {
      this.asked++;
      if (this.limiter.admit({ program: { id: WORKLOAD } }, this.#winners, CALL, nowMs).allowed) admitted++;
    }
    this.admitted += admitted;
    return admitted;
  }

  /** What it may give out. */
  share(nowMs: number): number {
    return this.shares.shareOf(COUNTER, nowMs);
  }
}

interface Weather {
  readonly seed: number;
  /** Each per thousand steps. */
  readonly breaks: number;
  readonly restarts: number;
  readonly partitions: number;
}

class World {
  readonly replicas: Replica[];
  readonly #known: boolean;
  readonly #random: () => number;
  /** Calm until all have been told how many they are, where that is to be so. */
  weather: Weather;
  readonly #mail: { readonly atMs: number; readonly deliver: () => void }[] = [];
  readonly #lastAtMs = new Map<string, number>();
  #book: LeaseBook;
  #cutOffUntilMs = new Map<string, number>();
  nowMs = 0;
  #tickAtMs = 0;
  #epoch = 0;

  /** @param known whether the control plane knows how many replicas there are, as it does in a cluster. */
  constructor(count: number, limit: RateLimit, known: boolean, weather: Weather) {
    let state = weather.seed + 1;
    this.#random = () => {
      state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fff_ffff;
      return state / 0x8000_0000;
    };
    this.weather = weather;
    this.#known = known;
    this.replicas = Array.from({ length: count }, (_, i) => new Replica(`r${i}`, limit));
    this.#book = this.#newBook();
    for (const replica of this.replicas) this.#connect(replica);
  }

  #newBook(): LeaseBook {
    return new LeaseBook(() => (this.#known ? this.replicas.length : 0), this.nowMs);
  }

  /** In order on each stream, as TCP has it. */
  #post(replica: Replica, direction: string, deliver: () => void): void {
    const key = `${replica.name} ${replica.stream} ${direction} ${this.#epoch}`;
    const { stream } = replica;
    const epoch = this.#epoch;
    const atMs = Math.max(this.#lastAtMs.get(key) ?? 0, this.nowMs + this.#random() * LATEST_MS);
    this.#lastAtMs.set(key, atMs);
    this.#mail.push({
      atMs,
      deliver: () => {
        if (replica.stream === stream && this.#epoch === epoch && replica.connected) deliver();
      },
    });
  }

  #connect(replica: Replica): void {
    replica.connected = true;
    replica.stream++;
    replica.shares.begin(this.nowMs);
    this.#send(replica, this.#book.join(WORKLOAD, replica.name));
  }

  #disconnect(replica: Replica): void {
    if (!replica.connected) return;
    replica.connected = false;
    this.#book.leave(WORKLOAD, replica.name, this.nowMs);
  }

  #send(replica: Replica, lease: Lease): void {
    this.#post(replica, "down", () => {
      const shares = lease.shares.map(({ counter, share }) => ({
        counter: Buffer.from(counter, "hex").toString("base64url"),
        share,
      }));
      this.#report(replica, replica.shares.apply({ ...lease, shares }, this.nowMs));
    });
  }

  #report(replica: Replica, report: LimitReport | undefined): void {
    if (report === undefined) return;
    const uses = report.uses.map(({ counter, wanted }) => ({
      counter: Buffer.from(counter, "base64url").toString("hex"),
      wanted,
    }));
    this.#post(replica, "up", () =>
      this.#book.report(WORKLOAD, replica.name, report.applied, uses, this.nowMs),
    );
  }

  step(demand: readonly number[]): number {
    this.nowMs += STEP_MS;
    const roll = (perThousand: number): boolean => this.#random() * 1_000 < perThousand;
    if (roll(this.weather.restarts)) {
      this.#epoch++;
      this.#book = this.#newBook();
      for (const replica of this.replicas) replica.connected = false;
    }
    for (const replica of this.replicas) {
      const { name } = replica;
      if (roll(this.weather.breaks)) this.#disconnect(replica);
      if (roll(this.weather.partitions)) {
        this.#disconnect(replica);
        this.#cutOffUntilMs.set(name, this.nowMs + this.#random() * 60_000);
      }
      if (!replica.connected && this.nowMs >= (this.#cutOffUntilMs.get(name) ?? 0) && roll(100))
        this.#connect(replica);
    }
    for (const mail of this.#mail.filter(({ atMs }) => atMs <= this.nowMs).sort((a, b) => a.atMs - b.atMs)) {
      this.#mail.splice(this.#mail.indexOf(mail), 1);
      mail.deliver();
    }
    if (this.nowMs >= this.#tickAtMs) {
      this.#tickAtMs = this.nowMs + 1_000;
      for (const { lease } of this.#book.tick(this.nowMs)) {
        const replica = this.replicas.find(({ name }) => name === lease.instance);
        if (replica?.connected) this.#send(replica, lease);
      }
    }
    let admitted = 0;
    for (const [i, replica] of this.replicas.entries()) {
      admitted += replica.ask(demand[i] ?? 0, this.nowMs);
      if (!replica.connected || this.nowMs < replica.reportAtMs) continue;
      replica.reportAtMs = this.nowMs + 1_000;
      this.#report(replica, replica.shares.report(replica.limiter, this.nowMs));
    }
    return admitted;
  }
}

const CALM: Weather = { seed: 7, breaks: 0, restarts: 0, partitions: 0 };
const run = (world: World, demand: readonly number[], ms: number): number => {
  let admitted = 0;
  for (let i = 0; i < ms / STEP_MS; i++) admitted += world.step(demand);
  return admitted;
};

describe("shared limits", () => {
  test.each([
    { name: "all at one replica", demand: [150, 0, 0, 0] },
    { name: "very uneven", demand: [120, 20, 5, 1] },
    { name: "even", demand: [40, 40, 40, 40] },
    { name: "one of two", demand: [200, 0] },
  ])("a steady load, $name, gets at least 80 % of the limit", ({ demand }) => {
    const limit: RateLimit = { key: ["workload"], requests: 100, perMs: 1_000, burst: 100 };
    const world = new World(demand.length, limit, true, CALM);
    run(world, demand, 25_000);
    const admitted = run(world, demand, 30_000);
    expect(admitted).toBeGreaterThanOrEqual(0.8 * 3_000);
    expect(admitted).toBeLessThanOrEqual(3_000 + 100 + demand.length);
  });

  test("load that fits is not refused once shares have settled", () => {
    const limit: RateLimit = { key: ["workload"], requests: 100, perMs: 1_000, burst: 100 };
    const world = new World(3, limit, true, CALM);
    const demand = [70, 8, 2];
    run(world, demand, 30_000);
    const before = world.replicas.map(({ asked }) => asked);
    const admitted = run(world, demand, 30_000);
    const asked = world.replicas.reduce((sum, replica, i) => sum + replica.asked - (before[i] ?? 0), 0);
    expect(admitted).toBeGreaterThanOrEqual(asked * 0.98);
  });

  test("follows the load from one replica to another", () => {
    const limit: RateLimit = { key: ["workload"], requests: 100, perMs: 1_000, burst: 50 };
    const world = new World(3, limit, true, CALM);
    run(world, [150, 0, 0], 30_000);
    run(world, [0, 0, 150], 20_000);
    expect(run(world, [0, 0, 150], 20_000)).toBeGreaterThanOrEqual(0.8 * 2_000);
  });

  test("without a control plane each replica goes on, with even parts at the end", () => {
    const limit: RateLimit = { key: ["workload"], requests: 100, perMs: 1_000, burst: 100 };
    const world = new World(2, limit, true, { ...CALM, partitions: 0 });
    run(world, [150, 1], 30_000);
    const [busy, idle] = world.replicas;
    if (busy === undefined || idle === undefined) throw new Error("two replicas");
    expect(busy.share(world.nowMs)).toBeGreaterThan(0.85);
    const goneMs = world.nowMs;
    expect(busy.share(goneMs + LEASE_TTL_MS + 3_500)).toBe(0.5);
    expect(idle.share(goneMs + LEASE_TTL_MS + 3_500)).toBeLessThan(0.2);
    expect(idle.share(goneMs + 2 * LEASE_TTL_MS + 3_500)).toBe(0.5);
  });

  const weather = fc.record({
    seed: fc.nat(1e6),
    breaks: fc.nat(20),
    restarts: fc.nat(3),
    partitions: fc.nat(5),
  });
  const phases = fc.array(fc.array(fc.integer({ min: 0, max: 120 }), { minLength: 4, maxLength: 4 }), {
    minLength: 1,
    maxLength: 6,
  });

  test("parts never add up to more than the whole, whatever the network does", () => {
    fc.assert(
      fc.property(weather, phases, fc.integer({ min: 2, max: 4 }), (given, loads, count) => {
        const limit: RateLimit = { key: ["workload"], requests: 100, perMs: 1_000, burst: 30 };
        const world = new World(count, limit, true, { ...CALM, seed: given.seed });
        run(world, [0, 0, 0, 0], 5_000);
        world.weather = given;
        let level = limit.burst;
        for (const demand of loads)
          for (let i = 0; i < 15_000 / STEP_MS; i++) {
            // The whole limit as one bucket; one call more for each replica, which may always hold one.
            level =
              Math.min(limit.burst, level + (limit.requests * STEP_MS) / limit.perMs) - world.step(demand);
            expect(level).toBeGreaterThanOrEqual(-count - 1e-6);
            const parts = world.replicas.reduce((sum, replica) => sum + replica.share(world.nowMs), 0);
            expect(parts).toBeLessThanOrEqual(1 + 1e-9);
          }
      }),
      { numRuns: 25 },
    );
  });

  test("where nobody knows how many there are, no more than the number cut off for long comes on top", () => {
    fc.assert(
      fc.property(weather, phases, (given, loads) => {
        const limit: RateLimit = { key: ["workload"], requests: 100, perMs: 1_000, burst: 30 };
        const world = new World(3, limit, false, given);
        let admitted = 0;
        const began = world.nowMs;
        for (const demand of loads) admitted += run(world, demand, 15_000);
        // Never more than if each had all of it, which is what replicas that do not share have.
        expect(admitted).toBeLessThanOrEqual(3 * (30 + (limit.requests * (world.nowMs - began)) / 1_000));
      }),
      { numRuns: 10 },
    );
  });
});
