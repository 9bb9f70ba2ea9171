import { describe, expect, test } from "@jest/globals";
import { createAdmitter } from "../../../control-plane/policy/admit.ts";
import { loadBuiltInPacks } from "../../../control-plane/policy/packs.ts";
import { createObjectParser } from "../../../control-plane/policy/typed-object.ts";
import { loadSchemas } from "../../../control-plane/sources/schema.ts";
import type { OperationCatalog } from "../../../control-plane/sources/store.ts";

const schemas = loadSchemas();
const parse = createObjectParser();
const admitter = createAdmitter(loadBuiltInPacks());
const catalog: OperationCatalog = {
  name: "extra",
  packs: [{ name: "features", text: "features.read GET /features/{id} feature<path:id read CAN_READ\n" }],
};

function refusals(
  kind: string,
  spec: object,
  { catalogs = [] as OperationCatalog[], name = "x", by = admitter } = {},
): string[] {
  const namespaced = !["MeshRole", "MeshConfig", "OperationCatalog", "ClusterAccessPolicy"].includes(kind);
  const checked = schemas.validate({
    apiVersion: "countersign.dev/v1alpha1",
    kind,
    metadata: { name, ...(namespaced ? { namespace: "lab" } : {}) },
    spec,
  });
  if (!checked.ok) throw new Error(JSON.stringify(checked.error));
  const typed = parse(checked.value, 0);
  if (!typed.ok) throw new Error(JSON.stringify(typed.error));
  return by
    .against(catalogs)(typed.value, checked.value)
    .map(({ reason = "Invalid", path, message }) => `${reason} ${path}: ${message}`);
}

const deny = (rule: object): object => ({ action: "Deny", rules: [{ name: "r", ...rule }] });

describe("admission", () => {
  test.each([
    {
      name: "a known operation",
      kind: "AccessPolicy",
      spec: deny({ operations: [{ op: "serving.admin" }] }),
      says: [],
    },
    {
      name: "a misspelled operation",
      kind: "ClusterAccessPolicy",
      spec: deny({ operations: [{ op: "serving.amdin" }] }),
      says: [/^UnknownOperation spec\.rules\[0\]\.operations\[0\]\.op: .*did you mean `serving\.admin`$/],
    },
    {
      name: "a condition on what nothing carries",
      kind: "AccessPolicy",
      spec: {
        action: "Allow",
        rules: [
          {
            name: "r",
            from: [{ any: true }],
            operations: [{ any: true }],
            when: { cel: "caller.labels.a == 'b'" },
          },
        ],
      },
      says: [/^Unsupported spec\.rules\[0\]\.when\.cel: /],
    },
    {
      name: "a role that nobody has, which is a warning only",
      kind: "AccessPolicy",
      spec: deny({ from: [{ user: { roles: ["nobody"] } }] }),
      says: [],
    },
    {
      name: "a rule that can never match, which is a warning only",
      kind: "AccessPolicy",
      spec: deny({
        operations: [{ op: "health.probe", resources: ["x"] }],
      }),
      says: [],
    },
    {
      name: "a role with an unknown operation",
      kind: "MeshRole",
      spec: { rules: [{ operations: [{ op: "servin.invoke" }], targets: [{ kinds: ["serving"] }] }] },
      says: [/^UnknownOperation spec\.rules\[0\]\.operations\[0\]\.op: /],
    },
    {
      name: "a credential",
      kind: "ExternalService",
      spec: {
        hosts: ["a.example"],
        packs: ["databricks"],
        credential: {
          type: "tokenFederation",
          tokenURL: "https://a.example/t",
          servicePrincipal: "p",
          scope: "sql",
        },
      },
      says: [/^Unsupported spec\.credential: /],
    },
    {
      name: "plaintext and calls to the outside",
      kind: "MeshConfig",
      object: "default",
      spec: {
        mtls: "Permissive",
        outbound: "Allow",
        namespaces: [
          { names: ["a"], mtls: "Strict" },
          { names: ["b"], mtls: "Permissive" },
        ],
      },
      says: [
        /^Unsupported spec\.mtls: /,
        /^Unsupported spec\.namespaces\[1\]\.mtls: /,
        /^Unsupported spec\.outbound: /,
      ],
    },
    {
      name: "a pack with the name of a built-in one",
      kind: "OperationCatalog",
      spec: { packs: [{ name: "mlflow", text: catalog.packs[0]?.text }] },
      says: [/^Invalid spec\.packs\[0\]\.name: .*built in already$/],
    },
  ])("$name", ({ kind, spec, says, object }) => {
    const found = refusals(kind, spec, object === undefined ? {} : { name: object });
    expect(found).toHaveLength(says.length);
    for (const [i, pattern] of says.entries()) expect(found[i]).toMatch(pattern);
  });

  test("knows the operations of catalogs in force, and refuses a second pack of the same name", () => {
    const spec = deny({ operations: [{ op: "features.read" }] });
    expect(refusals("AccessPolicy", spec)).toHaveLength(1);
    expect(refusals("AccessPolicy", spec, { catalogs: [catalog] })).toEqual([]);
    const same = { packs: catalog.packs };
    expect(refusals("OperationCatalog", same, { catalogs: [catalog] })[0]).toContain(
      "OperationCatalog `extra`",
    );
    expect(refusals("OperationCatalog", same, { catalogs: [catalog], name: "extra" })).toEqual([]);
  });

  test("takes in a cluster what has an effect there alone", () => {
    const spec = {
      mtls: "Permissive",
      outbound: "Allow",
      namespaces: [{ names: ["b"], mtls: "Permissive" }],
      trustedSpawners: ["jhub/hub"],
      protectedLabels: ["data-class"],
      gateways: ["countersign-system/gateway"],
    };
    const cluster = createAdmitter(loadBuiltInPacks(), { mode: "kubernetes" });
    const found = (by: typeof admitter): string[] =>
      refusals("MeshConfig", spec, { name: "default", by }).map((problem) => problem.split(":")[0] ?? "");
    expect(found(cluster)).toEqual([]);
    expect(found(admitter)).toEqual([
      "Unsupported spec.mtls",
      "Unsupported spec.namespaces[0].mtls",
      "Unsupported spec.outbound",
      "Unsupported spec.trustedSpawners",
      "Unsupported spec.protectedLabels",
      "Unsupported spec.gateways",
    ]);
  });
});
