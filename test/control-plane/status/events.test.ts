// Events: what is worth one, and that a storm of them becomes one that counts.
import { setImmediate } from "node:timers/promises";
import { describe, expect, test } from "@jest/globals";
import type { WriteRequest } from "../../../control-plane/kubernetes/writer.ts";
import {
  type ApiCondition,
  type OwnStatus,
  readOwnStatus,
} from "../../../control-plane/status/api-status.ts";
import { notesOf, Overdue } from "../../../control-plane/status/event-notes.ts";
import { EventRecorder } from "../../../control-plane/status/events.ts";
import { silentLogger } from "../../../sidecar/core/runtime/log.ts";
import { FakeClock } from "../../fakes/clock.ts";

const NOW = Date.UTC(2026, 10, 21);
const condition = (type: string, status: string, reason: string, message = ""): ApiCondition => ({
  ...{ type, status, reason, message, observedGeneration: 1 },
  lastTransitionTime: new Date(NOW).toISOString(),
});
const accepted = condition("Accepted", "True", "Accepted");
const refused = condition("Accepted", "False", "UnknownRole", "no role `x`");
const programmed = condition("Programmed", "True", "Programmed", "2/2 proxies");
const propagating = condition("Programmed", "False", "Propagating", "1/2 proxies");
const nacked = condition("Programmed", "False", "Refused", "1/2 proxies");
const status = (...conditions: ApiCondition[]): OwnStatus => ({
  observedGeneration: 1,
  conditions,
  proxies: {
    total: 2,
    programmed: 1,
    nacked: 1,
    revision: 1,
    lagging: ["a/x", "a/y"],
    nacks: ["a/x: cannot"],
  },
});
const reasons = (before: OwnStatus, now: OwnStatus): string[] =>
  notesOf(before, now).map(({ type, reason, note }) => `${type} ${reason}: ${note}`);

describe("notesOf", () => {
  test.each([
    [readOwnStatus(undefined), status(accepted, propagating), []],
    [status(accepted, propagating), status(accepted, programmed), []],
    [status(accepted, programmed), status(accepted, programmed), []],
    [readOwnStatus(undefined), status(refused), ["Warning Refused: UnknownRole: no role `x`"]],
    [status(refused), status(refused), []],
    [
      status(refused),
      status({ ...refused, message: "no role `y`" }),
      ["Warning Refused: UnknownRole: no role `y`"],
    ],
    [status(refused), status(accepted), ["Normal Accepted: generation 1 is accepted"]],
    [
      status(accepted, propagating),
      status(accepted, nacked),
      ["Warning ProxyRefused: 1/2 proxies: a/x: cannot"],
    ],
    [status(accepted, nacked), status(accepted, nacked), []],
    [status(accepted, nacked), status(accepted, programmed), ["Normal Programmed: 2/2 proxies"]],
  ])("%#", (before, now, notes) => {
    expect(reasons(before, now)).toEqual(notes);
  });
});

describe("Overdue", () => {
  test("tells once of what takes longer than a minute, and when it is over", () => {
    const overdue = new Overdue();
    expect(overdue.saw("k", status(propagating))).toBeUndefined();
    expect(overdue.due(NOW + 59_000)).toEqual([]);
    expect(overdue.due(NOW + 60_000)).toEqual([
      [
        "k",
        {
          ...{ type: "Warning", reason: "NotProgrammed" },
          note: "1/2 proxies after 60 s: waiting for a/x, a/y",
        },
      ],
    ]);
    overdue.saw("k", status(propagating));
    expect(overdue.due(NOW + 900_000)).toEqual([]);
    expect(overdue.saw("k", status(programmed))).toMatchObject({ reason: "Programmed" });
    overdue.saw("k", status(propagating));
    overdue.saw("k", status(programmed));
    expect(overdue.due(NOW + 900_000)).toEqual([]);
  });
});

describe("EventRecorder", () => {
  const subject = (name: string) => ({ kind: "AccessPolicy", namespace: "ns", name, uid: `uid-${name}` });
  const note = { type: "Warning", reason: "Refused", note: "Invalid: no" } as const;

  function setUp() {
    const clock = new FakeClock(NOW);
    const stop = new AbortController();
    const sent: WriteRequest[] = [];
    const state = { isDown: false };
    const events = new EventRecorder({
      writer: {
        send: async (request) => {
          if (state.isDown) throw new Error("away");
          sent.push(request);
          return {};
        },
      },
      identity: "pod-1",
      clock,
      log: silentLogger,
    });
    const done = events.run(stop.signal);
    const pass = async (ms: number): Promise<void> => {
      for (let passed = 0; passed < ms; passed += 1_000) {
        await setImmediate();
        clock.advance(Math.min(1_000, ms));
      }
      await setImmediate();
    };
    const end = async (): Promise<void> => {
      stop.abort();
      await done;
    };
    return { clock, sent, state, events, pass, end };
  }

  test("writes an event as events.k8s.io/v1 wants it", async () => {
    const { sent, events, pass, end } = setUp();
    events.record(subject("a"), note);
    await pass(10);
    expect(sent).toMatchObject([
      {
        method: "POST",
        path: "/apis/events.k8s.io/v1/namespaces/ns/events",
        body: {
          metadata: { name: expect.stringMatching(/^a\.[0-9a-f]{16}$/), namespace: "ns" },
          eventTime: "2026-11-21T00:00:00.000000Z",
          regarding: {
            apiVersion: "countersign.dev/v1alpha1",
            kind: "AccessPolicy",
            name: "a",
            uid: "uid-a",
          },
          ...{ reason: "Refused", type: "Warning", note: "Invalid: no", reportingInstance: "pod-1" },
        },
      },
    ]);
    await end();
  });

  test("a thousand of one object and reason are one event that counts them, and a new one ten minutes later", async () => {
    const { sent, events, pass, end } = setUp();
    for (let i = 0; i < 100; i++) {
      for (let j = 0; j < 10; j++) events.record(subject("a"), note);
      await pass(1_000);
    }
    await pass(120_000);
    expect(sent.filter(({ method }) => method === "POST")).toHaveLength(1);
    const patches = sent.filter(({ method }) => method === "PATCH");
    expect(patches.length).toBeLessThanOrEqual(3);
    expect(patches.at(-1)?.body).toMatchObject({ series: { count: 1_000 } });
    await pass(500_000);
    events.record(subject("a"), note);
    await pass(1_000);
    expect(sent.filter(({ method }) => method === "POST")).toHaveLength(2);
    await end();
  });

  test("a storm over many objects is spread, and what the API server does not take is dropped", async () => {
    const { sent, state, events, pass, end } = setUp();
    for (let i = 0; i < 5_000; i++) events.record(subject(`o${i}`), note);
    await pass(10_000);
    expect(sent.length).toBeLessThanOrEqual(25 + 50);
    state.isDown = true;
    await pass(300_000);
    const before = sent.length;
    state.isDown = false;
    events.record(subject("later"), note);
    await pass(5_000);
    expect(sent.length).toBe(before + 1);
    await end();
  });
});
