// The keeper of trust bundle ConfigMaps against a small API server; on a real one in test/cluster/e2e/attestation.test.ts.
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import {
  BUNDLE_NAME,
  type BundleConfigMapsDeps,
  runBundleConfigMaps,
} from "../../../control-plane/kubernetes/bundle-config-map.ts";
import { createKubernetesRest } from "../../../control-plane/kubernetes/rest.ts";
import { createLogger } from "../../../sidecar/core/runtime/log.ts";
import { FakeClock } from "../../fakes/clock.ts";
import { FakeKubeApi } from "../../fakes/kube-api.ts";

let api: FakeKubeApi;
let clock: FakeClock;
let stop: AbortController;
let done: Promise<void>;
let log: string[];
let roots: string;
let wanted: Set<string> | undefined;
let withPods: Set<string>;
let changed: () => void;
/** `write lab`, `delete lab`, in order. */
let calls: string[];
/** What the next writes are answered with instead. */
let failures: number[];

/** What is in force, by namespace. */
let maps: Map<string, { pem: string; label: boolean; immutable: boolean }>;

function put(
  namespace: string,
  pem: string,
  { label = true, immutable = false }: { label?: boolean; immutable?: boolean } = {},
): void {
  maps.set(namespace, { pem, label, immutable });
  api.set(namespace, BUNDLE_NAME, {
    metadata: {
      name: BUNDLE_NAME,
      namespace,
      resourceVersion: String(api.version + 1),
      ...(label ? { labels: { "countersign.dev/bundle": "true" } } : {}),
    },
    data: { "roots.pem": pem, other: "x" },
  });
}

function drop(namespace: string): void {
  maps.delete(namespace);
  api.delete(namespace, BUNDLE_NAME);
}

const refusal = (code: number, text = "no"): Error => Object.assign(new Error(text), { code });

const core: BundleConfigMapsDeps["core"] = {
  patchNamespacedConfigMap: async ({ namespace, body }) => {
    calls.push(`write ${namespace}`);
    const code = failures.shift();
    if (code !== undefined) throw refusal(code);
    if (maps.get(namespace)?.immutable) throw refusal(422, "field is immutable");
    put(namespace, body.data["roots.pem"]);
    return { metadata: { resourceVersion: String(api.version) }, data: body.data };
  },
  deleteNamespacedConfigMap: async ({ namespace, body }) => {
    calls.push(`delete ${namespace}`);
    if (body?.preconditions?.resourceVersion === undefined) throw refusal(400);
    if (!maps.has(namespace)) throw refusal(404);
    drop(namespace);
    return {};
  },
};

beforeEach(async () => {
  api = await FakeKubeApi.start();
  clock = new FakeClock(1_000_000);
  stop = new AbortController();
  log = [];
  roots = "ROOT A\n";
  wanted = new Set(["lab", "countersign-system"]);
  withPods = new Set();
  calls = [];
  failures = [];
  maps = new Map();
  changed = () => {};
});
afterEach(async () => {
  stop.abort();
  await done;
  await api.close();
});

function run(): void {
  done = runBundleConfigMaps(
    {
      core,
      apply: {},
      rest: createKubernetesRest(api.credentials),
      roots: () => roots,
      namespaces: () => wanted,
      hasPods: (namespace) => withPods.has(namespace),
      onChanged: (listener) => {
        changed = listener;
        return () => {
          changed = () => {};
        };
      },
      clock,
      random: () => 0,
      log: createLogger("debug", {}, (line) => log.push(line)),
    },
    stop.signal,
  );
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve));
}
/** Long enough for everything that is going to happen without time passing. */
async function settle(): Promise<void> {
  for (let i = 0; i < 50; i++) await new Promise((resolve) => setImmediate(resolve));
}
const inForce = (): Record<string, string> =>
  Object.fromEntries([...maps].map(([namespace, { pem }]) => [namespace, pem]));

describe("the trust bundle's ConfigMaps", () => {
  test("stand in every namespace that needs one, and only those that differ are written", async () => {
    put("lab", "ROOT A\n");
    run();
    await until(() => maps.size === 2);
    await settle();
    expect(inForce()).toEqual({ lab: "ROOT A\n", "countersign-system": "ROOT A\n" });
    expect(calls).toEqual(["write countersign-system"]);
  });

  test("follow the roots and the namespaces", async () => {
    run();
    await until(() => maps.size === 2);
    await until(() => api.watches === 1);
    clock.advance(1_000);
    roots = "ROOT A\nROOT B\n";
    wanted = new Set(["lab", "countersign-system", "serving"]);
    changed();
    await until(() => Object.values(inForce()).filter((pem) => pem === roots).length === 3);
    expect(Object.keys(inForce()).sort()).toEqual(["countersign-system", "lab", "serving"]);
  });

  test.each([
    { name: "deleted", edit: () => drop("lab") },
    { name: "edited", edit: () => put("lab", "EVIL") },
    { name: "stripped of its label", edit: () => put("lab", "ROOT A\n", { label: false }) },
    { name: "made immutable and edited", edit: () => put("lab", "EVIL", { immutable: true }) },
  ])("come back when $name", async ({ edit }) => {
    run();
    await until(() => maps.size === 2 && api.watches === 1);
    await settle();
    clock.advance(10_000);
    edit();
    const isRight = (): boolean => maps.get("lab")?.pem === "ROOT A\n" && maps.get("lab")?.label === true;
    for (let i = 0; i < 200 && !isRight(); i++) {
      await settle();
      clock.advance(100);
    }
    expect(maps.get("lab")).toEqual({ pem: "ROOT A\n", label: true, immutable: false });
  });

  test("are written ever more slowly while somebody else writes them, too", async () => {
    run();
    await until(() => maps.size === 2 && api.watches === 1);
    calls.length = 0;
    const writes = (): number => calls.filter((call) => call === "write lab").length;
    for (let second = 0; second < 120; second++) {
      put("lab", `EVIL ${second}`);
      await settle();
      clock.advance(1_000);
      await settle();
    }
    expect(writes()).toBeGreaterThan(3);
    expect(writes()).toBeLessThan(12);
  });

  test("go from a namespace that left the mesh after a minute, once no pod is there", async () => {
    run();
    await until(() => maps.size === 2 && api.watches === 1);
    withPods.add("lab");
    wanted = new Set(["countersign-system"]);
    changed();
    await settle();
    clock.advance(3_600_000);
    changed();
    await settle();
    expect(maps.has("lab")).toBe(true);
    withPods.clear();
    changed();
    await settle();
    clock.advance(59_000);
    await settle();
    expect(maps.has("lab")).toBe(true);
    clock.advance(1_000);
    await until(() => !maps.has("lab"));
    expect(calls.filter((call) => call.startsWith("delete"))).toEqual(["delete lab"]);
  });

  test("that somebody made under that name elsewhere, without our label, stay", async () => {
    put("private", "theirs", { label: false });
    run();
    await until(() => maps.size === 3);
    clock.advance(3_600_000);
    await settle();
    clock.advance(3_600_000);
    await settle();
    expect(inForce()["private"]).toBe("theirs");
  });

  test("are neither written nor removed before roots and namespaces are known", async () => {
    put("old", "ROOT A\n");
    roots = "";
    wanted = undefined;
    run();
    await until(() => api.watches === 1);
    clock.advance(3_600_000);
    await settle();
    wanted = new Set(["lab"]);
    changed();
    await settle();
    expect(calls).toEqual([]);
    roots = "ROOT A\n";
    changed();
    await until(() => maps.has("lab"));
  });

  test.each([
    { code: 503, level: "warn", says: /trying again/ },
    { code: 403, level: "error", says: /give the control plane the ClusterRole/ },
    { code: 404, level: "debug", says: /not written/ },
  ])("are tried again after $code, with a line for the operator", async ({ code, level, says }) => {
    wanted = new Set(["lab"]);
    failures = [code, code];
    run();
    for (let i = 0; i < 100 && !maps.has("lab"); i++) {
      await settle();
      clock.advance(100);
    }
    expect(maps.has("lab")).toBe(true);
    expect(calls).toHaveLength(3);
    const lines = log.filter((line) => line.includes(`"level":"${level}"`) && says.test(line));
    expect(lines).toHaveLength(2);
  });
});
