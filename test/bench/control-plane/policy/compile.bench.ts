// Compile of 10 000 parsed policies in full, and of one edit among them; all on one target, and spread over 1 000. Run
// it with `node test/bench/control-plane/policy/compile.bench.ts`; one JSON line per row.
import type { AccessPolicy } from "../../../../control-plane/policy/access-policy.ts";
import { compile, recompile } from "../../../../control-plane/policy/compile.ts";
import { loadBuiltInPacks } from "../../../../control-plane/policy/packs.ts";
import type { ClusterState, Workload } from "../../../../control-plane/sources/store.ts";

const COUNT = 10_000;
const OPERATIONS = ["serving.invoke", "serving.metadata", "mlflow.read", "jobs.runNow"];

function policy(i: number, targets: number, generation: number): AccessPolicy {
  const from = [
    { workload: { kinds: ["job" as const], names: [`w-${i % 1000}`], namespaces: [`ns-${i % 10}`] } },
  ];
  return {
    kind: "AccessPolicy",
    name: `p-${i}`,
    namespace: `ns-${(i % targets) % 10}`,
    generation,
    action: i % 10 === 0 ? "Deny" : "Allow",
    enforcement: "Enforce",
    targets: [{ names: [`w-${i % targets}`] }],
    rules: [
      { name: "r", from, operations: [{ op: OPERATIONS[(i + generation) % OPERATIONS.length] ?? "jobs" }] },
    ],
  };
}

function state(targets: number): ClusterState {
  const workloads = new Map<string, Workload>();
  for (let i = 0; i < 1000; i++) {
    const namespace = `ns-${i % 10}`;
    workloads.set(`${namespace}/w-${i}`, {
      name: `w-${i}`,
      namespace,
      kind: "job",
      serviceAccount: "sa",
      labels: new Map(),
      addresses: [],
      meshPort: 1,
      service: `w-${i}`,
      ports: [],
      propagation: [],
      owner: undefined,
      env: undefined,
      runAs: undefined,
      generation: 1,
    });
  }
  const policies = new Map(
    Array.from({ length: COUNT }, (_, i) => policy(i, targets, 1)).map((each) => [
      `AccessPolicy/${each.namespace}/${each.name}`,
      each,
    ]),
  );
  const config = {
    trustDomain: "t",
    defaultAction: "Deny",
    mtls: "Strict",
    outbound: "Deny",
    proofs: "Optional",
    maxHops: 5,
    svidTtlMs: 1,
    txnTtlMs: 1,
    trustedSpawners: [],
    protectedLabels: [],
    gateways: [],
    explainDenials: false,
    namespaces: [],
  } as const;
  return {
    revision: 1,
    config,
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
}

const median = (values: number[]): number => values.sort((a, b) => a - b)[values.length >> 1] ?? 0;

if (process.argv[1]?.endsWith("compile.bench.ts")) {
  const packs = loadBuiltInPacks();
  for (const targets of [1, 1000]) {
    const full: number[] = [];
    const edit: number[] = [];
    let current = state(targets);
    let compiled = compile(current, packs);
    for (let round = 0; round < 5; round++) {
      const start = performance.now();
      compiled = compile(current, packs);
      full.push(performance.now() - start);
    }
    for (let round = 0; round < 30; round++) {
      const changed = policy(round * 37, targets, round + 2);
      current = {
        ...current,
        policies: new Map(current.policies).set(`AccessPolicy/${changed.namespace}/${changed.name}`, changed),
      };
      const start = performance.now();
      compiled = recompile(compiled, current);
      edit.push(performance.now() - start);
    }
    for (const [row, ours] of [
      ["full", median(full)],
      ["one edit", median(edit)],
    ] as const) {
      console.log(
        JSON.stringify({
          bench: "compile",
          row: `${COUNT} policies on ${targets} targets, ${row}`,
          ours: Math.round(ours * 100) / 100,
          unit: "ms",
        }),
      );
    }
  }
}
