import { describe, expect, test } from "@jest/globals";
import {
  type GatewayPlan,
  gatewayProblems,
  NO_GATEWAYS,
  planGateways,
} from "../../../control-plane/policy/gateway-plan.ts";
import { parseIdentityProvider } from "../../../control-plane/policy/identity-provider.ts";
import { parseMeshGateway } from "../../../control-plane/policy/mesh-gateway.ts";
import { buildGateway } from "../../../control-plane/resources/gateway-message.ts";
import type { ClusterState, IdentityProvider, MeshGateway } from "../../../control-plane/sources/store.ts";
import { messageCodec } from "../../../proto/load.ts";
import { decodeResource } from "../../../sidecar/discovery/decode.ts";
import { clusterState, workload } from "../../fakes/resources.ts";

const object = { labels: new Map<string, string>(), generation: 1, status: undefined };
const idp = (name: string, spec: object = {}): IdentityProvider => {
  const parsed = parseIdentityProvider({
    ...object,
    kind: "IdentityProvider",
    name,
    namespace: undefined,
    spec: { type: "oidc", issuer: `https://${name}.example`, clientID: "c", ...spec },
  });
  if (!parsed.ok) throw new Error(JSON.stringify(parsed.error));
  return parsed.value;
};
const front = (name: string, spec: object = {}): MeshGateway => {
  const parsed = parseMeshGateway({
    ...object,
    kind: "MeshGateway",
    name,
    namespace: "edge",
    spec: {
      listeners: [{ name: "l", hosts: ["apps.example", "*.nb.example"], tls: { secretName: "tls" } }],
      identityProviders: ["okta"],
      routes: [{ name: "r", backend: { service: "scorer", namespace: "ml" } }],
      ...spec,
    },
  });
  if (!parsed.ok) throw new Error(JSON.stringify(parsed.error));
  return parsed.value;
};
const notebook = (name: string, namespace: string, owner: string | undefined) =>
  workload(name, namespace, { kind: "notebook", owner });
const WORKLOADS = [
  workload("front", "edge", { kind: "gateway", service: undefined, ports: [] }),
  workload("front", "other", { kind: "gateway", service: undefined, ports: [] }),
  workload("plain", "edge", { kind: "service" }),
  workload("scorer", "ml"),
  notebook("nb-alice", "dev", "okta|alice"),
  notebook("nb-bob", "dev", "okta|bob"),
  notebook("nb-none", "dev", undefined),
  notebook("nb-eve", "elsewhere", "okta|eve"),
];
const stateOf = (gateways: readonly MeshGateway[], over: Partial<ClusterState> = {}): ClusterState =>
  clusterState(WORKLOADS, {
    identityProviders: new Map([["okta", idp("okta", { clientSecretRef: { name: "okta" } })]]),
    meshGateways: new Map(gateways.map((one) => [`edge/${one.name}`, one])),
    ...over,
  });
const onlyGateway = (plan: GatewayPlan) => [...plan.gateways.values()][0];

describe("planGateways", () => {
  test("tells a gateway to the workload of its name, kind and namespace alone", () => {
    const plan = planGateways(stateOf([front("front")]), undefined);
    expect([...plan.gateways.keys()]).toEqual(["edge/front"]);
    expect(plan.reports.get("MeshGateway/edge/front")).toEqual({ targets: ["edge/front"], problems: [] });
    expect(planGateways(stateOf([front("x", { workload: "plain" })]), undefined).gateways.size).toBe(0);
  });

  test("carries the public part of its identity providers, and no other one's", () => {
    const state = stateOf([front("front")]);
    const providers = new Map([...state.identityProviders, ["entra", idp("entra")]] as const);
    const gateway = onlyGateway(planGateways({ ...state, identityProviders: providers }, undefined));
    expect(gateway?.idps.map(({ name }) => name)).toEqual(["okta"]);
    expect(Object.keys(gateway?.idps[0] ?? {})).not.toContain("groupsClaim");
    expect(gateway?.idps[0]?.clientSecret).toEqual({ name: "okta", key: "client-secret" });
  });

  test("tries exact hosts before wildcards, exact paths before prefixes, long ones before short ones", () => {
    const backend = { service: "scorer", namespace: "ml" };
    const routes = [
      { name: "wild", hosts: ["*.nb.example"], backend },
      { name: "root", hosts: ["apps.example", "*.nb.example"], path: { prefix: "/" }, backend },
      { name: "long", hosts: ["apps.example"], path: { prefix: "/a/b" }, backend },
      { name: "short", hosts: ["apps.example"], path: { prefix: "/a" }, backend },
      { name: "exact", hosts: ["apps.example"], path: { exact: "/a" }, backend },
    ];
    const gateway = onlyGateway(planGateways(stateOf([front("front", { routes })]), undefined));
    expect(gateway?.routes.map(({ name, hosts }) => `${name} ${hosts.join()}`)).toEqual([
      "exact apps.example",
      "long apps.example",
      "short apps.example",
      "root apps.example",
      "wild *.nb.example",
      "root* *.nb.example",
    ]);
  });

  describe("notebooks", () => {
    const owned = front("front", {
      routes: undefined,
      notebooks: [{ name: "nb", hostPattern: "{name}.nb.example", namespaces: ["dev"], port: 8080 }],
    });
    const hostsOf = (state: ClusterState) =>
      onlyGateway(planGateways(state, undefined))?.routes.map((route) => [route.hosts[0], route.owner]);

    test("get a host each, for their owner alone", () => {
      expect(hostsOf(stateOf([owned]))).toEqual([
        ["nb-alice.nb.example", "okta|alice"],
        ["nb-bob.nb.example", "okta|bob"],
      ]);
    });

    test("whose owner has a plain name belong to whom they run as, if somebody", () => {
      const plain = (name: string, runAs: string | undefined) =>
        workload(name, "dev", { kind: "notebook", owner: name, runAs });
      const all = [...WORKLOADS.slice(0, 1), plain("carol", "okta|carol"), plain("dave", undefined)];
      const state = clusterState(all, { meshGateways: new Map([["edge/front", owned]]) });
      expect(hostsOf(state)).toEqual([["carol.nb.example", "okta|carol"]]);
    });

    test("of one name in two namespaces get none: they would share an origin", () => {
      const both = front("front", {
        routes: undefined,
        notebooks: [{ name: "nb", hostPattern: "{name}.nb.example", namespaces: ["dev", "elsewhere"] }],
      });
      const all = [...WORKLOADS, notebook("nb-alice", "elsewhere", "okta|mallory")];
      const state = clusterState(all, { meshGateways: new Map([["edge/front", both]]) });
      expect(hostsOf(state)?.map(([host]) => host)).toEqual(["nb-bob.nb.example", "nb-eve.nb.example"]);
    });
  });

  test.each([
    ["IdentityProviderNotFound", "spec.identityProviders[0]", { identityProviders: ["okte"] }],
    [
      "BackendNotFound",
      "spec.routes[0].backend.service",
      { routes: [{ name: "r", backend: { service: "x" } }] },
    ],
    ["BackendNotFound", "spec.routes[0].external", { routes: [{ name: "r", external: "x" }] }],
    [
      "PortNotFound",
      "spec.routes[0].backend.port",
      { routes: [{ name: "r", backend: { service: "scorer", namespace: "ml", port: 81 } }] },
    ],
    [
      "Shadowed",
      "spec.routes[1].path",
      { routes: ["a", "b"].map((name) => ({ name, backend: { service: "scorer", namespace: "ml" } })) },
    ],
    ["TargetNotFound", "spec.workload", { workload: "nobody" }],
  ])("says %s at %s", (reason, path, spec) => {
    const gateway = front("front", spec);
    expect(gatewayProblems(gateway, stateOf([gateway]))).toMatchObject([{ reason, path }]);
  });

  test("gives one workload to one gateway, the first by name, and tells the other", () => {
    const plan = planGateways(stateOf([front("a", { workload: "front" }), front("front")]), undefined);
    expect(onlyGateway(plan)?.id).toBe("edge/a");
    expect(plan.reports.get("MeshGateway/edge/front")).toMatchObject({
      targets: [],
      problems: [{ reason: "Conflicted", severity: "error" }],
    });
  });

  test("keeps what did not change, and costs nothing without gateways", () => {
    const state = stateOf([front("front")]);
    const plan = planGateways(state, undefined);
    const moved = planGateways({ ...state, workloads: new Map(state.workloads) }, plan);
    expect(onlyGateway(moved)).toBe(onlyGateway(plan));
    expect(moved.reports.get("MeshGateway/edge/front")).toBe(plan.reports.get("MeshGateway/edge/front"));
    expect(planGateways({ ...state }, plan)).toBe(plan);
    expect(planGateways(stateOf([]), NO_GATEWAYS)).toBe(NO_GATEWAYS);
    expect(planGateways(stateOf([]), plan).gateways.size).toBe(0);
  });
});

describe("the resource of a gateway", () => {
  const full = front("front", {
    tier: "external",
    routes: [
      {
        name: "a",
        hosts: ["apps.example"],
        path: { exact: "/a" },
        backend: { service: "scorer", namespace: "ml", port: 8080 },
        access: "LoginOrBearer",
        stepUp: { acr: "urn:x", maxAge: "5m" },
        rewrite: { prefix: "/b", host: "b.example" },
        cors: { allowOrigins: ["https://app.example"], allowCredentials: true },
        owner: "okta|alice",
      },
      { name: "b", path: { prefix: "/b" }, external: "databricks", access: "Bearer" },
      {
        name: "c",
        path: { prefix: "/c" },
        backend: { service: "scorer", namespace: "ml" },
        access: "Public",
      },
    ],
    session: { store: { type: "redis", secretRef: { name: "redis" } } },
    trustedHops: ["10.0.0.0/8"],
    limits: { perUser: { requests: 10, per: "1s" }, perIP: { requests: 5 } },
    securityHeaders: { contentSecurityPolicy: "default-src 'self'", frameOptions: "off" },
  });
  const gateway = onlyGateway(
    planGateways(
      stateOf([full], {
        identityProviders: new Map([
          ["okta", idp("okta", { stepUpAcr: "urn:2fa", maxAge: "1h", hostedDomain: "acme.example" })],
        ]),
      }),
      undefined,
    ),
  );
  const codec = messageCodec("countersign.mesh.v1.Gateway");
  const bodyOf = (over: object = {}): Buffer => {
    if (gateway === undefined) throw new Error("no gateway");
    const { encoded } = buildGateway(gateway);
    const resource = messageCodec<object, { upsert: { body: Buffer }[] }>("countersign.mesh.v1.Delta");
    const [first] = resource.decode(encoded).upsert;
    return codec.encode({ ...codec.decode(first?.body ?? Buffer.alloc(0)), ...over });
  };

  test("arrives as it was built", () => {
    expect(decodeResource("gateway", "edge/front", bodyOf())).toEqual({
      ok: true,
      value: { kind: "gateway", value: gateway },
    });
  });

  test.each([
    ["another's", { id: "edge/other" }, "is about"],
    ["a tier of later", { tier: "hidden" }, "tier"],
    ["no listener", { listeners: [] }, "listeners"],
    ["a host with a path", { listeners: [{ name: "l", port: 1, hosts: ["a/b"], secretName: "t" }] }, "host"],
    [
      "a secret above its folder",
      { listeners: [{ name: "l", port: 1, hosts: ["a"], secretName: "../t" }] },
      "secret",
    ],
    ["no session", { session: null }, "sessions"],
    ["a network that is none", { trustedHops: ["10.0.0.0/33"] }, "network"],
    [
      "a route without backend",
      { routes: [{ name: "r", hosts: ["a"], pathPrefix: "/", access: "Login" }] },
      "backend",
    ],
    [
      "an access of later",
      { routes: [{ name: "r", hosts: ["a"], pathPrefix: "/", service: "a/b", access: "Badge" }] },
      "access",
    ],
    [
      "an owner of what is public",
      {
        routes: [
          { name: "r", hosts: ["a"], pathPrefix: "/", service: "a/b", access: "Public", owner: "a|b" },
        ],
      },
      "everybody",
    ],
    [
      "an issuer without TLS",
      { idps: [{ name: "i", displayName: "I", issuer: "http://i", scopes: ["openid"] }] },
      "issuer",
    ],
  ])("is refused with %s", (_what, over, says) => {
    const decoded = decodeResource("gateway", "edge/front", bodyOf(over));
    expect(decoded).toMatchObject({ ok: false, error: expect.stringContaining(says) });
  });
});
