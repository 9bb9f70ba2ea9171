import { describe, expect, test } from "@jest/globals";
import { type AuditedState, runAuditor, unmeshedPods } from "../../../control-plane/admission/auditor.ts";
import type { MeshPod } from "../../../control-plane/sources/store.ts";
import type { EventNote } from "../../../control-plane/status/event-notes.ts";
import type { EventSubject } from "../../../control-plane/status/events.ts";
import { createLogger } from "../../../sidecar/core/runtime/log.ts";
import { FakeClock } from "../../fakes/clock.ts";

const pod = (name: string, change: Partial<MeshPod> = {}): MeshPod => ({
  uid: `uid-${name}`,
  namespace: "lab",
  name,
  serviceAccount: "default",
  node: "n",
  addresses: [],
  ready: true,
  injected: false,
  workload: undefined,
  ...change,
});

function stateOf(pods: readonly MeshPod[], label: string | null = "enabled"): AuditedState {
  const labels = new Map(label === null ? [] : [["countersign.dev/inject", label]]);
  return {
    pods: new Map(pods.map((one) => [one.uid, one])),
    namespaces: new Map([
      ["lab", labels],
      ["kube-system", labels],
    ]),
  };
}
const EXEMPT = new Set(["kube-system"]);
const names = (state: AuditedState) => unmeshedPods(state, EXEMPT).missing.map(({ name }) => name);

describe("unmeshedPods", () => {
  test.each([
    { name: "without a sidecar in a meshed namespace", pod: pod("a"), label: "enabled", expected: ["a"] },
    { name: "with its sidecar", pod: pod("a", { injected: true }), label: "enabled", expected: [] },
    {
      name: "that stays out by its label",
      pod: pod("a", { inject: "disabled" }),
      label: "enabled",
      expected: [],
    },
    { name: "in a namespace that is not meshed", pod: pod("a"), label: null, expected: [] },
    { name: "in a namespace that stays out", pod: pod("a"), label: "disabled", expected: [] },
    {
      name: "that is in by its own label",
      pod: pod("a", { inject: "enabled" }),
      label: "disabled",
      expected: ["a"],
    },
    {
      name: "of an exempt namespace",
      pod: pod("a", { namespace: "kube-system" }),
      label: "enabled",
      expected: [],
    },
    {
      name: "of a namespace that nobody knows",
      pod: pod("a", { namespace: "x" }),
      label: "enabled",
      expected: [],
    },
  ])("a pod $name", ({ pod: one, label, expected }) => {
    expect(names(stateOf([one], label))).toEqual(expected);
  });

  test.each([
    { label: "enabled", inject: "disabled", expected: ["a"] },
    { label: "disabled", inject: "disabled", expected: [] },
    { label: "enabled", inject: undefined, expected: [] },
  ])("a pod labelled $inject in a namespace labelled $label is told apart", ({ label, inject, expected }) => {
    const { optedOut } = unmeshedPods(stateOf([pod("a", { inject })], label), EXEMPT);
    expect(optedOut.map(({ name }) => name)).toEqual(expected);
  });

  test("are in order", () => {
    expect(names(stateOf([pod("b"), pod("a"), pod("c")]))).toEqual(["a", "b", "c"]);
  });
});

describe("runAuditor", () => {
  function start(first: AuditedState) {
    const clock = new FakeClock(0);
    const stop = new AbortController();
    const told: [EventSubject, EventNote][] = [];
    const counts: [missing: number, optedOut: number][] = [];
    let state = first;
    let changed = (): void => {};
    const done = runAuditor(
      {
        state: () => state,
        exempt: EXEMPT,
        onChanged: (listener) => {
          changed = listener;
          return () => {
            changed = () => {};
          };
        },
        events: { record: (subject, note) => void told.push([subject, note]) },
        observe: (missing, optedOut) => void counts.push([missing, optedOut]),
        clock,
        log: createLogger("silent"),
      },
      stop.signal,
    );
    /** Lets time pass until the auditor sleeps again. */
    const pass = async (ms: number): Promise<void> => {
      clock.advance(ms);
      for (let turn = 0; turn < 20; turn++) await Promise.resolve();
    };
    return {
      told,
      counts,
      pass,
      change: (next: AuditedState) => {
        state = next;
        changed();
      },
      end: async () => {
        stop.abort();
        await done;
      },
    };
  }

  test("tells each pod once, what came later too, and again after half an hour", async () => {
    const { told, pass, change, end } = start(stateOf([pod("a")]));
    expect(told).toEqual([
      [
        { apiVersion: "v1", kind: "Pod", namespace: "lab", name: "a", uid: "uid-a" },
        { type: "Warning", reason: "NotMeshed", note: expect.stringContaining("make it anew") },
      ],
    ]);
    await pass(5_000);
    change(stateOf([pod("a"), pod("b")]));
    await pass(0);
    expect(told.map(([{ name }]) => name)).toEqual(["a", "b"]);
    await pass(5_000);
    await pass(1_800_000);
    expect(told.map(([{ name }]) => name)).toEqual(["a", "b", "a", "b"]);
    await end();
  });

  test("a pod that is meshed now is forgotten", async () => {
    const { told, pass, change, end } = start(stateOf([pod("a")]));
    await pass(5_000);
    change(stateOf([pod("a", { injected: true })]));
    await pass(0);
    await pass(5_000);
    change(stateOf([pod("a")]));
    await pass(0);
    expect(told).toHaveLength(2);
    await end();
  });

  test("counts what it sees, and nothing once another replica leads", async () => {
    const { counts, pass, change, end } = start(stateOf([pod("a"), pod("b", { inject: "disabled" })]));
    await pass(5_000);
    change(stateOf([]));
    await pass(0);
    await end();
    expect(counts).toEqual([
      [1, 1],
      [0, 0],
      [0, 0],
    ]);
  });

  test("a thousand pods are told in rounds", async () => {
    const pods = Array.from({ length: 120 }, (_, index) => pod(`p${index}`));
    const { told, pass, end } = start(stateOf(pods));
    const counts = [told.length];
    for (let round = 0; round < 4; round++) {
      await pass(5_000);
      counts.push(told.length);
    }
    expect(counts).toEqual([50, 100, 120, 120, 120]);
    expect(new Set(told.map(([{ uid }]) => uid)).size).toBe(120);
    await end();
  });
});
