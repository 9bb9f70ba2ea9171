import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { NO_GATEWAYS } from "../../../control-plane/policy/gateway-plan.ts";
import { NO_ROUTES, type RoutePlan } from "../../../control-plane/policy/route-plan.ts";
import { ResourceCache } from "../../../control-plane/resources/cache.ts";
import type { ClusterState, Workload } from "../../../control-plane/sources/store.ts";
import { messageCodec } from "../../../proto/load.ts";
import type { RevocationEntry } from "../../../sidecar/core/identity/revocations.ts";
import type { WorkloadProgram } from "../../../sidecar/core/policy/rule.ts";
import type { RouteRule } from "../../../sidecar/core/traffic/route.ts";
import { BUNDLE_JSON, CONFIG, clusterState, program, workload } from "../../fakes/resources.ts";

interface World {
  state: ClusterState;
  programs: ReadonlyMap<string, WorkloadProgram>;
  callees: ReadonlyMap<string, ReadonlySet<string>>;
  packs: ReadonlyMap<string, string>;
}
const id = (one: Workload): string => `${one.namespace}/${one.name}`;
const three = [workload("a"), workload("b"), workload("c")];

function world(workloads: readonly Workload[], callees: Record<string, string[]> = {}): World {
  return {
    state: clusterState(workloads),
    programs: new Map(workloads.map((one) => [id(one), program(one)])),
    callees: new Map(Object.entries(callees).map(([from, to]) => [from, new Set(to)])),
    packs: new Map([
      ["pack", "# pack"],
      ["mlflow", "# mlflow"],
    ]),
  };
}
const NOTHING_REVOKED: readonly RevocationEntry[] = [];
const update = (
  cache: ResourceCache,
  { state, programs, callees, packs }: World,
  trustBundle = BUNDLE_JSON,
  revocations: readonly RevocationEntry[] = NOTHING_REVOKED,
) =>
  cache.update({
    compiled: { state, programs, externals: new Map(), callees, routes: NO_ROUTES, gateways: NO_GATEWAYS },
    packs,
    trustBundle,
    revocations,
    cluster: "local",
  });
const keys = (cache: ResourceCache, of: string): string[] =>
  [...(cache.table(of)?.resources.keys() ?? [])].sort();

describe("resource cache", () => {
  test("gives each workload what policy lets it need, and nothing else", () => {
    const cache = new ResourceCache();
    update(cache, world(three, { "ns/a": ["ns/b"] }));
    expect(keys(cache, "ns/a")).toEqual([
      "endpoints/ns/b",
      "operation-pack/pack",
      "service/ns/b",
      "settings/strict.trace",
      "trust-bundle/test.example",
      "workload-program/ns/a",
    ]);
    expect(keys(cache, "ns/c")).toEqual([
      "operation-pack/pack",
      "settings/strict.trace",
      "trust-bundle/test.example",
      "workload-program/ns/c",
    ]);
    // Shared, not copied.
    expect(cache.table("ns/a")?.resources.get("settings/strict.trace")).toBe(
      cache.table("ns/c")?.resources.get("settings/strict.trace"),
    );
  });

  test("the first revocation comes into every table, and leaves it with the last", () => {
    const cache = new ResourceCache();
    const same = world(three, { "ns/a": ["ns/b"] });
    update(cache, same);
    const revoked = [{ spiffeId: "", pod: "", session: "s", beforeMs: 1 }];
    expect([...update(cache, same, BUNDLE_JSON, revoked).changed]).toEqual(["ns/a", "ns/b", "ns/c"]);
    for (const id of ["ns/a", "ns/b", "ns/c"]) expect(keys(cache, id)).toContain("revocations/mesh");
    expect([...update(cache, same, BUNDLE_JSON, revoked).changed]).toEqual([]);
    expect(update(cache, same).changed.size).toBe(3);
    expect(keys(cache, "ns/a")).not.toContain("revocations/mesh");
  });

  test("a change touches only those it affects, and encodes only what changed", () => {
    const cache = new ResourceCache();
    const first = world(three, { "ns/a": ["ns/b"] });
    expect([...update(cache, first).changed]).toEqual(["ns/a", "ns/b", "ns/c"]);
    const before = cache.table("ns/a");
    const edited = {
      ...first,
      programs: new Map(first.programs).set("ns/b", { ...program(three[1]!), maxHops: 3 }),
    };
    expect([...update(cache, edited).changed]).toEqual(["ns/b"]);
    expect(cache.table("ns/a")).toBe(before);
    const moved = { ...three[1]!, addresses: ["127.0.0.2"] };
    const shifted = { ...edited, state: clusterState([three[0]!, moved, three[2]!]) };
    expect([...update(cache, shifted).changed]).toEqual(["ns/a"]);
    expect(cache.table("ns/a")?.resources.get("workload-program/ns/a")).toBe(
      before?.resources.get("workload-program/ns/a"),
    );
    expect(cache.tableByDigest("ns/a", before?.digest ?? "")).toBe(before);
    expect(update(cache, { ...shifted, callees: new Map([["ns/a", new Set(["ns/b"])]]) }).changed.size).toBe(
      0,
    );
    expect([...update(cache, { ...shifted, callees: new Map() }).changed]).toEqual(["ns/a"]);
  });

  test("settings follow the namespace and the configuration", () => {
    const cache = new ResourceCache();
    const first = world(three);
    update(cache, first);
    const selector = { matchLabels: new Map([["stage", "migration"]]) };
    const config = {
      ...CONFIG,
      namespaces: [{ selector, names: undefined, mtls: "Permissive" as const, defaultAction: undefined }],
    };
    const labelled = {
      ...first,
      state: { ...first.state, config, namespaces: new Map([["ns", new Map([["stage", "migration"]])]]) },
    };
    expect(update(cache, labelled).changed.size).toBe(3);
    expect(keys(cache, "ns/a")).toContain("settings/permissive.trace");
    expect(
      update(cache, {
        ...labelled,
        state: { ...labelled.state, config: { ...config, explainDenials: true } },
      }).changed.size,
    ).toBe(3);
  });

  test("incremental equals from scratch, whatever changes", () => {
    const names = ["a", "b", "c", "d", "e"];
    const anyWorkload = fc.record({
      name: fc.constantFrom(...names),
      port: fc.constantFrom(80, 8080),
      service: fc.constantFrom("s", "t", undefined),
      pack: fc.constantFrom("pack", "mlflow", "none"),
    });
    const anyWorld = fc.record({
      workloads: fc.uniqueArray(anyWorkload, { selector: ({ name }) => name, maxLength: 5 }),
      calls: fc.uniqueArray(fc.tuple(fc.constantFrom(...names), fc.constantFrom(...names)), {
        selector: String,
        maxLength: 8,
      }),
      hops: fc.constantFrom(3, 5),
    });
    const known = new Map<string, Workload>();
    // Equal content is the same object, as from a real source.
    const build = ({
      workloads,
      calls,
      hops,
    }: {
      workloads: { name: string; port: number; service: string | undefined; pack: string }[];
      calls: [string, string][];
      hops: number;
    }): World => {
      const made = workloads.map(({ name, port, service, pack }) => {
        const key = JSON.stringify([name, port, service, pack]);
        const one =
          known.get(key) ??
          workload(name, "ns", { service, ports: [{ port, protocol: "http", packs: [pack] }] });
        known.set(key, one);
        return one;
      });
      const callees: Record<string, string[]> = {};
      for (const [from, to] of calls) {
        const list = callees[`ns/${from}`] ?? [];
        callees[`ns/${from}`] = [...list, `ns/${to}`];
      }
      const built = world(made, callees);
      return { ...built, state: { ...built.state, config: { ...CONFIG, maxHops: hops } } };
    };
    fc.assert(
      fc.property(fc.array(anyWorld, { minLength: 2, maxLength: 5 }), (steps) => {
        const cache = new ResourceCache();
        const digests = new Map<string, string | undefined>();
        for (const step of steps.map((one) => build(one))) {
          const { changed } = update(cache, step);
          const fresh = new ResourceCache();
          update(fresh, step);
          for (const name of names) {
            expect(cache.table(`ns/${name}`)?.digest).toBe(fresh.table(`ns/${name}`)?.digest);
            expect(changed.has(`ns/${name}`)).toBe(cache.table(`ns/${name}`)?.digest !== digests.get(name));
            digests.set(name, cache.table(`ns/${name}`)?.digest);
          }
        }
      }),
      { numRuns: 200 },
    );
  });

  test("tells callers which operations take a proof once, and when they do so no more", () => {
    const cache = new ResourceCache();
    const strict = (operations: readonly object[]): WorkloadProgram => ({
      ...program(workload("b")),
      policies: [
        {
          ...{
            id: "ns/p",
            name: "p",
            cluster: false,
            source: "policy",
            action: "Allow",
            enforcement: "Enforce",
          },
          rules: [{ name: "r", from: [{ any: true }], operations, with: { replay: "Strict" } }],
        },
      ] as WorkloadProgram["policies"],
    });
    const told = (): readonly string[] => {
      const resource = cache.table("ns/a")?.resources.get("service/ns/b");
      const message = messageCodec<object, { body: Buffer }>("countersign.mesh.v1.Delta").decode(
        resource?.encoded ?? Buffer.alloc(0),
      ) as unknown as { upsert: { body: Buffer }[] };
      return messageCodec<object, { freshProofs: string[] }>("countersign.mesh.v1.Service").decode(
        message.upsert[0]?.body ?? Buffer.alloc(0),
      ).freshProofs;
    };
    const before = world(three, { "ns/a": ["ns/b"] });
    update(cache, before);
    expect(told()).toEqual([]);
    const put = (one: WorkloadProgram): void => {
      const { changed } = update(cache, {
        ...before,
        programs: new Map([...before.programs, ["ns/b", one]]),
      });
      expect([...changed].sort()).toEqual(["ns/a", "ns/b"]);
    };
    put(strict([{ op: "serving.admin" }, { op: "jobs" }]));
    expect(told()).toEqual(["jobs", "serving.admin"]);
    put(strict([{ op: "serving.admin" }, { any: true }]));
    expect(told()).toEqual(["*"]);
    put(program(workload("b")));
    expect(told()).toEqual([]);
  });
});

describe("routes in tables", () => {
  const rule = (backends: readonly string[]): RouteRule => ({
    name: "RoutePolicy ns/r rules[0]",
    matches: [],
    ports: undefined,
    backends: backends.map((service) => ({ service: `ns/${service}`, port: undefined, weight: 1 })),
    mirrors: [],
    stickyBy: undefined,
    requestTimeoutMs: undefined,
    tryTimeoutMs: undefined,
    requestHeaders: [],
    responseHeaders: [],
  });
  const all = ["a", "b", "c", "d", "e"].map((name) => workload(name));
  const routed = (backends: readonly string[] | undefined): RoutePlan =>
    backends === undefined
      ? NO_ROUTES
      : {
          ...NO_ROUTES,
          routes: new Map([["ns/b", { service: "ns/b", rules: [rule(backends)], traffic: undefined }]]),
          leadsTo: new Map([["ns/b", backends.map((service) => `ns/${service}`)]]),
        };
  // a may call b; d may call only c, which b's route may lead to; e may call e.
  const base = world(all, { "ns/a": ["ns/b"], "ns/d": ["ns/c"], "ns/e": ["ns/e"] });
  const change = (cache: ResourceCache, backends: readonly string[] | undefined): string[] => {
    const { state, programs, callees, packs } = base;
    const externals = new Map();
    const compiled = { state, programs, externals, callees, routes: routed(backends), gateways: NO_GATEWAYS };
    return [
      ...cache.update({ compiled, packs, trustBundle: BUNDLE_JSON, revocations: [], cluster: "local" })
        .changed,
    ].sort();
  };
  const routeKeys = (cache: ResourceCache, of: string): string[] =>
    keys(cache, of).filter((key) => /^(?:route|service)\//.test(key));

  test("go, with the services they lead to, to whoever may call one of them, and a change touches nobody else", () => {
    const cache = new ResourceCache();
    change(cache, undefined);
    expect(routeKeys(cache, "ns/a")).toEqual(["service/ns/b"]);
    expect(change(cache, ["c"])).toEqual(["ns/a", "ns/d"]);
    expect(routeKeys(cache, "ns/a")).toEqual(["route/ns/b", "service/ns/b", "service/ns/c"]);
    expect(routeKeys(cache, "ns/d")).toEqual(["route/ns/b", "service/ns/b", "service/ns/c"]);
    expect(routeKeys(cache, "ns/e")).toEqual(["service/ns/e"]);
    // Away from c: whoever may call c alone has no use for b any more.
    expect(change(cache, ["b"])).toEqual(["ns/a", "ns/d"]);
    expect(routeKeys(cache, "ns/a")).toEqual(["route/ns/b", "service/ns/b"]);
    expect(routeKeys(cache, "ns/d")).toEqual(["service/ns/c"]);
    expect(change(cache, ["b"])).toEqual([]);
    expect(change(cache, undefined)).toEqual(["ns/a"]);
    expect(routeKeys(cache, "ns/a")).toEqual(["service/ns/b"]);
  });
});
