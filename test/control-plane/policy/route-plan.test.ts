import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { servicesOfWorkloads } from "../../../control-plane/policy/declared-services.ts";
import type { Callers } from "../../../control-plane/policy/policy-entry.ts";
import { NO_ROUTES, planRoutes, type RoutePlan } from "../../../control-plane/policy/route-plan.ts";
import { NO_MATCH, parseRoutePolicy } from "../../../control-plane/policy/route-policy.ts";
import { WorkloadIndex } from "../../../control-plane/policy/select.ts";
import { parseTrafficPolicy } from "../../../control-plane/policy/traffic-policy.ts";
import type {
  ClusterState,
  GatewayRoute,
  RoutePolicy,
  TrafficPolicy,
  Workload,
} from "../../../control-plane/sources/store.ts";
import type { RouteRule } from "../../../sidecar/core/traffic/route.ts";
import { clusterState, workload } from "../../fakes/resources.ts";

function parsed<T>(
  result: { readonly ok: true; readonly value: T } | { readonly ok: false; readonly error: unknown },
): T {
  if (!result.ok) throw new Error(JSON.stringify(result.error));
  return result.value;
}
const valid = (kind: "RoutePolicy" | "TrafficPolicy", name: string, spec: object) => ({
  kind,
  name,
  namespace: "ns",
  labels: new Map<string, string>(),
  generation: 1,
  spec,
  status: undefined,
});
const route = (name: string, service: string, rules: readonly object[]): RoutePolicy =>
  parsed(parseRoutePolicy(valid("RoutePolicy", name, { service, rules })));
const traffic = (name: string, spec: object): TrafficPolicy =>
  parsed(parseTrafficPolicy(valid("TrafficPolicy", name, spec)));
const byId = <T extends { readonly namespace: string; readonly name: string }>(list: readonly T[]) =>
  new Map(list.map((one) => [`${one.namespace}/${one.name}`, one]));

const WORKLOADS = ["scorer", "scorer-v1", "scorer-v2", "other"].map((name) =>
  workload(name, "ns", {
    service: name,
    ports: [{ port: 80, protocol: "http", packs: [] }],
    labels: new Map([["app", name]]),
  }),
);
const ALL: ReadonlyMap<string, Callers> = new Map(
  WORKLOADS.map(({ name }) => [`ns/${name}`, new Set(["ns/caller"])]),
);

function stateOf(
  routes: readonly RoutePolicy[],
  traffics: readonly TrafficPolicy[] = [],
  over: Partial<ClusterState> = {},
): ClusterState {
  return clusterState([...WORKLOADS, workload("caller")], {
    routePolicies: byId(routes),
    trafficPolicies: byId(traffics),
    ...over,
  });
}
const plan = (
  state: ClusterState,
  previous?: RoutePlan,
  callers: ReadonlyMap<string, Callers> = ALL,
): RoutePlan => planRoutes(state, callers, new WorkloadIndex(state.workloads), previous);

const canary = route("canary", "scorer", [
  { match: { headers: [{ name: "x-v", exact: "2" }] }, backends: [{ service: "scorer-v2" }] },
  {
    backends: [
      { service: "scorer-v1", weight: 90 },
      { service: "scorer-v2", weight: 10 },
    ],
  },
]);

describe("a plan of routes", () => {
  test("is one and the same object where nothing is written", () => {
    expect(plan(stateOf([]))).toBe(NO_ROUTES);
  });

  test("has a route for each service that something is written for, and where it leads", () => {
    const { routes, leadsTo, reports } = plan(stateOf([canary], [traffic("t", { lb: "roundRobin" })]));
    expect(routes.get("ns/scorer")?.rules.map(({ name }) => name)).toEqual([
      "RoutePolicy ns/canary rules[0]",
      "RoutePolicy ns/canary rules[1]",
    ]);
    expect(routes.get("ns/scorer")?.traffic).toMatchObject({ lb: { kind: "roundRobin" }, preferZone: false });
    expect(routes.get("ns/other")).toMatchObject({ rules: [], traffic: { lb: { kind: "roundRobin" } } });
    expect([...leadsTo]).toEqual([["ns/scorer", ["ns/scorer-v1", "ns/scorer-v2"]]]);
    expect(reports.get("RoutePolicy/ns/canary")).toEqual({ targets: ["ns/caller"], problems: [] });
  });

  test("several RoutePolicies of one service count one after the other, by name", () => {
    const { routes } = plan(
      stateOf(
        [canary, route("a-first", "scorer", [{ timeouts: { request: "1s" } }])].sort((a, b) =>
          a.name < b.name ? -1 : 1,
        ),
      ),
    );
    expect(routes.get("ns/scorer")?.rules.map(({ name }) => name)[0]).toBe("RoutePolicy ns/a-first rules[0]");
  });

  test("a backend that is not there keeps its share, and the report says so", () => {
    const { routes, reports } = plan(
      stateOf([route("r", "scorer", [{ backends: [{ service: "scorer-v1" }, { service: "scorer-v9" }] }])]),
    );
    expect(routes.get("ns/scorer")?.rules[0]?.backends.map(({ service }) => service)).toEqual([
      "ns/scorer-v1",
      undefined,
    ]);
    expect(reports.get("RoutePolicy/ns/r")?.problems).toMatchObject([
      {
        severity: "error",
        type: "ResolvedRefs",
        reason: "BackendNotFound",
        path: "spec.rules[0].backends[1].service",
      },
    ]);
  });

  test.each([
    {
      name: "an unknown service",
      route: route("r", "scorrer", [{ timeouts: { request: "1s" } }]),
      says: /ServiceNotFound.*did you mean `scorer`/,
    },
    {
      name: "a mirror that is not there",
      route: route("r", "scorer", [{ mirror: { service: "x" } }]),
      says: /BackendNotFound/,
    },
    {
      name: "a port that the backend lacks",
      route: route("r", "scorer", [{ backends: [{ service: "other", port: 81 }] }]),
      says: /BackendNotFound.*no port 81/,
    },
  ])("reports $name", ({ route: one, says }) => {
    const { reports } = plan(stateOf([one]));
    const text = (reports.get("RoutePolicy/ns/r")?.problems ?? []).map(
      ({ reason, message }) => `${reason} ${message}`,
    );
    expect(text.join("\n")).toMatch(says);
  });

  test("warns of a backend that no policy lets anybody call, and of a service that nobody calls", () => {
    const callers = new Map([...ALL].filter(([key]) => key !== "ns/scorer-v2"));
    const reasons = (one: RoutePlan) =>
      (one.reports.get("RoutePolicy/ns/canary")?.problems ?? []).map(
        ({ reason, path }) => `${reason} ${path}`,
      );
    expect(reasons(plan(stateOf([canary]), undefined, callers))).toEqual([
      "NoCallers spec.rules[0]",
      "NoCallers spec.rules[1]",
    ]);
    expect(reasons(plan(stateOf([canary]), undefined, new Map()))).toContain("NoCallers spec.rules");
  });
});

describe("several TrafficPolicies", () => {
  const of = (policies: readonly TrafficPolicy[]) => plan(stateOf([], policies));

  test("give each field to the most precise, then the first by name, and warn of what is lost", () => {
    const { routes, reports } = of([
      traffic("a-namespace", { lb: "roundRobin", slowStart: "1s", timeouts: { idle: "1m" } }),
      traffic("b-selector", { targets: [{ kinds: ["serving"] }], lb: "leastRequest" }),
      traffic("c-prefix", { targets: [{ names: ["scorer*"] }], slowStart: "2s" }),
      traffic("d-exact", { targets: [{ names: ["scorer"] }], slowStart: "3s" }),
      traffic("e-exact", { targets: [{ names: ["scorer"] }], slowStart: "4s" }),
    ]);
    const settings = (name: string) => {
      const found = routes.get(`ns/${name}`)?.traffic;
      return [found?.lb?.kind, found?.slowStartMs, found?.timeouts?.idleMs];
    };
    expect(settings("scorer")).toEqual(["leastRequest", 3_000, 60_000]);
    expect(settings("scorer-v1")).toEqual(["leastRequest", 2_000, 60_000]);
    expect(settings("other")).toEqual(["leastRequest", 1_000, 60_000]);
    const conflicts = [...reports].flatMap(([key, { problems }]) =>
      problems.filter(({ reason }) => reason === "Conflicted").map(({ path }) => `${key} ${path}`),
    );
    expect(conflicts).toEqual(["TrafficPolicy/ns/e-exact spec.slowStart"]);
  });

  test("that cover nothing say so", () => {
    const { reports, routes } = of([traffic("t", { targets: [{ names: ["nobody"] }], lb: "roundRobin" })]);
    expect(reports.get("TrafficPolicy/ns/t")?.problems.map(({ reason }) => reason)).toEqual([
      "TargetNotFound",
    ]);
    expect(routes.size).toBe(0);
  });
});

describe("routes of the Gateway API", () => {
  const gateway = (
    name: string,
    createdAtMs: number,
    rules: readonly Partial<RouteRule>[],
  ): GatewayRoute => ({
    kind: "HTTPRoute",
    name,
    namespace: "ns",
    generation: 1,
    createdAtMs,
    parents: [{ service: "ns/scorer", port: undefined }],
    rules: rules.map((rule, i) => ({
      name: `HTTPRoute ns/${name} rules[${i}]`,
      matches: [],
      ports: undefined,
      backends: [],
      mirrors: [],
      stickyBy: undefined,
      requestTimeoutMs: undefined,
      tryTimeoutMs: undefined,
      requestHeaders: [],
      responseHeaders: [],
      ...rule,
    })),
  });
  const at = (kind: "exact" | "prefix", value: string) => ({
    matches: [{ ...NO_MATCH, path: { kind, value } }],
  });
  const stateWith = (gateways: readonly GatewayRoute[], routes: readonly RoutePolicy[] = []) =>
    stateOf(routes, [], { gatewayRoutes: new Map(gateways.map((one) => [`HTTPRoute/ns/${one.name}`, one])) });

  test("are ordered by precedence: exact, longest prefix, method, headers; then the oldest, then the name", () => {
    const post = {
      matches: [{ ...NO_MATCH, path: { kind: "prefix" as const, value: "/v2" }, methods: ["POST"] }],
    };
    const { routes } = plan(
      stateWith([
        gateway("a", 2, [{}, at("prefix", "/v2"), at("prefix", "/v2/models")]),
        gateway("b", 1, [at("prefix", "/v2"), at("exact", "/x"), post]),
      ]),
    );
    expect(routes.get("ns/scorer")?.rules.map(({ name }) => name.slice(13))).toEqual([
      "b rules[1]",
      "a rules[2]",
      "b rules[2]",
      "b rules[0]",
      "a rules[1]",
      "a rules[0]",
      // What none of them matches is refused.
      "e routes of ns/scorer",
    ]);
  });

  test("do not count where a RoutePolicy is, and say so", () => {
    const { routes, reports } = plan(stateWith([gateway("g", 1, [{}])], [canary]));
    expect(routes.get("ns/scorer")?.rules).toHaveLength(2);
    expect(reports.get("HTTPRoute/ns/g")?.problems).toMatchObject([
      { type: "Accepted", reason: "Overridden" },
    ]);
  });
});

describe("an incremental plan", () => {
  const names = ["scorer", "scorer-v1", "scorer-v2", "other"];
  const anyRoute = fc.record({
    name: fc.constantFrom("r1", "r2"),
    service: fc.constantFrom(...names, "gone"),
    backends: fc.array(fc.constantFrom(...names, "gone"), { minLength: 1, maxLength: 3 }),
  });
  const anyTraffic = fc.record({
    name: fc.constantFrom("t1", "t2"),
    target: fc.constantFrom(undefined, "scorer", "scorer*", "other"),
    idle: fc.integer({ min: 1, max: 3 }),
  });
  const anyState = fc
    .record({
      routes: fc.uniqueArray(anyRoute, { maxLength: 2, selector: ({ name }) => name }),
      traffics: fc.uniqueArray(anyTraffic, { maxLength: 2, selector: ({ name }) => name }),
      present: fc.subarray(names),
      label: fc.constantFrom("a", "b"),
    })
    .map(({ routes, traffics, present, label }) => {
      const workloads: Workload[] = WORKLOADS.filter(({ name }) => present.includes(name)).map((one) => ({
        ...one,
        labels: new Map([["app", label]]),
      }));
      return stateOf(
        routes.map(({ name, service, backends }) =>
          route(name, service, [{ backends: backends.map((one) => ({ service: one })) }]),
        ),
        traffics.map(({ name, target, idle }) =>
          traffic(name, {
            ...(target === undefined ? {} : { targets: [{ names: [target] }] }),
            timeouts: { idle: `${idle}s` },
          }),
        ),
        {
          workloads: byId(workloads),
          services: servicesOfWorkloads(byId(workloads), new Map()),
        },
      );
    });

  test("is equal to a full one, and keeps every route that says the same", () => {
    fc.assert(
      fc.property(fc.array(anyState, { minLength: 2, maxLength: 6 }), (states) => {
        let previous: RoutePlan = NO_ROUTES;
        for (const state of states) {
          const now = plan(state, previous);
          const full = plan(state);
          expect({ ...now, basis: undefined }).toEqual({ ...full, basis: undefined });
          for (const [id, one] of now.routes) {
            const before = previous.routes.get(id);
            if (JSON.stringify(before) === JSON.stringify(one)) expect(one).toBe(before);
          }
          previous = now;
        }
      }),
      { numRuns: 200 },
    );
  });

  test("makes nothing anew when only addresses move", () => {
    const state = stateOf([canary]);
    const before = plan(state);
    const services = new Map(
      [...state.services].map(([id, service]) => [id, { ...service, endpoints: service.endpoints.slice(1) }]),
    );
    const after = plan({ ...state, services }, before);
    expect(after.routes).toBe(before.routes);
    expect(after.reports).toBe(before.reports);
  });
});
