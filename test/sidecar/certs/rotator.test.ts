import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { runServerIdentity, type ServerIdentity } from "../../../control-plane/ca/server-identity.ts";
import { type RotatorDeps, runRotator } from "../../../sidecar/certs/rotator.ts";
import { renewAtMs } from "../../../sidecar/core/identity/renewal.ts";
import type { WorkloadIdentity } from "../../../sidecar/core/identity/workload-identity.ts";
import type { Clock } from "../../../sidecar/core/runtime/clock.ts";
import { MeshError } from "../../../sidecar/core/runtime/errors.ts";
import { silentLogger } from "../../../sidecar/core/runtime/log.ts";
import { createTestAuthority, issueTestIdentity, type TestAuthority, testId } from "../../fakes/authority.ts";
import { FakeClock } from "../../fakes/clock.ts";

const NOW = Date.parse("2026-11-20T10:00:00Z");
const HOUR = 3_600_000;
let authority: TestAuthority;
beforeAll(async () => {
  authority = await createTestAuthority(NOW);
});
afterAll(() => authority.close());

/** A clock that jumps to the end of each sleep, except for the sleeps of `hold` ms (they end with their signal). */
function jumpingClock(hold = -1): Clock & { readonly sleeps: number[] } {
  let nowMs = NOW;
  const sleeps: number[] = [];
  return {
    sleeps,
    nowMs: () => nowMs,
    monotonicMs: () => nowMs,
    sleep(ms, signal) {
      if (ms === hold) return new Promise((resolve) => signal?.addEventListener("abort", () => resolve()));
      sleeps.push(ms);
      nowMs += Math.max(0, ms);
      return Promise.resolve();
    },
  };
}

describe("renewAtMs", () => {
  test.each([
    { random: 0, share: 0.4 },
    { random: 0.5, share: 0.5 },
    { random: 1, share: 0.6 },
  ])("is due after $share of the lifetime as issued", ({ random, share }) => {
    expect(renewAtMs(NOW - 300_000, NOW + 6 * HOUR, random)).toBe(NOW + share * 6 * HOUR);
  });
  test("lies before the end of a lifetime of seconds too", () => {
    expect(renewAtMs(NOW - 300_000, NOW + 2000, 0)).toBe(NOW + 800);
  });
});

describe("runRotator", () => {
  /** Runs until `rounds` identities were put into use. */
  async function rotate(rounds: number, change: Partial<RotatorDeps> & { first?: WorkloadIdentity }) {
    const clock = jumpingClock(15_000);
    const stop = new AbortController();
    const used: WorkloadIdentity[] = [];
    let current = change.first;
    await runRotator(
      {
        clock,
        random: () => 0.5,
        log: silentLogger,
        current: () => current,
        issue: async () => issueTestIdentity(authority, testId("a"), clock.nowMs()),
        onIdentity: (identity) => {
          current = identity;
          used.push(identity);
          if (used.length === rounds) stop.abort();
        },
        ...change,
      },
      stop.signal,
    );
    return { clock, used, current };
  }

  test("begins at once without an identity, then renews at half of each lifetime", async () => {
    const { clock, used } = await rotate(3, {});
    expect(used).toHaveLength(3);
    expect(clock.sleeps).toEqual([3 * HOUR, 3 * HOUR]);
    expect(new Set(used.map((identity) => identity.leafThumbprint)).size).toBe(3);
  });

  test("waits for the moment of an identity that it was started with", async () => {
    const { clock } = await rotate(1, { first: issueTestIdentity(authority, testId("a"), NOW) });
    expect(clock.sleeps).toEqual([3 * HOUR]);
  });

  test("keeps the old identity while renewals fail, with growing pauses", async () => {
    const first = issueTestIdentity(authority, testId("a"), NOW);
    let failures = 0;
    const { clock, used } = await rotate(1, {
      first,
      issue: async () => {
        if (failures++ < 4) throw new MeshError("not_ready", "no control plane");
        return issueTestIdentity(authority, testId("a"), NOW);
      },
    });
    expect(clock.sleeps).toEqual([3 * HOUR, 750, 1500, 3000, 6000]);
    expect(used).toHaveLength(1);
  });

  test("tries again when the new identity cannot be put into use", async () => {
    const clock = jumpingClock(15_000);
    const stop = new AbortController();
    let current: WorkloadIdentity | undefined;
    let offered = 0;
    await runRotator(
      {
        clock,
        random: () => 0.5,
        log: silentLogger,
        current: () => current,
        issue: async () => issueTestIdentity(authority, testId("a"), NOW),
        onIdentity: (identity) => {
          if (++offered < 3) throw new Error("key values mismatch");
          current = identity;
          stop.abort();
        },
      },
      stop.signal,
    );
    expect(offered).toBe(3);
    expect(clock.sleeps).toEqual([750, 1500]);
  });

  test("looks for the control plane every 10 s at least once the certificate has expired", async () => {
    const first = issueTestIdentity(authority, testId("a"), NOW, { ttlMs: 10_000 });
    let failures = 0;
    const { clock } = await rotate(1, {
      first,
      issue: async () => {
        if (failures++ < 7) throw new MeshError("not_ready", "no control plane");
        return issueTestIdentity(authority, testId("a"), NOW);
      },
    });
    expect(clock.sleeps).toEqual([5_000, 750, 1_000, 1_000, 1_000, 1_000, 1_000, 7_500]);
  });

  test("renews before it is due when that is wanted", async () => {
    const clock = new FakeClock(NOW);
    const stop = new AbortController();
    let early = new AbortController();
    let current = issueTestIdentity(authority, testId("a"), NOW);
    const first = current;
    const renewed = Promise.withResolvers<void>();
    const done = runRotator(
      {
        clock,
        random: () => 0.5,
        log: silentLogger,
        current: () => current,
        early: () => early.signal,
        issue: async () => issueTestIdentity(authority, testId("b"), NOW),
        onIdentity: (identity) => {
          current = identity;
          early = new AbortController();
          renewed.resolve();
        },
      },
      stop.signal,
    );
    expect(current).toBe(first);
    early.abort();
    await renewed.promise;
    expect(current.spiffeId).toBe(testId("b"));
    stop.abort();
    await done;
  });

  test("gives an attempt up after its time, and drops the late answer", async () => {
    const clock = jumpingClock();
    const stop = new AbortController();
    let attempts = 0;
    const used: WorkloadIdentity[] = [];
    await runRotator(
      {
        clock,
        random: () => 0.5,
        log: silentLogger,
        current: () => undefined,
        timeoutMs: 100,
        issue: (signal) => {
          if (++attempts === 3) stop.abort();
          return new Promise((_resolve, reject) =>
            signal.addEventListener("abort", () => reject(new Error("given up"))),
          );
        },
        onIdentity: (identity) => {
          used.push(identity);
        },
      },
      stop.signal,
    );
    expect(attempts).toBe(3);
    expect(used).toEqual([]);
    expect(clock.sleeps.filter((ms) => ms === 100).length).toBeGreaterThanOrEqual(2);
  });
});

describe("runServerIdentity", () => {
  test("renews the control plane's certificate in process, and goes on after a failure", async () => {
    const clock = jumpingClock();
    const stop = new AbortController();
    const seen: ServerIdentity[] = [];
    let calls = 0;
    await runServerIdentity(
      {
        ca: authority.ca,
        clock,
        random: () => 0.5,
        log: silentLogger,
        onIdentity: (identity) => {
          if (++calls === 2) throw new Error("listener gone");
          seen.push(identity);
          if (seen.length === 3) stop.abort();
        },
      },
      stop.signal,
    );
    expect(seen.map((identity) => identity.spiffeId)).toEqual(
      Array(3).fill("spiffe://lake.example/ns/countersign-system/sa/control-plane/service/control-plane"),
    );
    // Certificates count whole seconds, the back-off of 750 ms does not.
    expect(clock.sleeps.slice(0, 3)).toEqual([3 * HOUR, 750, 3 * HOUR - 750]);
    expect(new Set(seen.map((identity) => identity.keyPem)).size).toBe(3);
  });
});
