// A small but complete set of discovery resources, as one sidecar would get them.

import { servicesOfWorkloads } from "../../control-plane/policy/declared-services.ts";
import {
  type BuiltResource,
  buildEndpoints,
  buildPack,
  buildProgram,
  buildService,
  buildSettings,
  buildTrustBundle,
} from "../../control-plane/resources/build.ts";
import { buildRoute } from "../../control-plane/resources/route-message.ts";
import type { ClusterState, MeshConfig, Workload } from "../../control-plane/sources/store.ts";
import type { WorkloadProgram } from "../../sidecar/core/policy/rule.ts";

export const CONFIG: MeshConfig = {
  trustDomain: "test.example",
  defaultAction: "Deny",
  mtls: "Strict",
  outbound: "Deny",
  proofs: "Optional",
  maxHops: 5,
  svidTtlMs: 3_600_000,
  txnTtlMs: 300_000,
  trustedSpawners: [],
  protectedLabels: [],
  gateways: [],
  explainDenials: false,
  namespaces: [],
};

export function workload(name: string, namespace = "ns", over: Partial<Workload> = {}): Workload {
  return {
    name,
    namespace,
    kind: "serving",
    serviceAccount: name,
    labels: new Map(),
    addresses: ["127.0.0.1"],
    meshPort: 17000,
    service: name,
    ports: [{ port: 8080, protocol: "http", packs: ["pack"] }],
    propagation: ["trace"],
    owner: undefined,
    env: undefined,
    runAs: undefined,
    generation: 1,
    ...over,
  };
}

export function clusterState(workloads: readonly Workload[], over: Partial<ClusterState> = {}): ClusterState {
  const byKey = new Map(workloads.map((one) => [`${one.namespace}/${one.name}`, one]));
  return {
    revision: 1,
    config: CONFIG,
    policies: new Map(),
    workloads: byKey,
    services: servicesOfWorkloads(over.workloads ?? byKey, new Map()),
    pods: new Map(),
    roles: new Map(),
    bindings: new Map(),
    grants: new Map(),
    externalServices: new Map(),
    catalogs: new Map(),
    identityProviders: new Map(),
    meshGateways: new Map(),
    routePolicies: new Map(),
    trafficPolicies: new Map(),
    gatewayRoutes: new Map(),
    namespaces: new Map(),
    ...over,
  };
}

export function program(one: Workload): WorkloadProgram {
  return {
    id: `${one.namespace}/${one.name}`,
    spiffeId: `spiffe://test.example/ns/${one.namespace}/sa/${one.serviceAccount}/${one.kind}/${one.name}`,
    kind: one.kind,
    name: one.name,
    namespace: one.namespace,
    labels: one.labels,
    ports: one.ports,
    defaultAction: "Deny",
    maxHops: 5,
    trustDomain: "test.example",
    policies: [],
    features: [],
  };
}

// A self-signed P-256 root for `spiffe://test.example`, valid for ten years from 2026; its key was thrown away.
export const BUNDLE_JSON =
  '{"keys":[{"use":"x509-svid","kty":"EC","crv":"P-256","x":"x0cNMucRBou1Pl28Qr3Q5Ks9BeszqI-o4My4v5UyVAo","y":"AUUaj6XBibfB2Zp_Wa6CimqYORPdm7WqUeXvVYUrKRQ","x5c":["MIICDTCCAbKgAwIBAgIQUKrTwb1Dtqil2gIiKjjn+TAKBggqhkjOPQQDAjAyMRQwEgYDVQQKEwtDb3VudGVyc2lnbjEaMBgGA1UEAxMRdGVzdC5leGFtcGxlIHJvb3QwHhcNMjUxMjMxMjM1NTAwWhcNMzUxMjI5MjM1NTAwWjAyMRQwEgYDVQQKEwtDb3VudGVyc2lnbjEaMBgGA1UEAxMRdGVzdC5leGFtcGxlIHJvb3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAATHRw0y5xEGi7U+XbxCvdDkqz0F6zOoj6jgzLi/lTJUCgFFGo+lwYm3wdmaf1mugopqmDkT3Zu1qlHl71WFKykUo4GpMIGmMBIGA1UdEwEB/wQIMAYBAf8CAQEwDgYDVR0PAQH/BAQDAgEGMCAGA1UdEQQZMBeGFXNwaWZmZTovL3Rlc3QuZXhhbXBsZTAeBgNVHR4BAf8EFDASoBAwDoYMdGVzdC5leGFtcGxlMB0GA1UdDgQWBBQuUA1zTTFmwKd5Lo1w4TI0tUzt0jAfBgNVHSMEGDAWgBQuUA1zTTFmwKd5Lo1w4TI0tUzt0jAKBggqhkjOPQQDAgNJADBGAiEA05J4elkmzEKqmsu9bzfX6EecTApsAlfpf9sGrC9yNS0CIQD8VdyGVp1lRZFfcGhdYVzJNne4FbqfA9cHiV1DfcQUEQ=="]},{"use":"wit-svid","kid":"wit-df5d6686d57367cd","alg":"ES256","kty":"EC","crv":"P-256","x":"nq7SI7ff3uYC5ZDSlrjMbATPuAveEGZqUD-qClHIBlc","y":"M7a0xywf1s779XzXadHgXw7qrWNFETKs8IhuCuQzut0"}],"spiffe_sequence":1,"spiffe_refresh_hint":300}';

/** Program of `ns/me`, one service `ns/{service}` with its endpoints, a pack, settings and a bundle. */
export function sampleResources(service = "svc"): BuiltResource[] {
  const me = workload("me");
  const other = workload(service);
  const workloads = new Map([[`ns/${service}`, other]]);
  const services = servicesOfWorkloads(workloads, new Map());
  return [
    buildProgram(program(me)),
    ...[...services].flatMap(([id, one]) => [
      buildService(id, one),
      buildEndpoints(id, one, workloads, "test.example"),
    ]),
    buildPack("pack", "# pack"),
    buildSettings(clusterState([me]), me, "local"),
    buildTrustBundle("test.example", BUNDLE_JSON),
  ];
}

/** A route that says something of everything. */
export function sampleRoute(service = "ns/svc"): BuiltResource {
  const key = { by: "header" as const, name: "x-session" };
  return buildRoute({
    service,
    rules: [
      {
        name: "RoutePolicy ns/r rules[0]",
        matches: [
          {
            path: { kind: "prefix", value: "/v2" },
            methods: ["POST"],
            headers: [{ name: "x-canary", kind: "exact", value: "yes" }],
            query: [{ name: "v", kind: "exact", value: "2" }],
            grpc: { service: "inference.S", method: "" },
            roles: ["oncall"],
            callerKinds: ["notebook"],
            callerNames: ["nb-*"],
            operations: ["serving.invoke"],
          },
        ],
        ports: [80],
        backends: [{ service: "ns/v1", port: 80, weight: 9 }],
        mirrors: [{ service: "ns/v2", port: undefined, share: 0.5, allMethods: true }],
        stickyBy: key,
        requestTimeoutMs: 2_000,
        tryTimeoutMs: 500,
        requestHeaders: [{ action: "set", name: "x-a", value: "1" }],
        responseHeaders: [{ action: "remove", name: "x-b", value: "" }],
      },
    ],
    traffic: {
      lb: { kind: "consistentHash", key },
      preferZone: true,
      healthCheck: {
        probe: { kind: "http", path: "/ready" },
        intervalMs: 10_000,
        timeoutMs: 1_000,
        healthyThreshold: 1,
        unhealthyThreshold: 3,
      },
      outlier: { consecutive5xx: 5, ejectForMs: 30_000, maxEjectPercent: 50, panicPercent: 50 },
      slowStartMs: 30_000,
      limits: { connections: 1, pending: 2, requests: 3 },
      timeouts: { connectMs: 1, requestMs: 2, idleMs: 3, streamMs: 4 },
      retries: {
        attempts: 2,
        on: ["503"],
        onlyAccess: ["read"],
        idempotent: ["serving.invoke"],
        budgetPercent: 20,
        perTryTimeoutMs: 250,
      },
    },
  });
}
