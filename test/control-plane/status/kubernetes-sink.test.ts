// The sink over a small API server: 10 000 policies that need nothing, a mass change, and what goes wrong on the way.
import { setImmediate } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import type { KubernetesRest } from "../../../control-plane/kubernetes/rest.ts";
import { ApiError } from "../../../control-plane/kubernetes/rest.ts";
import type { WriteRequest } from "../../../control-plane/kubernetes/writer.ts";
import { policyStatus, readOwnStatus } from "../../../control-plane/status/api-status.ts";
import type { PolicyStatus } from "../../../control-plane/status/conditions.ts";
import { KubernetesSink } from "../../../control-plane/status/kubernetes-sink.ts";
import type { RefusedObject } from "../../../control-plane/status/world.ts";
import { silentLogger } from "../../../sidecar/core/runtime/log.ts";
import { FakeClock } from "../../fakes/clock.ts";

const NOW = Date.UTC(2026, 10, 21);
const POLICIES = "/apis/countersign.dev/v1alpha1/accesspolicies";

interface Stored {
  readonly metadata: { name: string; namespace?: string; uid: string; generation: number };
  status?: unknown;
}

const status = (generation: number, programmed = 1): PolicyStatus => ({
  observedGeneration: generation,
  conditions: (["Accepted", "Programmed"] as const).map((type) => ({
    ...{ type, status: "True" as const, observedGeneration: generation, reason: type, message: "" },
    lastTransitionTime: new Date(NOW).toISOString(),
  })),
  targets: { workloads: 1, externals: 0 },
  proxies: { total: programmed, programmed, nacked: 0, revision: 1, lagging: [] },
});

let clock: FakeClock;
let stop: AbortController;
let done: Promise<void>;
let sink: KubernetesSink;
let lists: Map<string, Stored[]>;
let watches: Map<string, (line: string) => void>;
let writes: WriteRequest[];
let inFlight: number;
let most: number;
let refused: RefusedObject[];
let generations: Map<string, number>;
let pinned: number | undefined;
let refreshes: number;
let schemaLacks: string;
/** Answers instead of the API server. */
let fail: (request: WriteRequest) => Error | undefined;

beforeEach(() => {
  clock = new FakeClock(NOW);
  stop = new AbortController();
  lists = new Map();
  watches = new Map();
  writes = [];
  inFlight = 0;
  most = 0;
  refused = [];
  generations = new Map();
  pinned = undefined;
  refreshes = 0;
  schemaLacks = "";
  fail = () => undefined;
});
afterEach(async () => {
  stop.abort();
  clock.advance(1);
  await done;
});

const rest: KubernetesRest = {
  get: async (path) => ({ metadata: { resourceVersion: "1" }, items: lists.get(path) ?? [] }),
  watch: (path, _query, { onLine, signal }) =>
    new Promise((resolve) => {
      watches.set(path, onLine);
      signal.addEventListener("abort", () => resolve(), { once: true });
    }),
};

async function send(request: WriteRequest): Promise<unknown> {
  writes.push(request);
  inFlight += 1;
  most = Math.max(most, inFlight);
  await setImmediate();
  inFlight -= 1;
  const error = fail(request);
  if (error) throw error;
  const { metadata, status: written } = request.body as Stored;
  const all = [...lists.values()].flat();
  const found = all.find(({ metadata: { uid } }) => uid === metadata.uid);
  if (!found) throw new ApiError(409, "Conflict", "uid");
  const { [schemaLacks]: _, ...kept } = JSON.parse(JSON.stringify(written));
  found.status = kept;
  return structuredClone(found);
}

function policy(name: string, generation = 1, stored?: unknown): Stored {
  const made = { metadata: { name, namespace: "ns", uid: `u-${name}`, generation }, status: stored };
  lists.set(POLICIES, [...(lists.get(POLICIES) ?? []), made]);
  return made;
}

function tell(path: string, type: string, object: Stored): void {
  watches.get(path)?.(
    JSON.stringify({ type, object: { ...object, metadata: { ...object.metadata, resourceVersion: "2" } } }),
  );
}

function start(): void {
  sink = new KubernetesSink({
    rest,
    writer: { send },
    world: {
      refused: () => refused,
      generationOf: (key) => generations.get(key),
      pinned: () => pinned,
    },
    clock,
    random: () => 0.5,
    log: silentLogger,
    refresh: () => {
      refreshes += 1;
    },
  });
  done = sink.run(stop.signal);
}

async function pass(ms: number): Promise<void> {
  for (let passed = 0; passed < ms; passed += 100) {
    for (let i = 0; i < 4; i++) await setImmediate();
    clock.advance(100);
  }
  for (let i = 0; i < 4; i++) await setImmediate();
}

const names = (): string[] => writes.map(({ path }) => path.split("/").at(-2) ?? "");

describe("KubernetesSink", () => {
  test("10 000 policies that are as they should be are not written", async () => {
    const own = policyStatus(status(1), readOwnStatus(undefined));
    lists.set(
      POLICIES,
      Array.from({ length: 10_000 }, (_, i) => ({
        metadata: { name: `p${i}`, namespace: "ns", uid: `u${i}`, generation: 1 },
        status: own,
      })),
    );
    start();
    for (let i = 0; i < 10_000; i++) sink.put(`AccessPolicy/ns/p${i}`, status(1));
    await sink.flush();
    for (let turn = 0; turn < 400; turn++) await setImmediate();
    await pass(5_000);
    expect(writes).toEqual([]);
    sink.put("AccessPolicy/ns/p77", status(1, 2));
    await sink.flush();
    await pass(1_000);
    expect(names()).toEqual(["p77"]);
  });

  test("a mass change is spread, verdicts before counts, eight at a time", async () => {
    for (let i = 0; i < 300; i++)
      policy(`p${i}`, 1, i < 150 ? policyStatus(status(1), readOwnStatus(undefined)) : undefined);
    start();
    for (let i = 0; i < 300; i++) sink.put(`AccessPolicy/ns/p${i}`, status(1, 2));
    await sink.flush();
    await pass(3_000);
    expect(writes.length).toBeLessThanOrEqual(60);
    await pass(1_000);
    expect(writes.length).toBeLessThanOrEqual(110);
    await pass(8_000);
    expect(names()).toEqual([
      ...Array.from({ length: 150 }, (_, i) => `p${i + 150}`),
      ...Array.from({ length: 150 }, (_, i) => `p${i}`),
    ]);
    expect(most).toBeLessThanOrEqual(8);
    await pass(30_000);
    expect(writes).toHaveLength(300);
  });

  test("an edit does not wait behind the mass that a new leader writes", async () => {
    for (let i = 0; i < 400; i++) policy(`p${i}`);
    start();
    for (let i = 0; i < 400; i++) sink.put(`AccessPolicy/ns/p${i}`, status(1));
    await sink.flush();
    await pass(3_500);
    const before = writes.length;
    expect(before).toBeLessThan(150);
    const edited = lists.get(POLICIES)?.[399];
    if (edited === undefined) throw new Error("it was made above");
    edited.metadata.generation = 2;
    tell(POLICIES, "MODIFIED", edited);
    await sink.flush();
    await pass(100); // the source is a little behind
    sink.put("AccessPolicy/ns/p399", status(2));
    await sink.flush();
    await pass(500);
    expect(names().slice(before, before + 30)).toContain("p399");
    // Again while the mass goes on, and while what was said is of the generation before.
    edited.metadata.generation = 3;
    tell(POLICIES, "MODIFIED", edited);
    await sink.flush();
    await pass(100);
    const then = writes.length;
    sink.put("AccessPolicy/ns/p399", status(3));
    await sink.flush();
    await pass(2_500);
    expect(names().slice(then)).toContain("p399");
    expect(writes.length).toBeLessThan(400);
  });

  test("applies with its field manager, for the very object that it knows", async () => {
    policy("one");
    start();
    sink.put("AccessPolicy/ns/one", status(1));
    await sink.flush();
    await pass(4_000);
    expect(writes).toMatchObject([
      {
        method: "PATCH",
        path: "/apis/countersign.dev/v1alpha1/namespaces/ns/accesspolicies/one/status",
        query: { fieldManager: "countersign", force: "true" },
        contentType: "application/apply-patch+yaml",
        body: { kind: "AccessPolicy", metadata: { name: "one", namespace: "ns", uid: "u-one" } },
      },
    ]);
  });

  test("goes on after the API server was away, without a storm", async () => {
    for (let i = 0; i < 30; i++) policy(`p${i}`);
    fail = () => new ApiError(503, "", "away");
    start();
    for (let i = 0; i < 30; i++) sink.put(`AccessPolicy/ns/p${i}`, status(1));
    await sink.flush();
    await pass(63_000);
    expect(writes.length).toBeLessThan(120);
    fail = () => undefined;
    writes = [];
    await pass(40_000);
    expect(new Set(names()).size).toBe(30);
    expect(writes).toHaveLength(30);
  });

  test.each([404, 409, 422])("does not insist when the answer is %d", async (code) => {
    policy("one");
    fail = () => new ApiError(code, "", "no");
    start();
    sink.put("AccessPolicy/ns/one", status(1));
    await sink.flush();
    await pass(60_000);
    expect(writes).toHaveLength(1);
  });

  test("writes once where the API server drops a field that it does not know", async () => {
    policy("one");
    schemaLacks = "lastAccepted";
    start();
    sink.put("AccessPolicy/ns/one", { ...status(1), lastAccepted: "{}" });
    for (let i = 0; i < 5; i++) {
      await sink.flush();
      await pass(3_000);
    }
    expect(writes).toHaveLength(1);
    sink.put("AccessPolicy/ns/one", { ...status(1), lastAccepted: '{"generation":2}' });
    await sink.flush();
    await pass(3_000);
    expect(writes).toHaveLength(2);
  });

  test("writes again when somebody undoes it", async () => {
    const one = policy("one");
    start();
    sink.put("AccessPolicy/ns/one", status(1));
    await sink.flush();
    await pass(4_000);
    one.status = {};
    tell(POLICIES, "MODIFIED", one);
    await pass(5_000);
    expect(writes).toHaveLength(2);
  });

  test("does not go back behind what a leader before it has seen, unless the mesh is pinned", async () => {
    policy("one", 5, policyStatus(status(5), readOwnStatus(undefined)));
    start();
    sink.put("AccessPolicy/ns/one", status(4));
    await sink.flush();
    await pass(10_000);
    expect(writes).toEqual([]);
    expect(refreshes).toBeGreaterThan(1);
    pinned = 3;
    sink.put("AccessPolicy/ns/one", status(3));
    await sink.flush();
    await pass(1_000);
    expect(writes).toHaveLength(1);
  });

  test("says of a policy that a pinned mesh does not have that it is not in force, until the end of the pin", async () => {
    const one = policy("one", 2, policyStatus(status(2), readOwnStatus(undefined)));
    const fresh = policy("fresh");
    const edited = policy("edited", 3, policyStatus(status(2), readOwnStatus(undefined)));
    pinned = 7;
    start();
    await pass(5_000);
    expect(writes).toEqual([]); // what is in force has not been told yet
    await sink.flush();
    await pass(3_000);
    const conditions = ({ status: written }: Stored): unknown =>
      readOwnStatus(written).conditions.map((one) => `${one.type}=${one.status}/${one.reason}`);
    expect(names().sort()).toEqual(["edited", "fresh", "one"]);
    expect(conditions(one)).toEqual(["Accepted=True/Accepted", "Programmed=False/Pinned"]);
    expect(conditions(fresh)).toEqual(["Programmed=False/Pinned"]);
    expect(conditions(edited)).toEqual(["Programmed=False/Pinned"]); // what was said is of an earlier generation
    await sink.flush();
    await pass(3_000);
    expect(writes).toHaveLength(3);
    pinned = undefined;
    sink.put("AccessPolicy/ns/one", status(2));
    await sink.flush();
    await pass(3_000);
    expect(conditions(one)).toEqual(["Accepted=True/Accepted", "Programmed=True/Programmed"]);
  });

  test("judges other kinds when the source has, and tells when a refusal is over", async () => {
    const path = "/apis/countersign.dev/v1alpha1/meshroles";
    const role: Stored = { metadata: { name: "r", uid: "u-r", generation: 2 } };
    lists.set(path, [role]);
    generations.set("MeshRole/r", 1);
    start();
    await pass(5_000);
    expect(writes).toEqual([]);
    generations.set("MeshRole/r", 2);
    refused = [{ object: "MeshRole/r", refusals: [{ reason: "Invalid", message: "no" }] }];
    await sink.flush();
    await pass(3_000);
    refused = [];
    await sink.flush();
    await pass(3_000);
    expect(
      writes.map(({ body }) => {
        const { conditions } = (body as { status: { conditions: { status: string; reason: string }[] } })
          .status;
        return conditions.map(({ status: verdict, reason }) => `${verdict} ${reason}`).join();
      }),
    ).toEqual(["False Invalid", "True Accepted"]);
  });

  test("says nothing of an object that is gone", async () => {
    const one = policy("one");
    start();
    sink.put("AccessPolicy/ns/one", status(1));
    await sink.flush();
    await pass(3_500);
    tell(POLICIES, "DELETED", one);
    sink.put("AccessPolicy/ns/one", status(2));
    await sink.flush();
    await pass(5_000);
    expect(writes).toHaveLength(1);
  });
});
