import { describe, expect, test } from "@jest/globals";
import { FoundRoles } from "../../../control-plane/tokens/found-roles.ts";
import type { Person } from "../../../control-plane/tokens/session-handle.ts";
import { stateOfYaml } from "../../fakes/yaml-state.ts";

const stateWith = (group: string) =>
  stateOfYaml(`
{kind: IdentityProvider, metadata: {name: okta}, spec: {type: oidc, issuer: "https://okta.example", clientID: c}}
---
{kind: MeshRoleBinding, metadata: {name: scientists}, spec: {roles: [ds], subjects: [{idp: okta, group: ${group}}]}}
`);
const person = (groups: Person["groups"]): Person => ({
  ...{ idp: "okta", id: "alice", type: "person", groups, claims: {}, amr: ["pwd"] },
});

describe("FoundRoles", () => {
  const science = stateWith("data-science");

  test("the second answer is the first one's, whatever else of the state has changed", () => {
    const found = new FoundRoles();
    const alice = person(["data-science"]);
    const first = found.of(alice, science);
    expect(first).toEqual(["ds"]);
    expect(found.of(alice, { ...science, workloads: new Map() } as typeof science)).toBe(first);
  });

  test("new bindings, roles, providers or policies count at once", () => {
    const found = new FoundRoles();
    const alice = person(["data-science"]);
    expect(found.of(alice, science)).toEqual(["ds"]);
    expect(found.of(alice, stateWith("other"))).toEqual([]);
    expect(found.of(alice, science)).toEqual(["ds"]);
    expect(found.of(alice, { ...science, bindings: new Map() })).toEqual([]);
    const denies = stateOfYaml(`
{kind: AccessPolicy, metadata: {name: no, namespace: ml}, spec: {action: Deny, targets: [{kinds: [serving]}], rules: [{name: r, from: [{user: {roles: [ds]}}], operations: [{any: true}]}]}}
`);
    const unknown = person("unknown");
    expect(found.of(unknown, science)).toEqual([]);
    expect(found.of(unknown, { ...science, policies: denies.policies })).toEqual(["?ds"]);
  });

  test("people are told apart, equal as they may look", () => {
    const found = new FoundRoles();
    expect(found.of(person(["data-science"]), science)).toEqual(["ds"]);
    expect(found.of(person([]), science)).toEqual([]);
  });
});
