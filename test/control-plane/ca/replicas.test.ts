// Several control planes with one authority: they begin with the same one, one writes, the others take it up.
import { setImmediate } from "node:timers/promises";
import { beforeEach, describe, expect, test } from "@jest/globals";
import { trustBundleJson } from "../../../control-plane/ca/jwks.ts";
import { runAuthorityMaintenance } from "../../../control-plane/ca/maintenance.ts";
import { type CertificateAuthority, openCertificateAuthority } from "../../../control-plane/ca/root.ts";
import type { RotationRecord } from "../../../control-plane/ca/rotation.ts";
import { runServerIdentity } from "../../../control-plane/ca/server-identity.ts";
import { silentLogger } from "../../../sidecar/core/runtime/log.ts";
import { MemoryStore } from "../../fakes/authority-store.ts";
import { FakeClock } from "../../fakes/clock.ts";

const DAY = 86_400_000;
let store: MemoryStore;
let clock: FakeClock;
beforeEach(() => {
  store = new MemoryStore();
  clock = new FakeClock(Date.parse("2026-11-20T10:00:00Z"));
});
const open = (trustDomain = "lake.example"): Promise<CertificateAuthority> =>
  openCertificateAuthority({ store, clock, trustDomain });

function recordOf({ rotation }: CertificateAuthority): RotationRecord {
  if (rotation === undefined) throw new Error("no rotation");
  return rotation.record;
}

test("replicas that start at once on nothing have one authority", async () => {
  const all = await Promise.all([open(), open(), open()]);
  expect(store.saves).toBe(1);
  expect(new Set(all.map(trustBundleJson)).size).toBe(1);
  expect(new Set(all.map(({ issuing }) => issuing.certificatePem)).size).toBe(1);
});

test("a stored authority of another trust domain is refused", async () => {
  await open();
  await expect(open("other.example")).rejects.toMatchObject({
    code: "bad_config",
    message: expect.stringMatching(/is of trust domain `lake.example`, not `other.example`/),
  });
});

describe("refresh", () => {
  test("takes up what another replica wrote, and says what it was", async () => {
    const [leader, follower] = [await open(), await open()];
    expect(await follower.refresh()).toEqual({ bundle: false, issuing: false });
    clock.advance(29.5 * DAY);
    expect(await leader.maintain()).toBe(true);
    expect(await follower.refresh()).toEqual({ bundle: true, issuing: false });
    expect(trustBundleJson(follower)).toBe(trustBundleJson(leader));
    clock.advance(31 * DAY);
    await leader.maintain();
    expect(await follower.refresh()).toMatchObject({ issuing: true });
    expect(follower.issuing.certificatePem).toBe(leader.issuing.certificatePem);
  });

  test("follows a rotation, and writes on from where the other one was", async () => {
    const [one, other] = [await open(), await open()];
    await one.startRotation();
    expect(await other.refresh()).toEqual({ bundle: true, issuing: false });
    expect(other.rotation?.record.stage).toBe("distribute");
    await other.changeRotation({ kind: "cancel" }, recordOf(other));
    await one.refresh();
    expect(trustBundleJson(one)).toBe(trustBundleJson(other));
  });

  test("a step that was decided on before somebody turned the rotation round is not taken", async () => {
    const [leader, operators] = [await open(), await open()];
    await leader.startRotation();
    const signing = { ...recordOf(leader), stage: "sign" } as const;
    await leader.changeRotation({ kind: "record", record: signing }, recordOf(leader));
    await operators.refresh();
    const retiring = { ...signing, stage: "retire" } as const;
    await operators.changeRotation({ kind: "reverse", record: { ...signing, aborting: true } }, signing);
    // The poll comes between the decision and its turn.
    const [, late] = await Promise.allSettled([
      leader.refresh(),
      leader.changeRotation({ kind: "record", record: retiring }, signing),
    ]);
    expect(late).toMatchObject({ status: "rejected", reason: { code: "conflict" } });
    expect(trustBundleJson(leader)).toBe(trustBundleJson(operators));
    expect(recordOf(leader)).toMatchObject({ stage: "sign", aborting: true });
  });

  test("who writes on what is old is told so, and then knows better", async () => {
    const [one, other] = [await open(), await open()];
    await one.startRotation();
    await expect(other.startRotation()).rejects.toMatchObject({ code: "conflict" });
    expect(other.rotation?.record.stage).toBe("distribute");
    expect(other.roots.map(String)).toEqual(one.roots.map(String));
  });

  test("keeps what it has when the store is gone, damaged or of another mesh, also of the same name", async () => {
    const ca = await open();
    const before = trustBundleJson(ca);
    const { files } = store;
    store.clear();
    await expect(ca.refresh()).rejects.toMatchObject({ code: "not_found" });
    await store.save(new Map([...files].slice(1)), undefined);
    await expect(ca.refresh()).rejects.toMatchObject({ code: "bad_config" });
    store.clear();
    await open("other.example");
    await expect(ca.refresh()).rejects.toMatchObject({ code: "bad_config" });
    store.clear();
    await open();
    await expect(ca.refresh()).rejects.toMatchObject({
      message: expect.stringMatching(/another certificate/),
    });
    expect(trustBundleJson(ca)).toBe(before);
  });
});

describe("runAuthorityMaintenance", () => {
  interface Replica {
    readonly ca: CertificateAuthority;
    leads: boolean;
    bundles: number;
  }

  async function run(replicas: readonly Replica[], work: () => Promise<void>): Promise<void> {
    const stop = new AbortController();
    const running = replicas.map((one) =>
      runAuthorityMaintenance(
        {
          ca: one.ca,
          clock,
          log: silentLogger,
          onBundle: () => (one.bundles += 1),
          isLeader: () => one.leads,
        },
        stop.signal,
      ),
    );
    await work();
    stop.abort();
    await Promise.all(running);
  }

  /** One poll of every replica. */
  async function poll(count: number, ms = 5_000): Promise<void> {
    clock.advance(ms);
    for (let i = 0; i < 50 || clock.sleeping < count; i++) await setImmediate();
  }

  test("the leader alone renews, the others have it within a poll, and a new leader goes on", async () => {
    const replicas = await Promise.all(
      [true, false].map(async (leads): Promise<Replica> => ({ ca: await open(), leads, bundles: 0 })),
    );
    await run(replicas, async () => {
      await poll(2);
      const { saves } = store;
      await poll(2, 29.5 * DAY);
      await poll(2);
      expect(store.saves).toBe(saves + 1);
      expect(replicas.map(({ ca }) => ca.sequence)).toEqual([2, 2]);
      expect(replicas.map(({ bundles }) => bundles)).toEqual([1, 1]);
      for (const one of replicas) one.leads = !one.leads;
      await poll(2, 31 * DAY);
      await poll(2);
      const [first, second] = replicas.map(({ ca }) => ca.issuing.notAfterMs);
      expect(first).toBe(second);
      expect(first).toBeGreaterThan(clock.nowMs() + 80 * DAY);
    });
  });

  test("the leader puts back what somebody removed; others do not", async () => {
    const replica: Replica = { ca: await open(), leads: false, bundles: 0 };
    const { files } = store;
    await run([replica], async () => {
      store.clear();
      await poll(1);
      expect(store.files.size).toBe(0);
      replica.leads = true;
      await poll(1);
      expect(store.files).toEqual(files);
      await poll(1);
    });
    expect(await replica.ca.refresh()).toEqual({ bundle: false, issuing: false });
  });
});

test("the control plane's own certificate follows the roots at once", async () => {
  const ca = await open();
  const stop = new AbortController();
  const seen: string[] = [];
  const running = runServerIdentity(
    { ca, clock, random: () => 0.5, log: silentLogger, onIdentity: ({ caPem }) => seen.push(caPem) },
    stop.signal,
  );
  await ca.startRotation();
  await setImmediate();
  stop.abort();
  await running;
  expect(seen).toHaveLength(2);
  expect(seen[1]).toBe(ca.roots.join(""));
});
