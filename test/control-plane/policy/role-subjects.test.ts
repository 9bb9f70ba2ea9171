import { describe, expect, test } from "@jest/globals";
import { decideDescribed } from "../../../control-plane/cli/described-call.ts";
import { compile } from "../../../control-plane/policy/compile.ts";
import { loadBuiltInPacks } from "../../../control-plane/policy/packs.ts";
import { createRoleFinder, type RoleHolder } from "../../../control-plane/policy/role-subjects.ts";
import { bindingLabel, namedRoles } from "../../../sidecar/core/policy/role-label.ts";
import { stateOfYaml } from "../../fakes/yaml-state.ts";

const state = stateOfYaml(`
{kind: IdentityProvider, metadata: {name: okta}, spec: {type: oidc, issuer: "https://okta.example", clientID: c}}
---
{kind: IdentityProvider, metadata: {name: entra}, spec: {type: oidc, issuer: "https://entra.example", clientID: c}}
---
{kind: MeshRole, metadata: {name: querier}, spec: {rules: [{operations: [{op: serving.invoke}]}]}}
---
{kind: MeshRoleBinding, metadata: {name: scientists}, spec: {roles: [ds, querier], namespaces: [ml], subjects: [{idp: okta, group: data-science}, {idp: entra, groupId: 5f1c}]}}
---
{kind: MeshRoleBinding, metadata: {name: risk}, spec: {roles: [risk], subjects: [{idp: okta, claim: "claims.department == 'risk'"}]}}
---
{kind: MeshRoleBinding, metadata: {name: people}, spec: {roles: [oncall], subjects: [{user: "okta|carol"}, {idp: okta, user: dave}]}}
---
{kind: MeshRoleBinding, metadata: {name: machines}, spec: {roles: [release], subjects: [{servicePrincipal: ci}, {idp: entra, servicePrincipal: bot}, {serviceAccount: ml/trainer}]}}
`);
const finder = createRoleFinder();
const rolesOf = (holder: Partial<RoleHolder>, book = state) =>
  finder.rolesOf({ type: "person", groups: [], claims: {}, ...holder }, book);
const okta = { idp: "okta", userId: "okta|alice" };

describe("rolesOf", () => {
  test.each<[what: string, holder: Partial<RoleHolder>, roles: string[]]>([
    ["nobody", okta, []],
    ["a group", { ...okta, groups: ["data-science", "data-science"] }, ["@scientists", "ds", "querier"]],
    ["a group in other letters", { ...okta, groups: ["Data-Science"] }, []],
    ["another provider's group", { idp: "entra", userId: "entra|a", groups: ["data-science"] }, []],
    ["a group id", { idp: "entra", userId: "entra|a", groups: ["5f1c"] }, ["@scientists", "ds", "querier"]],
    ["a claim", { ...okta, claims: { department: "risk" } }, ["risk"]],
    ["a claim of another value", { ...okta, claims: { department: "sales" } }, []],
    ["a claim of another type", { ...okta, claims: { department: ["risk"] } }, []],
    ["another provider's claim", { idp: "entra", userId: "entra|a", claims: { department: "risk" } }, []],
    ["a user", { idp: "okta", userId: "okta|carol" }, ["oncall"]],
    ["a user named after the provider", { idp: "okta", userId: "okta|dave" }, ["oncall"]],
    ["another provider's user of that name", { idp: "entra", userId: "entra|carol" }, []],
    ["a service principal", { idp: "entra", userId: "entra|bot", type: "servicePrincipal" }, ["release"]],
    ["a person named like one", { idp: "entra", userId: "entra|bot" }, []],
    ["one that several providers can name", { idp: "okta", userId: "okta|ci", type: "servicePrincipal" }, []],
    ["a service account", { type: undefined, serviceAccount: "ml/trainer" }, ["release"]],
    ["another namespace's account", { type: undefined, serviceAccount: "dev/trainer" }, []],
  ])("of %s", (_what, holder, roles) => {
    expect(rolesOf(holder).roles).toEqual(roles);
  });

  test("a service principal without provider counts where there is one provider", () => {
    const [provider] = [...state.identityProviders].filter(([name]) => name === "okta");
    if (provider === undefined) throw new Error("no provider");
    const one = { ...state, identityProviders: new Map([provider]) };
    const ci = { idp: "okta", userId: "okta|ci", type: "servicePrincipal" as const };
    expect(rolesOf(ci, one).roles).toEqual(["release"]);
    expect(rolesOf(ci).roles).toEqual([]);
  });

  test("names every way to a role", () => {
    expect(
      rolesOf({ idp: "okta", userId: "okta|carol", groups: ["data-science"], claims: { department: "risk" } })
        .paths,
    ).toEqual([
      { role: "ds", binding: "scientists", through: "group `data-science` of okta", namespaces: ["ml"] },
      { role: "oncall", binding: "people", through: "user `okta|carol`", namespaces: undefined },
      { role: "querier", binding: "scientists", through: "group `data-science` of okta", namespaces: ["ml"] },
      {
        role: "risk",
        binding: "risk",
        through: "claim `claims.department == 'risk'` of okta",
        namespaces: undefined,
      },
    ]);
  });

  test("unknown groups give no role, and are not no groups", () => {
    const held = rolesOf({ ...okta, groups: "unknown", claims: { department: "risk" } });
    expect(held.roles).toEqual(["risk"]);
    expect(held.unknown).toEqual(["ds", "querier"]);
    expect(rolesOf({ ...okta, groups: [] }).unknown).toEqual([]);
  });
});

test("labels of bindings are short, and not for applications to see", () => {
  expect(bindingLabel("a")).toBe("@a");
  expect(bindingLabel("x".repeat(253))).toHaveLength(65);
  expect(bindingLabel(`${"x".repeat(252)}y`)).not.toBe(bindingLabel(`${"x".repeat(252)}z`));
  expect(namedRoles(["?contractor", "@a", "ds"])).toEqual(["ds"]);
  const plain = ["ds"];
  expect(namedRoles(plain)).toBe(plain);
});

describe("a Deny by role", () => {
  const guarded = stateOfYaml(`
{kind: IdentityProvider, metadata: {name: okta}, spec: {type: oidc, issuer: "https://okta.example", clientID: c}}
---
{kind: MeshRoleBinding, metadata: {name: b}, spec: {roles: [contractor, ds], subjects: [{idp: okta, group: g}]}}
---
{kind: Workload, metadata: {name: a, namespace: ml}, spec: {kind: serving, serviceAccount: s, service: a, ports: [{port: 80, packs: [mlflow-scoring]}]}}
---
{kind: AccessPolicy, metadata: {name: all, namespace: ml}, spec: {action: Allow, rules: [{name: r, from: [{user: {presence: Required}}], operations: [{any: true}]}]}}
---
{kind: ClusterAccessPolicy, metadata: {name: no}, spec: {action: Deny, rules: [{name: r, from: [{user: {roles: [contractor]}}], unless: [{user: {roles: [ds]}}]}]}}
`);
  const allowed = (groups: RoleHolder["groups"]): boolean | undefined => {
    const { roles } = rolesOf({ ...okta, groups }, guarded);
    return decideDescribed(
      { from: "serving/a", to: "serving/a", request: "GET /x", user: "okta|alice", roles, nowMs: 0 },
      compile(guarded, loadBuiltInPacks()),
      loadBuiltInPacks(),
    ).decision?.allowed;
  };

  test("holds for users of whom it is not known whether they have the role", () => {
    expect(rolesOf({ ...okta, groups: "unknown" }, guarded).roles).toEqual(["?contractor"]);
    expect([allowed([]), allowed("unknown"), allowed(["g"])]).toEqual([true, false, true]);
  });
});
