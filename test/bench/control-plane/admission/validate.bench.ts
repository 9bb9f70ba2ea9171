// One review of a policy, with 5 000 workloads and 10 000 policies in the state that changes before every tenth; and a whole
// state linted. Run it with `node test/bench/control-plane/admission/validate.bench.ts`; one JSON line per row.
import { validateChange } from "../../../../control-plane/admission/validate.ts";
import { createAdmitter } from "../../../../control-plane/policy/admit.ts";
import { createLinter, lintState } from "../../../../control-plane/policy/lint.ts";
import { loadBuiltInPacks } from "../../../../control-plane/policy/packs.ts";
import { createObjectParser } from "../../../../control-plane/policy/typed-object.ts";
import { loadSchemas } from "../../../../control-plane/sources/schema.ts";
import type { ClusterState } from "../../../../control-plane/sources/store.ts";
import { stateOfYaml } from "../../../fakes/yaml-state.ts";

const WORKLOADS = 5_000;
const POLICIES = 10_000;
const REVIEWS = 400;

const spec = (i: number) => ({
  action: i % 10 === 0 ? "Deny" : "Allow",
  targets: [{ names: [`w-${i % WORKLOADS}`] }],
  rules: [
    {
      name: "jobs",
      from: [
        {
          workload: {
            kinds: ["job"],
            names: [`w-${(i * 7) % WORKLOADS}`],
            namespaces: [`ns-${(i * 7) % 50}`],
          },
        },
      ],
      operations: [{ op: "serving.invoke" }, { op: "serving.metadata" }],
    },
    // Every tenth names somebody who is not there, which is what costs.
    {
      name: "others",
      from: [
        {
          workload: {
            serviceAccounts: [i % 10 === 3 ? `ns-${i % 50}/sb-${i}` : `ns-${i % 50}/sa-${i % 50}`],
          },
        },
      ],
      operations: [{ any: true }],
    },
  ],
});

function world(): ClusterState {
  const documents = Array.from({ length: WORKLOADS }, (_, i) =>
    JSON.stringify({
      kind: "Workload",
      metadata: { name: `w-${i}`, namespace: `ns-${i % 50}` },
      spec: {
        kind: "job",
        serviceAccount: `sa-${i % 50}`,
        service: `w-${i}`,
        ports: [{ port: 8080, packs: ["oip-v2"] }],
      },
    }),
  );
  const policies = Array.from({ length: POLICIES }, (_, i) =>
    JSON.stringify({
      kind: "AccessPolicy",
      metadata: { name: `p-${i}`, namespace: `ns-${i % 50}` },
      spec: spec(i),
    }),
  );
  return stateOfYaml([...documents, ...policies].join("\n---\n"));
}

const packs = loadBuiltInPacks();
const base = world();
const linter = createLinter(packs);
const context = {
  schemas: loadSchemas(),
  admitter: createAdmitter(packs, { mode: "kubernetes" }),
  parse: createObjectParser(),
  linter,
  nowMs: Date.now(),
  trustDomain: undefined,
};
const row = (name: string, samples: readonly number[]): void => {
  const sorted = samples.toSorted((a, b) => a - b);
  const at = (share: number): number =>
    Math.round((sorted[Math.floor(share * (sorted.length - 1))] ?? 0) * 100) / 100;
  console.log(JSON.stringify({ name, p50Ms: at(0.5), p99Ms: at(0.99), maxMs: at(1) }));
};

const took: number[] = [];
let state = base;
for (let i = 0; i < REVIEWS; i++) {
  if (i % 10 === 0) state = { ...state, policies: new Map(state.policies), revision: state.revision + 1 };
  const metadata = { name: `p-${i}`, namespace: `ns-${i % 50}` };
  const start = performance.now();
  validateChange(
    {
      uid: "",
      operation: "CREATE",
      kind: { group: "countersign.dev", version: "v1alpha1", kind: "AccessPolicy" },
      resource: { group: "countersign.dev", version: "v1alpha1", resource: "accesspolicies" },
      subResource: undefined,
      name: metadata.name,
      namespace: metadata.namespace,
      user: { username: "", uid: undefined, groups: [], extra: new Map() },
      object: { apiVersion: "countersign.dev/v1alpha1", kind: "AccessPolicy", metadata, spec: spec(i) },
      oldObject: undefined,
      options: { fieldValidation: "Strict" },
      dryRun: false,
    },
    { ...context, state },
  );
  took.push(performance.now() - start);
}
row("review", took.slice(20));

const start = performance.now();
const found = lintState(base, createLinter(packs), Date.now());
row(`lintState: ${found.size} objects with warnings`, [performance.now() - start]);
