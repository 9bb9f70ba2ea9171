// The election over a Lease: one process in detail, then several simulated ones with clocks of different speed, lost
// requests and answers, deaths and deleted Leases.
import { setImmediate } from "node:timers/promises";
import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { type LeaderElectionOptions, runLeaderElection } from "../../../control-plane/leader/lease.ts";
import { silentLogger } from "../../../sidecar/core/runtime/log.ts";
import { FakeClock } from "../../fakes/clock.ts";
import { FakeLeases } from "../../fakes/lease-api.ts";
import { SimulatedTime } from "../../fakes/simulated-time.ts";

const untilAborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });

function elect(leases: FakeLeases, over: Partial<LeaderElectionOptions> = {}) {
  const clock = new FakeClock(Date.UTC(2026, 10, 21));
  const stop = new AbortController();
  const terms: AbortSignal[] = [];
  const holders: (string | undefined)[] = [];
  const done = runLeaderElection(
    {
      coordination: leases.api(),
      namespace: "system",
      name: "leader",
      identity: "me",
      clock,
      random: () => 0.5,
      log: silentLogger,
      onHolder: (holder) => holders.push(holder && `${holder.identity} ${holder.address ?? ""}`),
      onLead: async (signal) => {
        terms.push(signal);
        await untilAborted(signal);
      },
      ...over,
    },
    stop.signal,
  );
  const pass = async (ms: number): Promise<void> => {
    for (let passed = 0; passed < ms; passed += 500) {
      await setImmediate();
      clock.advance(500);
    }
    await setImmediate();
  };
  return { clock, stop, terms, holders, done, pass };
}

describe("runLeaderElection", () => {
  test("makes the Lease, keeps it, and releases it after the work has ended", async () => {
    const leases = new FakeLeases();
    const ended: string[] = [];
    const { stop, terms, done, pass } = elect(leases, {
      address: "10.0.0.1:16015",
      onLead: async (signal) => {
        terms.push(signal);
        await untilAborted(signal);
        ended.push(String(leases.lease?.spec?.holderIdentity));
      },
    });
    await pass(500);
    expect(leases.lease).toMatchObject({
      metadata: { annotations: { "countersign.dev/leader-address": "10.0.0.1:16015" } },
      spec: {
        holderIdentity: "me",
        leaseDurationSeconds: 15,
        leaseTransitions: 0,
        acquireTime: "2026-11-21T00:00:00.000000Z",
      },
    });
    await pass(60_000);
    expect(leases.writes).toBeLessThanOrEqual(13);
    expect(leases.lease?.spec?.renewTime).toMatch(/^2026-11-21T00:0[01]:\d\d\.000000Z$/);
    expect(terms.map(({ aborted }) => aborted)).toEqual([false]);
    stop.abort();
    await done;
    expect(ended).toEqual(["me"]);
    expect(leases.lease).toMatchObject({ spec: { holderIdentity: "", leaseTransitions: 0 } });
    expect(leases.lease?.metadata?.annotations).toEqual({});
  });

  test("counts a transition from another holder, and none from a former process of its own", async () => {
    for (const [before, transitions] of [
      ["other", 4],
      ["", 4],
      ["me", 3],
    ] as const) {
      const leases = new FakeLeases();
      leases.create({ spec: { holderIdentity: before, leaseTransitions: 3, leaseDurationSeconds: 15 } });
      const { stop, done, pass } = elect(leases);
      await pass(before === "other" ? 17_000 : 500);
      expect(leases.lease?.spec).toMatchObject({ holderIdentity: "me", leaseTransitions: transitions });
      stop.abort();
      await done;
    }
  });

  test("tells who holds the Lease, once per holder", async () => {
    const leases = new FakeLeases();
    leases.create({
      metadata: { annotations: { "countersign.dev/leader-address": "10.0.0.9:16015" } },
      spec: { holderIdentity: "other", leaseDurationSeconds: 15 },
    });
    const { stop, done, pass, holders } = elect(leases);
    await pass(20_000);
    stop.abort();
    await done;
    expect(holders).toEqual(["other 10.0.0.9:16015", "me ", undefined]);
  });

  test("gives up 10 s after the last renewal when the API server does not answer, and goes on when it does", async () => {
    const leases = new FakeLeases();
    let isAway = false;
    const api = leases.api((run) => (isAway ? new Promise(() => {}) : Promise.resolve().then(run)));
    const { stop, done, pass, terms } = elect(leases, { coordination: api });
    await pass(500);
    isAway = true;
    await pass(9_000);
    expect(terms[0]?.aborted).toBe(false);
    await pass(1_500);
    expect(terms[0]?.aborted).toBe(true);
    isAway = false;
    await pass(10_000);
    expect(terms.map(({ aborted }) => aborted)).toEqual([true, false]);
    stop.abort();
    await done;
  });

  test("ends its work when another holds the Lease, and keeps it when only the object was touched", async () => {
    const leases = new FakeLeases();
    const { stop, done, pass, terms } = elect(leases);
    await pass(500);
    leases.replace({ ...leases.read(), metadata: { ...leases.read().metadata, labels: { a: "b" } } });
    await pass(12_000);
    expect(terms.map(({ aborted }) => aborted)).toEqual([false]);
    expect(leases.lease?.metadata?.labels).toEqual({ a: "b" });
    leases.replace({ ...leases.read(), spec: { ...leases.read().spec, holderIdentity: "other" } });
    await pass(5_500);
    expect(terms.map(({ aborted }) => aborted)).toEqual([true]);
    stop.abort();
    await done;
    expect(leases.lease?.spec?.holderIdentity).toBe("other");
  });

  test("makes a deleted Lease again without ending its work", async () => {
    const leases = new FakeLeases();
    const { stop, done, pass, terms } = elect(leases);
    await pass(500);
    leases.lease = undefined;
    await pass(6_000);
    expect(leases.lease).toMatchObject({ spec: { holderIdentity: "me" } });
    expect(terms.map(({ aborted }) => aborted)).toEqual([false]);
    stop.abort();
    await done;
  });

  test("releases the Lease when its work fails, and tries again later and later", async () => {
    const leases = new FakeLeases();
    const holders: string[] = [];
    let tries = 0;
    const { stop, done, pass } = elect(leases, {
      onLead: async () => {
        tries += 1;
        throw new Error("broken");
      },
    });
    for (let i = 0; i < 60; i++) {
      await pass(1_000);
      holders.push(leases.lease?.spec?.holderIdentity ?? "-");
    }
    expect(new Set(holders)).toEqual(new Set([""]));
    expect(tries).toBeGreaterThan(3);
    expect(tries).toBeLessThan(9);
    stop.abort();
    await done;
  });

  test("never leads again while the work of its last term goes on, nor lets others", async () => {
    const leases = new FakeLeases();
    let running = 0;
    const finish = Promise.withResolvers<void>();
    const { stop, done, pass } = elect(leases, {
      onLead: async (signal) => {
        running += 1;
        await finish.promise;
        running -= 1;
        await untilAborted(signal);
      },
    });
    await pass(500);
    leases.replace({ ...leases.read(), spec: { ...leases.read().spec, holderIdentity: "" } });
    await pass(60_000);
    expect(running).toBe(1);
    expect(leases.lease?.spec?.holderIdentity).toBe("");
    finish.resolve();
    await pass(5_000);
    expect(leases.lease?.spec?.holderIdentity).toBe("me");
    stop.abort();
    await done;
  });
});

interface Fault {
  readonly who: number;
  readonly fromMs: number;
  readonly forMs: number;
  readonly kind: "unreachable" | "answers lost" | "stop" | "kill" | "delete lease";
}

const QUIET_FROM_MS = 120_000;
const END_MS = QUIET_FROM_MS + 60_000;

const faults = fc.array(
  fc.record({
    who: fc.nat(2),
    fromMs: fc.integer({ min: 0, max: QUIET_FROM_MS - 40_000 }),
    forMs: fc.integer({ min: 500, max: 40_000 }),
    kind: fc.constantFrom("unreachable" as const, "answers lost" as const, "stop" as const, "kill" as const),
  }),
  { maxLength: 8 },
);

/** Three candidates, each started again some seconds after it was stopped or killed. @returns what went wrong. */
async function simulate(
  plan: readonly Fault[],
  speeds: readonly number[],
  latencies: readonly number[],
): Promise<string[]> {
  const time = new SimulatedTime();
  const leases = new FakeLeases();
  const wrong: string[] = [];
  /** Terms whose work runs, with their signal: the work ends up to 3 s after it. */
  const working = new Map<AbortSignal, string>();
  let draws = 0;
  const latency = (): number =>
    time.nowMs > QUIET_FROM_MS ? 20 : (latencies[draws++ % latencies.length] ?? 0);
  const isUnder = (kind: Fault["kind"], who: number): boolean =>
    plan.some(
      (one) =>
        one.kind === kind &&
        one.who === who &&
        time.nowMs >= one.fromMs &&
        time.nowMs < one.fromMs + one.forMs,
    );
  const call =
    (who: number, isDead: () => boolean) =>
    async <T>(run: () => T): Promise<T> => {
      await time.wait(latency());
      if (isDead() || isUnder("unreachable", who)) return new Promise(() => {});
      const lost = isUnder("answers lost", who);
      let outcome: () => T;
      try {
        const value = run();
        outcome = () => value;
      } catch (error) {
        outcome = () => {
          throw error;
        };
      }
      await time.wait(latency());
      if (isDead() || lost) return new Promise(() => {});
      return outcome();
    };
  const stops: { who: number; stop: AbortController; kill: () => void }[] = [];
  const start = (who: number): void => {
    let dead = false;
    const isDead = (): boolean => dead;
    const stop = new AbortController();
    const own = new Set<AbortSignal>();
    stops.push({
      who,
      stop,
      kill: () => {
        dead = true;
        for (const signal of own) working.delete(signal);
      },
    });
    void runLeaderElection(
      {
        coordination: leases.api(call(who, isDead)),
        namespace: "system",
        name: "leader",
        identity: `r${who}`,
        clock: time.clock(speeds[who] ?? 1, who * 1_000_000, isDead),
        random: () => 0.5,
        log: silentLogger,
        onLead: async (signal) => {
          working.set(signal, `r${who}`);
          own.add(signal);
          await untilAborted(signal);
          await time.wait(latency() % 3_000);
          working.delete(signal);
        },
      },
      stop.signal,
    );
  };
  for (const who of [0, 1, 2]) start(who);
  for (const { kind, who, fromMs, forMs } of plan) {
    if (kind !== "stop" && kind !== "kill") continue;
    time.after(fromMs, () => {
      const at = stops.findIndex((one) => one.who === who);
      const [found] = at < 0 ? [] : stops.splice(at, 1);
      if (found === undefined) return;
      if (kind === "stop") found.stop.abort();
      else found.kill();
      // A pod of a Deployment comes back when the former has gone: at least so long as a former term may take to end.
      time.after(Math.max(forMs, 8_000), () => start(who));
    });
  }
  let leaders = 0;
  await time.runUntil(END_MS, () => {
    leaders = working.size;
    if (leaders > 1) wrong.push(`${Math.round(time.nowMs)} ms: ${[...working.values()].join(" and ")}`);
  });
  if (leaders !== 1) wrong.push(`${leaders} leaders at the end`);
  for (const { stop, kill } of stops) {
    kill();
    stop.abort();
  }
  return wrong;
}

describe("several candidates", () => {
  test("never two work at a time, and one works again when the trouble is over", async () => {
    await fc.assert(
      fc.asyncProperty(
        faults,
        fc.array(fc.double({ min: 0.95, max: 1.05, noNaN: true }), { minLength: 3, maxLength: 3 }),
        fc.array(fc.integer({ min: 1, max: 6_000 }), { minLength: 5, maxLength: 40 }),
        async (plan, speeds, latencies) => {
          // Most calls are fast; every fifth takes as long as was drawn.
          const mixed = latencies.flatMap((ms) => [3, 20, 7, 40, ms]);
          expect(await simulate(plan, speeds, mixed)).toEqual([]);
        },
      ),
      { numRuns: 100 },
    );
  });

  test("the next one takes over within 2 s of a release, and within 17 s of a death", async () => {
    for (const [kind, limitMs] of [
      ["stop", 2_000],
      ["kill", 17_000],
    ] as const) {
      const time = new SimulatedTime();
      const leases = new FakeLeases();
      const log: string[] = [];
      let dead = false;
      const stop = new AbortController();
      for (const who of ["a", "b"]) {
        const isDead = (): boolean => dead && who === "a";
        const run = (): void =>
          void runLeaderElection(
            {
              coordination: leases.api(async (call) => {
                await time.wait(20);
                return call();
              }),
              namespace: "system",
              name: "leader",
              identity: who,
              clock: time.clock(1, 0, isDead),
              random: () => 0.99,
              log: silentLogger,
              onLead: async (signal) => {
                log.push(`${who} ${time.nowMs}`);
                await untilAborted(signal);
              },
            },
            who === "a" ? stop.signal : new AbortController().signal,
          );
        time.after(who === "a" ? 0 : 500, run);
      }
      // Right after a renewal, which is the longest to wait.
      const atMs = 30_200;
      time.after(atMs, () => {
        if (kind === "kill") dead = true;
        else stop.abort();
      });
      await time.runUntil(60_000, () => {});
      const [, second] = log;
      expect(log).toHaveLength(2);
      expect(Number(second?.split(" ")[1]) - atMs).toBeLessThanOrEqual(limitMs);
    }
  });
});
