import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import {
  type ApiObject,
  type Change,
  type ListWatchLimits,
  runListWatch,
} from "../../../control-plane/kubernetes/list-watch.ts";
import { createKubernetesRest } from "../../../control-plane/kubernetes/rest.ts";
import { type Clock, systemClock } from "../../../sidecar/core/runtime/clock.ts";
import { silentLogger } from "../../../sidecar/core/runtime/log.ts";
import { FakeKubeApi, refuse } from "../../fakes/kube-api.ts";

const PATH = "/api/v1/pods";
let api: FakeKubeApi;
let stop: AbortController;
let done: Promise<void>;
/** What a reader would hold: changes applied in order. */
let seen: Map<string, unknown>;
let calls: (readonly Change<unknown>[])[];
let sleeps: number[];
let health: boolean[];

/** Pauses are counted, not waited for. */
const clock: Clock = {
  ...systemClock,
  sleep: async (ms, signal) => {
    sleeps.push(ms);
    await new Promise((resolve) => setImmediate(resolve));
    if (signal?.aborted) return;
  },
};

function run(
  limits: Partial<ListWatchLimits> = {},
  project: (object: ApiObject) => unknown = (object) => object["phase"],
): void {
  done = runListWatch(
    {
      rest: createKubernetesRest(api.credentials),
      path: PATH,
      project,
      isSame: (a, b) => a === b,
      onChanges: (changes) => {
        calls.push(changes);
        for (const change of changes)
          if (change.kind === "set") seen.set(change.key, change.value);
          else seen.delete(change.key);
      },
      onHealth: (isHealthy) => health.push(isHealthy),
      clock,
      random: () => 0,
      log: silentLogger,
      limits: { idleMs: 30_000, ...limits },
    },
    stop.signal,
  );
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve));
}

beforeEach(async () => {
  api = await FakeKubeApi.start();
  stop = new AbortController();
  done = Promise.resolve();
  seen = new Map();
  calls = [];
  sleeps = [];
  health = [];
});
afterEach(async () => {
  stop.abort();
  await done;
  await api.close();
});

describe("runListWatch", () => {
  test("lists in pages, keeps projections alone, then follows", async () => {
    for (let i = 0; i < 7; i++) api.set("a", `p${i}`, { phase: `x${i}` });
    run({ pageSize: 3 });
    await until(() => api.watches === 1);
    expect(seen.size).toBe(7);
    expect(calls).toHaveLength(1);
    expect(api.requests.filter((url) => !url.searchParams.has("watch"))).toHaveLength(3);
    const watch = api.requests.at(-1)?.searchParams;
    expect([watch?.get("allowWatchBookmarks"), watch?.get("resourceVersion")]).toEqual([
      "true",
      String(api.version),
    ]);
    api.set("a", "p1", { phase: "y" });
    api.set("b", "new", { phase: "z" });
    api.delete("a", "p2");
    await until(() => seen.get("b/new") === "z" && !seen.has("a/p2"));
    expect(seen.get("a/p1")).toBe("y");
  });

  test("tells that there is nothing, once", async () => {
    run();
    await until(() => api.watches === 1);
    expect(calls).toEqual([[]]);
  });

  test("does not tell what the projection does not show, and forgets what it drops", async () => {
    api.set("a", "p", { phase: "x" });
    run();
    await until(() => api.watches === 1);
    api.set("a", "p", { phase: "x", other: 1 });
    api.set("a", "p", {});
    await until(() => !seen.has("a/p"));
    expect(calls.slice(1)).toEqual([[{ kind: "delete", key: "a/p" }]]);
  });

  test.each(["end", "destroy"] as const)(
    "goes on where it was after a watch that was broken (%s)",
    async (how) => {
      api.set("a", "p", { phase: "x" });
      run();
      await until(() => api.watches === 1);
      api.breakWatches(how);
      api.set("a", "q", { phase: "y" });
      await until(() => seen.has("a/q"));
      expect(api.requests.filter((url) => !url.searchParams.has("watch"))).toHaveLength(1);
    },
  );

  test("goes on from a bookmark", async () => {
    run();
    await until(() => api.watches === 1);
    api.bookmark();
    const { version } = api;
    // Behind the bookmark: when this one is seen, so is that.
    api.set("a", "p", { phase: "x" });
    await until(() => seen.has("a/p"));
    api.breakWatches("end");
    await until(() => api.watches === 1);
    expect(Number(api.requests.at(-1)?.searchParams.get("resourceVersion"))).toBeGreaterThan(version);
  });

  test("lists again when its version is compacted away, and tells the difference only", async () => {
    for (const name of ["same", "gone", "changed"]) api.set("a", name, { phase: "x" });
    run();
    await until(() => api.watches === 1);
    const before = calls.length;
    api.instead.push((response) => refuse(response, 500, "InternalError"));
    api.breakWatches("destroy");
    api.delete("a", "gone");
    api.set("a", "changed", { phase: "y" });
    api.set("a", "new", { phase: "z" });
    api.compact();
    await until(() => seen.has("a/new"));
    expect([...seen].sort()).toEqual([
      ["a/changed", "y"],
      ["a/new", "z"],
      ["a/same", "x"],
    ]);
    expect(calls.slice(before).flat()).toHaveLength(3);
  });

  test("takes an expiry in the middle of a watch like one at its begin", async () => {
    api.set("a", "p", { phase: "x" });
    run();
    await until(() => api.watches === 1);
    const lists = () => api.requests.filter((url) => !url.searchParams.has("watch")).length;
    api.say(
      `${JSON.stringify({ type: "ERROR", object: { kind: "Status", code: 410, reason: "Expired" } })}\n`,
    );
    await until(() => lists() === 2 && api.watches >= 1);
    expect(seen.get("a/p")).toBe("x");
  });

  test.each<[string, string]>([
    ["no JSON", "{\n"],
    ["an unknown type", '{"type":"SOMETHING","object":{"metadata":{}}}\n'],
    ["no object", '{"type":"ADDED"}\n'],
    ["an object without metadata", '{"type":"ADDED","object":{}}\n'],
    ["an error of another kind", '{"type":"ERROR","object":{"code":500}}\n'],
  ])("lives on after an event that has %s", async (_name, text) => {
    api.set("a", "p", { phase: "x" });
    run();
    await until(() => api.watches === 1);
    api.say(text);
    api.set("a", "q", { phase: "y" });
    await until(() => seen.has("a/q"));
    expect(seen.get("a/p")).toBe("x");
  });

  test("keeps what it has while the server fails, and asks more and more slowly", async () => {
    api.set("a", "p", { phase: "x" });
    run();
    await until(() => api.watches === 1);
    for (let i = 0; i < 6; i++) api.instead.push((response) => refuse(response, 503, "ServiceUnavailable"));
    api.breakWatches("destroy");
    await until(() => api.instead.length === 0 && api.watches === 1);
    expect(seen.get("a/p")).toBe("x");
    const pauses = sleeps.slice(-6);
    expect(pauses.slice(0, 4).toSorted((a, b) => a - b)).toEqual(pauses.slice(0, 4));
    expect(pauses.at(-1)).toBeGreaterThanOrEqual(2_000);
    expect(Math.max(...pauses)).toBeLessThanOrEqual(4_000);
  });

  test("is healthy again when a watch opens, however quiet it stays", async () => {
    run();
    await until(() => api.watches === 1);
    api.instead.push((response) => refuse(response, 503, "ServiceUnavailable"));
    api.breakWatches("destroy");
    await until(() => api.watches === 1 && health.length === 3);
    expect(health).toEqual([true, false, true]);
  });

  test("a first list that fails is tried again; nothing is told before it is whole", async () => {
    for (let i = 0; i < 4; i++) api.set("a", `p${i}`, { phase: "x" });
    api.instead.push(
      (response) => refuse(response, 403, "Forbidden"),
      (response) => response.end("not JSON"),
      (response) => response.end("{}"),
      (response) => response.destroy(),
    );
    run({ pageSize: 2 });
    await until(() => api.watches === 1);
    expect(calls).toHaveLength(1);
    expect(seen.size).toBe(4);
  });

  test("an answer without a byte for too long is given up", async () => {
    run({ idleMs: 50 });
    await until(() => api.requests.filter((url) => url.searchParams.has("watch")).length >= 2);
    api.set("a", "p", { phase: "x" });
    await until(() => seen.has("a/p"));
  });

  test("a listener that throws ends nothing", async () => {
    api.set("a", "p", { phase: "x" });
    let thrown = 0;
    const { rest, ...more } = { rest: createKubernetesRest(api.credentials), path: PATH };
    done = runListWatch<unknown>(
      {
        rest,
        ...more,
        project: (object) => object["phase"],
        onChanges: () => {
          thrown++;
          throw new Error("a bug");
        },
        clock,
        random: () => 0,
        log: silentLogger,
      },
      stop.signal,
    );
    await until(() => api.watches === 1);
    api.set("a", "q", { phase: "y" });
    await until(() => thrown === 2);
  });

  test("whatever happens in whatever order, it ends with what the server has", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.oneof(
            fc.record({
              do: fc.constant("set" as const),
              name: fc.integer({ min: 0, max: 4 }),
              phase: fc.nat(3),
            }),
            fc.record({ do: fc.constant("delete" as const), name: fc.integer({ min: 0, max: 4 }) }),
            fc.record({ do: fc.constantFrom("compact", "end", "destroy", "bookmark", "fail", "turn") }),
          ),
          { maxLength: 25 },
        ),
        async (steps) => {
          await api.close();
          api = await FakeKubeApi.start();
          stop = new AbortController();
          seen = new Map();
          const expected = new Map<string, unknown>();
          run();
          for (const step of steps) {
            if (step.do === "set") {
              const { name, phase } = step as { name: number; phase: number };
              api.set("a", `p${name}`, { phase });
              expected.set(`a/p${name}`, phase);
            } else if (step.do === "delete") {
              const { name } = step as { name: number };
              api.delete("a", `p${name}`);
              expected.delete(`a/p${name}`);
            } else if (step.do === "compact") api.compact();
            else if (step.do === "end" || step.do === "destroy") api.breakWatches(step.do);
            else if (step.do === "bookmark") api.bookmark();
            else if (step.do === "fail")
              api.instead.push((response) => refuse(response, 500, "InternalError"));
            else await new Promise((resolve) => setTimeout(resolve, 1));
          }
          api.set("a", "last", { phase: "last" });
          await until(() => seen.get("a/last") === "last");
          seen.delete("a/last");
          expect(new Map([...seen].sort())).toEqual(new Map([...expected].sort()));
          stop.abort();
          await done;
        },
      ),
      { numRuns: 40 },
    );
  });
});
