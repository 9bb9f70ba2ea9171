// What is said about an object in its surroundings: what it names and nobody knows, and that it selects what it means.
import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { createLinter, lintState } from "../../../control-plane/policy/lint.ts";
import { loadBuiltInPacks } from "../../../control-plane/policy/packs.ts";
import { selectTargets, WorkloadIndex } from "../../../control-plane/policy/select.ts";
import { loadSchemas } from "../../../control-plane/sources/schema.ts";
import { objectsOfYaml, stateOfYaml } from "../../fakes/yaml-state.ts";

const WORLD = `
{kind: MeshConfig, metadata: {name: default}, spec: {trustDomain: lake.example}}
---
{kind: Workload, metadata: {name: nightly-score, namespace: ml-batch}, spec: {kind: job, serviceAccount: batch-scorer}}
---
{kind: Workload, metadata: {name: nb-alice, namespace: ml-dev}, spec: {kind: notebook, serviceAccount: notebook}}
---
{kind: Workload, metadata: {name: fraud-scorer, namespace: ml-serving}, spec: {kind: serving, serviceAccount: fraud, service: fraud, ports: [{port: 8080, packs: [mlflow-scoring]}, {port: 9000, packs: [oip-v2]}]}}
---
{kind: Workload, metadata: {name: notes, namespace: ml-serving}, spec: {kind: service, serviceAccount: notes, service: notes, ports: [{port: 8000}]}}
---
{kind: MeshRole, metadata: {name: fraud-ds}, spec: {}}
---
{kind: MeshRoleBinding, metadata: {name: scientists}, spec: {roles: [fraud-ds], subjects: [{serviceAccount: ml-batch/batch-scorer}]}}
---
{kind: AccessPolicy, metadata: {name: closed, namespace: ml-closed}, spec: {action: Deny, rules: [{name: r}]}}
---
{kind: Workload, metadata: {name: shut, namespace: ml-closed}, spec: {kind: service, serviceAccount: shut}}
---
{kind: ExternalService, metadata: {name: workspace, namespace: ml-dev}, spec: {hosts: [adb-1.azuredatabricks.net], packs: [databricks]}}
---
{kind: OperationCatalog, metadata: {name: extra}, spec: {packs: [{name: features, text: "features.read GET /features/{id} feature<path:id read CAN_READ"}]}}
---
{kind: AccessPolicy, metadata: {name: readers, namespace: ml-serving}, spec: {action: Deny, rules: [{name: r, operations: [{op: features.read}]}]}}
`;
const state = stateOfYaml(WORLD);
const linter = createLinter(loadBuiltInPacks());
const NOW = Date.parse("2026-09-15T10:00:00Z");

function lint(yaml: string): string[] {
  return objectsOfYaml(yaml).flatMap(({ typed }) =>
    linter.lint(typed, state, NOW).map(({ reason, path, message }) => `${reason} ${path}: ${message}`),
  );
}

const policy = (spec: string, namespace = "ml-serving"): string =>
  `{kind: AccessPolicy, metadata: {name: p, namespace: ${namespace}}, spec: {${spec}}}`;
const allow = (from: string, operations = "{any: true}", targets = "[{names: [fraud-scorer]}]"): string =>
  policy(
    `action: Allow, targets: ${targets}, rules: [{name: r, from: [${from}], operations: [${operations}]}]`,
  );

describe("lint", () => {
  test.each<{ name: string; yaml: string; says: RegExp[] }>([
    {
      name: "a policy that is right",
      yaml: allow(
        "{workload: {names: [nightly-score], namespaces: [ml-batch]}, user: {roles: [fraud-ds]}}",
        "{op: serving.invoke}",
      ),
      says: [],
    },
    {
      name: "a target that nobody is",
      yaml: allow("{any: true}", "{any: true}", "[{names: [fraud-scorr]}]"),
      says: [
        /^TargetNotFound spec\.targets: no workload matches, the policy is in force nowhere$/,
        /^TargetNotFound spec\.targets\[0\]\.names\[0\]: no workload that it could select is named `fraud-scorr`; did you mean `fraud-scorer`$/,
      ],
    },
    {
      name: "a target that somebody is in another namespace",
      yaml: policy("action: Deny, targets: [{names: [fraud-scorer]}], rules: [{name: r}]", "ml-dev"),
      says: [/^TargetNotFound spec\.targets: no workload matches/],
    },
    {
      name: "a namespace with another spelling",
      yaml: "{kind: ClusterAccessPolicy, metadata: {name: p}, spec: {action: Deny, targets: [{namespaces: [ml-servin, ml-dev]}], rules: [{name: r}]}}",
      says: [
        /^TargetNotFound spec\.targets\[0\]\.namespaces\[0\]: no namespace is named `ml-servin`; did you mean `ml-serving`$/,
      ],
    },
    {
      name: "a port that no target has",
      yaml: allow("{any: true}", "{any: true}", "[{names: [fraud-scorer], ports: [8081]}]"),
      says: [
        /^PortNotFound spec\.targets\[0\]\.ports\[0\]: no workload that it selects has a port 8081; they have `8080`, `9000`$/,
      ],
    },
    {
      name: "a caller in a namespace with another spelling",
      yaml: allow("{workload: {kinds: [job], namespaces: [ml-bach]}}"),
      says: [
        /^CallerNotFound .*from\[0\]\.workload\.namespaces\[0\]: no namespace is named `ml-bach`; did you mean `ml-batch`$/,
      ],
    },
    {
      name: "a service account with another spelling",
      yaml: allow("{workload: {serviceAccounts: [ml-batch/batch-score, ml-dev/notebook]}}"),
      says: [
        /^CallerNotFound .*serviceAccounts\[0\]: .* runs as `ml-batch\/batch-score`; did you mean `ml-batch\/batch-scorer`$/,
      ],
    },
    {
      name: "a caller that is known elsewhere",
      yaml: allow("{workload: {names: [weekly], namespaces: [ml-batch]}}"),
      says: [/^CallerNotFound .*names\[0\]: no workload that is known now is named `weekly`$/],
    },
    {
      name: "subjects that nobody is",
      yaml: `{kind: MeshRoleBinding, metadata: {name: b}, spec: {roles: [fraud-ds], subjects: [{idp: okta-mian, group: g}, {user: "entra|x"}, {user: bob}, {servicePrincipal: ci}]}}`,
      says: [
        /^IdentityProviderNotFound spec\.subjects\[0\]\.idp: there is no IdentityProvider `okta-mian`/,
        /^IdentityProviderNotFound spec\.subjects\[1\]: there is no IdentityProvider `entra`/,
        /^NeverMatches spec\.subjects\[2\]\.user: users are `provider\|user`/,
        /^NeverMatches spec\.subjects\[3\]\.servicePrincipal: there are 0 identity providers/,
      ],
    },
    {
      name: "a caller of another mesh",
      yaml: allow("{workload: {names: [weekly], namespaces: [theirs], trustDomains: [partner.example]}}"),
      says: [],
    },
    {
      name: "an unknown role and a caller without namespace",
      yaml: allow("{workload: {kinds: [notebook]}, user: {roles: [fraud-sd]}}"),
      says: [
        /^Unscoped .*: kind and name are chosen by whoever creates pods/,
        /^UnknownRole .*did you mean `fraud-ds`$/,
      ],
    },
    {
      name: "an operation that no pack of the target has",
      yaml: allow("{any: true}", "{op: mlflow.log}"),
      says: [
        /^NotServed .*operations\[0\]\.op: no pack of its targets defines `mlflow\.log`: nothing matches; its targets have `mlflow-scoring`, `oip-v2`$/,
      ],
    },
    {
      name: "an operation of another port",
      yaml: allow("{any: true}", "{op: serving.metadata}", "[{names: [fraud-scorer], ports: [8080]}]"),
      says: [/^NotServed .*no pack of its targets defines `serving\.metadata`.*have `mlflow-scoring`$/],
    },
    {
      name: "operations of a host outside the mesh",
      yaml: policy(
        "action: Allow, targets: [{external: workspace}], rules: [{name: r, from: [{any: true}], operations: [{op: sql}, {op: mlflow.log}]}]",
        "ml-dev",
      ),
      says: [
        /^NotServed .*operations\[1\]\.op: no pack of its targets defines `mlflow\.log`.*have `databricks`$/,
      ],
    },
    {
      name: "MCP where nobody speaks it",
      yaml: allow("{any: true}", "{mcp: {methods: [tools/call]}}", "[{names: [notes]}]"),
      says: [
        /^NotServed .*operations\[0\]\.mcp: no target has a port with pack `mcp`; its targets declare none$/,
      ],
    },
    {
      name: "a guard rail over everything",
      yaml: policy("action: Deny, rules: [{name: r, operations: [{op: notebook.terminal}]}]"),
      says: [],
    },
    {
      name: "an Allow where everything is denied",
      yaml: policy(
        "action: Allow, rules: [{name: r, from: [{any: true}], operations: [{any: true}]}]",
        "ml-closed",
      ),
      says: [/^NeverMatches spec: an unconditional Deny covers every target/],
    },
    {
      name: "a rule whose time has passed",
      yaml: policy('action: Deny, rules: [{name: r, when: {notAfter: "2026-01-01T00:00:00Z"}}]'),
      says: [/^NeverMatches .*notAfter: `notAfter` has passed/],
    },
    {
      name: "a binding of what nobody knows",
      yaml: "{kind: MeshRoleBinding, metadata: {name: b}, spec: {roles: [fraud-d], namespaces: [ml-servin, ml-*], subjects: [{serviceAccount: ml-batch/batch-scorer}, {serviceAccount: ml-batch/trainer}]}}",
      says: [
        /^UnknownRole spec\.roles\[0\]: no MeshRole is named and no policy asks for `fraud-d`; did you mean `fraud-ds`$/,
        /^CallerNotFound spec\.subjects\[1\]\.serviceAccount: no workload that is known now runs as `ml-batch\/trainer`$/,
        /^NamespaceNotFound spec\.namespaces\[0\]: no namespace is named `ml-servin`; did you mean `ml-serving`$/,
      ],
    },
    {
      name: "a role with an operation that has no such class",
      yaml: "{kind: MeshRole, metadata: {name: r}, spec: {rules: [{operations: [{op: serving.invoke, access: [read]}]}]}}",
      says: [/^NeverMatches spec\.rules\[0\]\.operations\[0\]\.access: /],
    },
    {
      name: "a grant for nobody on nothing",
      yaml: "{kind: AccessGrant, metadata: {name: g, namespace: ml-serving}, spec: {subject: {workload: ml-batch/weekly}, operations: [{op: serving.invoke}], targets: [{names: [x]}], duration: 1h, reason: r}}",
      says: [/^TargetNotFound spec\.targets: /, /^CallerNotFound spec\.subject\.workload: /],
    },
    {
      name: "a spawner in a namespace that is not there",
      yaml: "{kind: MeshConfig, metadata: {name: default}, spec: {trustedSpawners: [ml-dev/hub, ml-dve/hub]}}",
      says: [
        /^NamespaceNotFound spec\.trustedSpawners\[1\]: no namespace is named `ml-dve`; did you mean `ml-dev`$/,
      ],
    },
    {
      name: "an exception for a namespace that is not there",
      yaml: "{kind: MeshConfig, metadata: {name: default}, spec: {namespaces: [{names: [ml-dve], defaultAction: Allow}]}}",
      says: [/^NamespaceNotFound spec\.namespaces\[0\]\.names\[0\]: .*did you mean `ml-dev`$/],
    },
  ])("$name", ({ yaml, says }) => {
    const found = lint(yaml);
    expect({ found, count: found.length }).toEqual({ found: expect.anything(), count: says.length });
    for (const [i, pattern] of says.entries()) expect(found[i]).toMatch(pattern);
  });

  test("goes over a whole state, and says the same again", () => {
    const all = lintState(state, createLinter(loadBuiltInPacks()), NOW);
    expect([...all.keys()]).toEqual([]);
    const idle = stateOfYaml(`${WORLD}---\n{kind: MeshRole, metadata: {name: lonely}, spec: {}}`);
    expect([...lintState(idle, linter, NOW)]).toMatchObject([["MeshRole/lonely", [{ reason: "NoHolders" }]]]);
    const wrong = stateOfYaml(`${WORLD}---\n${allow("{workload: {kinds: [job], namespaces: [ml-bach]}}")}`);
    const found = lintState(wrong, linter, NOW);
    expect([...found.keys()]).toEqual(["AccessPolicy/ml-serving/p"]);
    expect(lintState(wrong, linter, NOW)).toEqual(found);
  });

  test("tells which policies need what a catalog defines", () => {
    expect([...linter.lost("extra", undefined, state)]).toEqual([
      ["features.read", ["AccessPolicy/ml-serving/readers"]],
    ]);
    const extra = state.catalogs.get("extra");
    expect(linter.lost("extra", extra, state).size).toBe(0);
    expect(linter.lost("none", undefined, state).size).toBe(0);
  });

  test("stays quick on the largest policy that is looked at", () => {
    const names = Array.from({ length: 29 }, (_, i) => `"worker-${i}-with-some-length"`).join();
    const rules = Array.from(
      { length: 30 },
      (_, i) =>
        `{name: r${i}, from: [{workload: {names: [${names}]}}], operations: [{op: serving, http: {paths: ["/x/${i}"]}}]}`,
    );
    const start = performance.now();
    const found = lint(policy(`action: Allow, rules: [${rules.join()}]`));
    expect(performance.now() - start).toBeLessThan(20_000);
    expect(found.some((text) => text.startsWith("Shadowed") || text.startsWith("NeverMatches"))).toBe(true);
  });

  test("stays quick when nobody has any of the names", () => {
    const roles = Array.from(
      { length: 2_000 },
      (_, i) => `{kind: MeshRole, metadata: {name: role-of-team-${i}}, spec: {}}`,
    );
    const crowded = stateOfYaml(roles.join("\n---\n"));
    const unknown = Array.from({ length: 16 }, (_, i) => `rule-of-taem-${i}`).join();
    const from = Array.from({ length: 16 }, () => `{user: {roles: [${unknown}]}}`).join();
    const rules = Array.from({ length: 32 }, (_, i) => `{name: r${i}, from: [${from}]}`);
    const [object] = objectsOfYaml(policy(`action: Deny, rules: [${rules.join()}]`));
    if (object === undefined) throw new Error("no policy");
    const start = performance.now();
    const found = linter.lint(object.typed, crowded, NOW);
    expect(performance.now() - start).toBeLessThan(20_000);
    expect(found.filter(({ reason }) => reason === "UnknownRole")).toHaveLength(32 * 16 * 16);
    expect(found.filter(({ message }) => message.includes("did you mean"))).toHaveLength(8);
  });
});

describe("a tenant's policy", () => {
  const schemas = loadSchemas();
  const index = new WorkloadIndex(state.workloads);
  const names = fc.constantFrom("fraud-*", "nb-alice", "nightly-score", "*", "shut", "notes");
  const target = fc.record(
    {
      kinds: fc.uniqueArray(fc.constantFrom("job", "notebook", "serving", "service"), {
        minLength: 1,
        maxLength: 3,
      }),
      names: fc.uniqueArray(names, { minLength: 1, maxLength: 3 }),
      selector: fc.constant({ matchExpressions: [{ key: "nobody", operator: "DoesNotExist" }] }),
    },
    { requiredKeys: ["kinds"] },
  );

  test("reaches nothing outside its namespace, whatever it selects", () => {
    fc.assert(
      fc.property(
        fc.constantFrom("ml-serving", "ml-batch", "ml-dev", "ml-closed", "elsewhere"),
        fc.option(fc.array(target, { minLength: 1, maxLength: 3 }), { nil: undefined }),
        (namespace, targets) => {
          const checked = objectsOfYaml(
            JSON.stringify({
              kind: "AccessPolicy",
              metadata: { name: "p", namespace },
              spec: { action: "Deny", ...(targets ? { targets } : {}), rules: [{ name: "r" }] },
            }),
          );
          const [object] = checked;
          if (object?.typed.kind !== "AccessPolicy") throw new Error("no policy");
          const { value } = object.typed;
          const selected = selectTargets(index, value.targets, value.namespace, state.namespaces);
          for (const key of selected.keys()) expect(state.workloads.get(key)?.namespace).toBe(namespace);
        },
      ),
    );
  });

  test.each([
    ["namespaces", { namespaces: ["ml-batch"] }],
    ["namespaceSelector", { namespaceSelector: { matchLabels: { a: "b" } } }],
    ["namespace", { namespace: "ml-batch" }],
  ])("cannot state %s of targets", (field, of) => {
    const checked = schemas.validate({
      apiVersion: "countersign.dev/v1alpha1",
      kind: "AccessPolicy",
      metadata: { name: "p", namespace: "ml-serving" },
      spec: { action: "Deny", targets: [{ kinds: ["job"], ...of }], rules: [{ name: "r" }] },
    });
    expect(checked.ok ? [] : checked.error.map(({ path }) => path)).toEqual([`spec.targets[0].${field}`]);
  });
});
