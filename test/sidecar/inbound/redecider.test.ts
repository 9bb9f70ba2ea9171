import { describe, expect, test } from "@jest/globals";
import type { InboundStream } from "../../../sidecar/inbound/caller-side.ts";
import { PeerLeaves } from "../../../sidecar/inbound/peer-leaves.ts";
import { Redecider, type RedeciderDeps } from "../../../sidecar/inbound/redecide.ts";

/** A clock that a stream moves on by what its decision costs. */
function world(count: number, costMs: number) {
  const clock = { nowMs: 0, monotonicMs: () => clock.nowMs };
  const state: { enforcement: { token: object } | undefined } = { enforcement: { token: {} } };
  const seen: number[] = [];
  let turn = 0;
  const perTurn: number[] = [];
  const streams = Array.from({ length: count }, (_, at) => ({
    redecide: () => {
      seen.push(at);
      clock.nowMs += costMs;
      perTurn[turn] = (perTurn[turn] ?? 0) + costMs;
    },
  }));
  // The Redecider uses no more of either than this.
  const deps = {
    services: { clock, state },
    streams: () => streams as unknown as InboundStream[],
  } as unknown as RedeciderDeps;
  const redecider = new Redecider(deps);
  const settle = async (): Promise<void> => {
    for (let quiet = 0; quiet < 3; ) {
      const before = seen.length;
      await new Promise((resolve) => setImmediate(resolve));
      turn++;
      quiet = seen.length === before ? quiet + 1 : 0;
    }
  };
  return { clock, state, seen, perTurn, redecider, settle };
}

describe("Redecider", () => {
  test("asks every stream once with each table, and again a second later", async () => {
    const { redecider, seen, settle, clock, state } = world(10, 0);
    redecider.check();
    await settle();
    expect(seen.length).toBe(10);
    clock.nowMs += 900;
    redecider.check();
    expect(seen.length).toBe(10);
    clock.nowMs += 100;
    redecider.check();
    expect(seen.length).toBe(20);
    state.enforcement = { token: {} };
    redecider.check();
    expect(seen.length).toBe(30);
    state.enforcement = undefined;
    clock.nowMs += 5_000;
    redecider.check();
    expect(seen.length).toBe(30);
  });

  test("holds up nobody for longer than a slice, however many there are", async () => {
    const { redecider, seen, perTurn, settle } = world(10_000, 0.05);
    redecider.check();
    await settle();
    expect(seen.length).toBe(10_000);
    expect(Math.max(...perTurn.filter((ms) => ms !== undefined))).toBeLessThan(10);
  });

  test("begins anew when a table comes in the middle", async () => {
    const { redecider, seen, state, settle } = world(1_000, 0.05);
    redecider.check();
    const before = seen.length;
    expect(before).toBeLessThan(1_000);
    state.enforcement = { token: {} };
    redecider.check();
    await settle();
    expect(seen.length).toBe(before + 1_000);
  });
});

describe("PeerLeaves", () => {
  const leaf = (instance: string, notAfterMs: number) => ({
    spiffeId: "spiffe://lake.example/ns/lab/sa/default/notebook/nb-1" as never,
    trustDomain: "lake.example",
    notBeforeMs: 0,
    notAfterMs,
    instance,
    serial: "01",
    issuerKeyId: "",
    leafThumbprint: "",
  });

  test("a certificate counts until its last second is over, a newer one of the same instance for it", () => {
    const leaves = new PeerLeaves();
    const old = leaf("pod-1", 10_000);
    leaves.note(old, 0);
    expect(leaves.isCurrent(old, 10_999)).toBe(true);
    expect(leaves.isCurrent(old, 11_000)).toBe(false);
    leaves.note(leaf("pod-2", 90_000), 0);
    expect(leaves.isCurrent(old, 11_000)).toBe(false);
    leaves.note(leaf("pod-1", 20_000), 0);
    expect(leaves.isCurrent(old, 11_000)).toBe(true);
    leaves.note(old, 0);
    expect(leaves.isCurrent(old, 20_999)).toBe(true);
    expect(leaves.isCurrent(old, 21_000)).toBe(false);
  });

  test("forgets those that have ended first", () => {
    const leaves = new PeerLeaves();
    for (let n = 0; n < 20_000; n++) leaves.note(leaf(`pod-${n}`, n < 10_000 ? 1_000 : 50_000), 0);
    leaves.note(leaf("late", 50_000), 5_000);
    expect(leaves.isCurrent(leaf("pod-15000", 0), 5_000)).toBe(true);
    expect(leaves.isCurrent(leaf("pod-5000", 0), 5_000)).toBe(false);
  });
});
