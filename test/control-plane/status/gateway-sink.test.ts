// What the leader writes into routes of the Gateway API, over a small API server.
import { setImmediate } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { ApiError } from "../../../control-plane/kubernetes/rest.ts";
import type { WriteRequest } from "../../../control-plane/kubernetes/writer.ts";
import { type Compiled, compile } from "../../../control-plane/policy/compile.ts";
import { readGatewayRoute } from "../../../control-plane/policy/gateway-route.ts";
import type { GatewayRoute } from "../../../control-plane/sources/store.ts";
import { GatewaySink } from "../../../control-plane/status/gateway-sink.ts";
import { silentLogger } from "../../../sidecar/core/runtime/log.ts";
import { FakeClock } from "../../fakes/clock.ts";
import { FakeKubeRest } from "../../fakes/kube-rest.ts";
import { clusterState, workload } from "../../fakes/resources.ts";

const NOW = Date.UTC(2026, 10, 21);
const API = "/apis/gateway.networking.k8s.io/v1";
const parent = { group: "", kind: "Service", name: "scorer" };
const spec = (backend: string, more: object = {}) => ({
  parentRefs: [parent],
  rules: [{ backendRefs: [{ name: backend, port: 8080 }], ...more }],
});

let clock: FakeClock;
let rest: FakeKubeRest;
let writes: WriteRequest[];
let fail: ApiError | undefined;
let compiled: Compiled | undefined;
let sink: GatewaySink;
let stop: AbortController;
let done: Promise<void>;

beforeEach(() => {
  clock = new FakeClock(NOW);
  rest = new FakeKubeRest();
  rest.documents.set(API, { resources: [{ name: "httproutes" }] });
  writes = [];
  fail = undefined;
  compiled = undefined;
  stop = new AbortController();
  sink = new GatewaySink({
    rest,
    writer: {
      send: async (request) => {
        writes.push(request);
        if (fail !== undefined) throw fail;
        return {};
      },
    },
    compiled: () => compiled,
    clock,
    random: () => 0.5,
    log: silentLogger,
  });
});
afterEach(async () => {
  stop.abort();
  clock.advance(1);
  await done;
});

function put(body: object, status: object = {}): void {
  rest.put(
    `${API}/httproutes`,
    { namespace: "ns", name: "r", generation: 1, creationTimestamp: "2026-11-21T08:00:00Z" },
    { spec: body, status },
  );
}

/** The mesh as it follows from one route. */
function inForce(body: object): void {
  const { route } = readGatewayRoute({
    kind: "HTTPRoute",
    name: "r",
    namespace: "ns",
    generation: 1,
    createdAtMs: 0,
    spec: body,
  });
  const gatewayRoutes = new Map<string, GatewayRoute>(route === undefined ? [] : [["HTTPRoute/ns/r", route]]);
  compiled = compile(clusterState([workload("scorer"), workload("v1")], { gatewayRoutes }), new Map());
}

async function settle(): Promise<void> {
  for (let i = 0; i < 20; i++) await setImmediate();
  clock.advance(1_000);
  for (let i = 0; i < 20; i++) await setImmediate();
}
const start = async (): Promise<void> => {
  done = sink.run(stop.signal);
  await settle();
};
interface Condition {
  readonly type: string;
  readonly status: string;
  readonly reason: string;
}
interface Written {
  readonly parents: readonly { readonly conditions: readonly Condition[]; readonly controllerName: string }[];
}
function statusOf(write: WriteRequest | undefined): Written {
  if (write === undefined) throw new Error("nothing was written");
  return (write.body as { readonly status: Written }).status;
}
const said = (write: WriteRequest | undefined): string[] =>
  (statusOf(write).parents.at(-1)?.conditions ?? []).map(
    ({ type, status, reason }) => `${type} ${status} ${reason}`,
  );

describe("status of a route", () => {
  test("says that it is in force, beside what other controllers say, and only once", async () => {
    const other = { parentRef: { name: "gw" }, controllerName: "other.example/gw", conditions: [] };
    put(spec("v1"), { parents: [other] });
    inForce(spec("v1"));
    await start();
    expect(writes).toHaveLength(1);
    expect(writes[0]).toMatchObject({
      path: "/apis/gateway.networking.k8s.io/v1/namespaces/ns/httproutes/r/status",
      body: { metadata: { resourceVersion: "1001" } },
    });
    expect(statusOf(writes[0]).parents.map(({ controllerName }) => controllerName)).toEqual([
      "other.example/gw",
      "countersign.dev/mesh",
    ]);
    expect(said(writes[0])).toEqual(["Accepted True Accepted", "ResolvedRefs True ResolvedRefs"]);
    put(spec("v1"), statusOf(writes[0]));
    await settle();
    expect(writes).toHaveLength(1);
  });

  test.each([
    {
      name: "a backend that is not there",
      body: spec("v9"),
      conditions: ["Accepted True Accepted", "ResolvedRefs False BackendNotFound"],
    },
    {
      name: "a filter that is not supported",
      body: spec("v1", { filters: [{ type: "URLRewrite" }] }),
      conditions: ["Accepted False UnsupportedValue", "ResolvedRefs True ResolvedRefs"],
    },
    {
      name: "a parent that is not there",
      body: { ...spec("v1"), parentRefs: [{ ...parent, name: "nobody" }] },
      conditions: ["Accepted False NoMatchingParent", "ResolvedRefs True ResolvedRefs"],
    },
  ])("tells $name", async ({ body, conditions }) => {
    put(body);
    inForce(body);
    await start();
    expect(said(writes[0])).toEqual(conditions);
  });

  test("waits for the state to have the route, and says nothing of routes that are not for a mesh", async () => {
    put(spec("v1"));
    compiled = compile(clusterState([workload("scorer")]), new Map());
    await start();
    expect(writes).toEqual([]);
    inForce(spec("v1"));
    sink.flush();
    await settle();
    await settle();
    expect(writes).toHaveLength(1);
    rest.put(`${API}/httproutes`, { namespace: "ns", name: "g" }, { spec: { parentRefs: [{ name: "gw" }] } });
    await settle();
    expect(writes).toHaveLength(1);
  });

  test("is left alone where it may not be written", async () => {
    put(spec("v1"));
    inForce(spec("v1"));
    fail = new ApiError(403, "Forbidden", "no");
    await start();
    inForce(spec("v1"));
    sink.flush();
    await settle();
    expect(writes).toHaveLength(1);
  });
});
