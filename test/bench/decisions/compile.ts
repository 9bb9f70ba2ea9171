// The compiler: 10 000 parsed policies in full, and one edit among them.
import type { AccessPolicy } from "../../../control-plane/policy/access-policy.ts";
import { compile, recompile } from "../../../control-plane/policy/compile.ts";
import { loadBuiltInPacks } from "../../../control-plane/policy/packs.ts";
import type { ClusterState, Workload } from "../../../control-plane/sources/store.ts";
import { type BenchRow, median, row } from "../measure.ts";

const POLICIES = 10_000;
const WORKLOADS = 500;

function policy(index: number, generation: number): AccessPolicy {
  return {
    kind: "AccessPolicy",
    name: `p${index}`,
    namespace: `ns${index % 50}`,
    generation,
    action: "Allow",
    enforcement: "Enforce",
    targets: [{ kinds: ["serving"], names: [`m${index % WORKLOADS}`] }],
    rules: [
      {
        name: generation === 1 ? "r" : `r${generation}`,
        from: [{ workload: { kinds: ["job"], names: [`w${index}`], namespaces: [`ns${index % 50}`] } }],
        operations: [{ op: "serving.invoke" }],
      },
    ],
  };
}

function workload(index: number): Workload {
  return {
    name: `m${index}`,
    namespace: `ns${index % 50}`,
    kind: "serving",
    serviceAccount: "default",
    labels: new Map(),
    addresses: ["127.0.0.1"],
    meshPort: 16008,
    service: `m${index}`,
    ports: [{ port: 8080, protocol: "http", packs: ["mlflow-scoring"] }],
    propagation: ["trace"],
    owner: undefined,
    env: undefined,
    runAs: undefined,
    generation: 1,
  };
}

export function benchCompile(options: {
  readonly rounds: number;
  readonly say: (text: string) => void;
}): BenchRow[] {
  const packs = loadBuiltInPacks();
  const policies = new Map(
    Array.from({ length: POLICIES }, (_, index) => [
      `AccessPolicy/ns${index % 50}/p${index}`,
      policy(index, 1),
    ]),
  );
  const workloads = new Map(
    Array.from({ length: WORKLOADS }, (_, index) => [`ns${index % 50}/m${index}`, workload(index)]),
  );
  const state: ClusterState = {
    revision: 1,
    config: {
      trustDomain: "mesh.local",
      defaultAction: "Deny",
      mtls: "Strict",
      outbound: "Deny",
      proofs: "Optional",
      maxHops: 5,
      svidTtlMs: 21_600_000,
      txnTtlMs: 300_000,
      trustedSpawners: [],
      protectedLabels: [],
      gateways: [],
      explainDenials: false,
      namespaces: [],
    },
    policies,
    workloads,
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
    services: new Map(),
    pods: new Map(),
  };
  const fullMs: number[] = [];
  const editMs: number[] = [];
  compile(state, packs);
  for (let round = 0; round < options.rounds; round++) {
    let started = performance.now();
    let compiled = compile(state, packs);
    fullMs.push(performance.now() - started);
    for (let edit = 2; edit < 42; edit++) {
      const index = (round * 997 + edit * 131) % POLICIES;
      const changed = new Map(policies).set(`AccessPolicy/ns${index % 50}/p${index}`, policy(index, edit));
      const next = { ...compiled.state, revision: compiled.state.revision + 1, policies: changed };
      started = performance.now();
      compiled = recompile(compiled, next);
      editMs.push(performance.now() - started);
    }
  }
  options.say(
    `compile ${POLICIES} policies: ${median(fullMs).toFixed(0)} ms; one edit: ${median(editMs).toFixed(2)} ms`,
  );
  return [
    row("decisions", `compile ${POLICIES} parsed policies in full`, median(fullMs), "ms"),
    row("decisions", `recompile after one edit among ${POLICIES}`, median(editMs), "ms"),
  ];
}
