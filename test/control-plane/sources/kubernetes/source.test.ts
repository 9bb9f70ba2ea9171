import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { createAdmitter } from "../../../../control-plane/policy/admit.ts";
import { loadBuiltInPacks } from "../../../../control-plane/policy/packs.ts";
import {
  type KubernetesReport,
  type KubernetesSource,
  runKubernetesSource,
} from "../../../../control-plane/sources/kubernetes/source.ts";
import { loadSchemas } from "../../../../control-plane/sources/schema.ts";
import type { ClusterState } from "../../../../control-plane/sources/store.ts";
import { systemClock } from "../../../../sidecar/core/runtime/clock.ts";
import { silentLogger } from "../../../../sidecar/core/runtime/log.ts";
import { FakeKubeRest } from "../../../fakes/kube-rest.ts";

const POLICIES = "/apis/countersign.dev/v1alpha1/accesspolicies";
const CONFIGS = "/apis/countersign.dev/v1alpha1/meshconfigs";
const PODS = "/api/v1/pods";
const schemas = loadSchemas();

let rest: FakeKubeRest;
let stop: AbortController;
let source: KubernetesSource | undefined;
let states: { readonly state: ClusterState; readonly report: KubernetesReport }[];
let told: () => void;

beforeEach(() => {
  rest = new FakeKubeRest();
  stop = new AbortController();
  states = [];
  told = () => {};
});

afterEach(async () => {
  stop.abort();
  await source?.done;
});

function start(): void {
  source = runKubernetesSource(
    {
      rest,
      schemas,
      admitter: createAdmitter(loadBuiltInPacks(), { mode: "kubernetes" }),
      clock: systemClock,
      random: () => 0.5,
      log: silentLogger,
      onState: (state, report) => {
        states.push({ state, report });
        told();
      },
    },
    stop.signal,
  );
}

/** The state that comes next. */
async function next(): Promise<ClusterState> {
  const count = states.length;
  await new Promise<void>((resolve) => {
    told = resolve;
    if (states.length > count) resolve();
  });
  const last = states.at(-1);
  if (!last) throw new Error("no state");
  return last.state;
}

const allow = (op: string) => ({
  spec: { action: "Allow", rules: [{ name: "r", from: [{ any: true }], operations: [{ op }] }] },
});

function putPod(name: string, over: { readonly ip?: string; readonly labels?: object } = {}): void {
  rest.put(
    PODS,
    {
      namespace: "ns",
      name,
      uid: `uid-${name}`,
      labels: over.labels ?? {},
      creationTimestamp: "2026-11-21T08:00:00Z",
    },
    {
      spec: {
        serviceAccountName: "sa",
        containers: [{ name: "app", ports: [{ containerPort: 8080 }] }],
        initContainers: [{ name: "countersign-proxy" }],
      },
      status: { phase: "Running", podIPs: [{ ip: over.ip ?? "10.0.0.1" }] },
    },
  );
}

describe("a cluster as a source", () => {
  test("waits for our kinds, then for every list, and gives one state", async () => {
    rest.missing.add("/apis/countersign.dev/v1alpha1");
    rest.put(POLICIES, { namespace: "ns", name: "p", generation: 3 }, allow("serving.invoke"));
    putPod("web");
    start();
    await systemClock.sleep(50, stop.signal);
    expect(states).toEqual([]);
    rest.missing.clear();
    const state = await next();
    expect(states).toHaveLength(1);
    expect(state.policies.get("AccessPolicy/ns/p")?.generation).toBe(3);
    expect([...state.workloads.keys()]).toEqual(["ns/sa/service/web"]);
    expect(state.revision).toBe(rest.version);
  });

  test("what did not change is the same: a pod's address costs no recompile, a policy no walk over pods", async () => {
    putPod("web");
    start();
    const first = await next();
    putPod("web", { ip: "10.0.0.9" });
    const moved = await next();
    expect(moved.workloads).toBe(first.workloads);
    expect(moved.policies).toBe(first.policies);
    expect(moved.services).not.toBe(first.services);
    rest.put(POLICIES, { namespace: "ns", name: "p", generation: 1 }, allow("serving.invoke"));
    const edited = await next();
    expect(edited.workloads).toBe(first.workloads);
    expect(edited.services).toBe(moved.services);
    expect(edited.pods).toBe(moved.pods);
  });

  test("an event that means nothing to us gives no state", async () => {
    putPod("web");
    rest.put(POLICIES, { namespace: "ns", name: "p", generation: 1 }, allow("serving.invoke"));
    start();
    await next();
    rest.put(
      POLICIES,
      { namespace: "ns", name: "p", generation: 1 },
      { ...allow("serving.invoke"), status: { x: 1 } },
    );
    putPod("web");
    await systemClock.sleep(300, stop.signal);
    expect(states).toHaveLength(1);
  });

  test("a report that changes comes with the same state", async () => {
    start();
    const first = await next();
    expect(states[0]?.report.notices).toMatchObject([{ message: expect.stringContaining("no MeshConfig") }]);
    rest.put(POLICIES, { namespace: "ns", name: "p", generation: 1 }, allow("serving.nope"));
    const second = await next();
    expect(second).toBe(first);
    expect(states[1]?.report.problems).toMatchObject([
      { object: "AccessPolicy ns/p", reason: "UnknownOperation" },
    ]);
  });

  test("gateways of the MeshConfig decide on pods that are there already", async () => {
    putPod("gw", { labels: { "countersign.dev/kind": "gateway" } });
    start();
    expect([...(await next()).workloads.keys()]).toEqual(["ns/sa/service/gw"]);
    rest.put(
      CONFIGS,
      { name: "default", generation: 1 },
      { spec: { trustDomain: "mesh.example", gateways: ["ns/sa"] } },
    );
    const state = await next();
    expect([...state.workloads.keys()]).toEqual(["ns/sa/gateway/gw"]);
    expect(state.config.trustDomain).toBe("mesh.example");
  });

  test("is current once every watch has been whole for a while", async () => {
    start();
    expect(source?.isCurrent(0)).toBe(false);
    await next();
    expect(source?.isCurrent(0)).toBe(true);
    expect(source?.isCurrent(60_000)).toBe(false);
  });
});

describe("routes of the Gateway API", () => {
  const GATEWAY = "/apis/gateway.networking.k8s.io/v1";
  const spec = {
    parentRefs: [{ group: "", kind: "Service", name: "s" }],
    rules: [{ backendRefs: [{ name: "b", port: 80 }] }],
  };
  const metadata = { namespace: "ns", name: "r", generation: 2, creationTimestamp: "2026-11-21T08:00:00Z" };

  test("are part of the first state where their kinds are there, and change with the objects", async () => {
    rest.documents.set(GATEWAY, { resources: [{ name: "httproutes" }, { name: "httproutes/status" }] });
    rest.put(`${GATEWAY}/httproutes`, metadata, { spec });
    start();
    const first = await next();
    expect(first.gatewayRoutes.get("HTTPRoute/ns/r")).toMatchObject({
      generation: 2,
      createdAtMs: Date.parse("2026-11-21T08:00:00Z"),
      parents: [{ service: "ns/s" }],
    });
    rest.remove(`${GATEWAY}/httproutes`, "ns/r");
    expect((await next()).gatewayRoutes.size).toBe(0);
  });

  test("are not waited for where there are none, or where they may not be read", async () => {
    rest.documents.set(GATEWAY, { resources: [{ name: "httproutes" }] });
    rest.forbidden.add(`${GATEWAY}/httproutes`);
    start();
    expect((await next()).gatewayRoutes.size).toBe(0);
  });

  test("of a RoutePolicy are there too, and a refused one is not in force", async () => {
    const path = "/apis/countersign.dev/v1alpha1/routepolicies";
    rest.put(
      path,
      { ...metadata, name: "good" },
      { spec: { service: "s", rules: [{ backends: [{ service: "b" }] }] } },
    );
    rest.put(path, { ...metadata, name: "bad" }, { spec: { service: "s", rules: [{}] } });
    start();
    const state = await next();
    expect([...state.routePolicies.keys()]).toEqual(["ns/good"]);
    expect(states.at(-1)?.report.problems[0]).toMatchObject({
      object: "RoutePolicy ns/bad",
      standing: "none",
    });
  });
});
