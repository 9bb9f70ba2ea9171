// What a token for one endpoint may say: never more than policies let its person do there.
import { describe, expect, test } from "@jest/globals";
import { compile } from "../../../control-plane/policy/compile.ts";
import { loadBuiltInPacks } from "../../../control-plane/policy/packs.ts";
import { operationsOf } from "../../../control-plane/policy/user-operations.ts";
import type { User } from "../../../sidecar/core/policy/call.ts";
import { createCaller } from "../../../sidecar/core/policy/caller.ts";
import { parsePack } from "../../../sidecar/core/policy/catalog.ts";
import { stateOfYaml } from "../../fakes/yaml-state.ts";

const packs = loadBuiltInPacks();
const NOW = Date.parse("2026-11-21T10:00:00Z");
const WORLD = `
kind: MeshConfig
metadata: {name: default}
spec: {trustDomain: lake.example}
---
kind: IdentityProvider
metadata: {name: okta}
spec: {type: oidc, issuer: "https://acme.okta.com", clientID: abc}
---
kind: Workload
metadata: {name: scorer, namespace: ml}
spec: {kind: serving, serviceAccount: scorer, addresses: [127.0.0.1], ports: [{port: 8080, protocol: http, packs: [oip-v2]}]}
`;
const ALICE: User = {
  ...{ id: "okta|alice", idp: "okta", type: "person", roles: ["ds"], amr: [], acr: undefined },
  authTimeMs: undefined,
};

function policy(rule: string, spec = "action: Allow,"): string {
  return `
---
kind: AccessPolicy
metadata: {name: p${Math.random().toString(36).slice(2)}, namespace: ml}
spec: {targets: [{names: [scorer]}], ${spec} rules: [{name: r, ${rule}}]}
`;
}

function asked(policies: string, user = ALICE) {
  const state = stateOfYaml(WORLD + policies);
  const program = compile(state, packs).programs.get("ml/scorer");
  if (program === undefined) throw new Error("there is no program");
  return operationsOf({
    ...{ user, program, nowMs: NOW },
    caller: createCaller({
      ...{ spiffeId: "spiffe://lake.example/ns/edge/sa/gw/gateway/people", trustDomain: "lake.example" },
      ...{ local: true, namespace: "edge", serviceAccount: "gw", kind: "gateway", name: "people" },
      ...{ labels: new Map(), owner: undefined, env: undefined },
    }),
    pack: (name) => {
      const parsed = parsePack(name, packs.get(name) ?? "");
      return parsed.ok ? parsed.value : undefined;
    },
  });
}

const ALLOW = "from: [{user: {roles: [ds]}}], operations: [{op: serving.invoke}]";

describe("operationsOf", () => {
  test.each([
    { name: "nothing without a policy", policies: "", allowed: [] },
    { name: "what a role may do", policies: policy(ALLOW), allowed: ["serving.invoke.predict"] },
    {
      name: "nothing of another role",
      policies: policy(ALLOW.replace("ds", "other")),
      allowed: [],
    },
    {
      name: "nothing of a policy on trial",
      policies: policy(ALLOW, "action: Allow, enforcement: DryRun,"),
      allowed: [],
    },
    {
      name: "what a person may do from a notebook",
      policies: policy(ALLOW.replace("{user", "{workload: {kinds: [notebook]}, user")),
      allowed: ["serving.invoke.predict"],
    },
    {
      name: "what everybody may do",
      policies: policy("from: [{any: true}], operations: [{op: serving.invoke}]"),
      allowed: ["serving.invoke.predict"],
    },
    {
      name: "what the gateway may do for anybody",
      policies: policy("from: [{workload: {kinds: [gateway]}}], operations: [{op: serving.invoke}]"),
      allowed: ["serving.invoke.predict"],
    },
    {
      name: "nothing that a workload may do by itself",
      policies: policy("from: [{workload: {kinds: [job]}}], operations: [{op: serving.invoke}]"),
      allowed: [],
    },
    {
      name: "nothing that only calls without a user may do",
      policies: policy("from: [{user: {presence: Forbidden}}], operations: [{op: serving.invoke}]"),
      allowed: [],
    },
    {
      name: "what is limited to a resource: the call decides on that",
      policies: policy("from: [{user: {roles: [ds]}}], operations: [{op: serving.invoke, resources: [m1]}]"),
      allowed: ["serving.invoke.predict"],
    },
    {
      name: "nothing that is denied altogether",
      policies: policy(ALLOW) + policy("operations: [{op: serving.invoke}]", "action: Deny,"),
      allowed: [],
    },
    {
      name: "what is denied to others",
      policies:
        policy(ALLOW) +
        policy('from: [{user: {ids: ["okta|bob"]}}], operations: [{any: true}]', "action: Deny,"),
      allowed: ["serving.invoke.predict"],
    },
    {
      name: "what is denied by night alone: the call decides on that",
      policies:
        policy(ALLOW) +
        policy(
          'operations: [{any: true}], when: {schedule: {timeZone: UTC, from: "22:00", to: "06:00"}}',
          "action: Deny,",
        ),
      allowed: ["serving.invoke.predict"],
    },
    {
      name: "nothing whose time is over",
      policies: policy(`${ALLOW}, when: {notAfter: "2026-11-20T00:00:00Z"}`),
      allowed: [],
    },
    {
      name: "nothing that paths alone name: no token can say it",
      policies: policy('from: [{user: {roles: [ds]}}], operations: [{http: {paths: ["/v2/**"]}}]'),
      allowed: [],
    },
  ])("$name", ({ policies, allowed }) => {
    const found = asked(policies);
    expect(found.every).toBe(false);
    expect(found.allowed).toEqual(allowed.length === 0 ? [] : expect.arrayContaining(allowed));
    expect(found.others.length).toBeGreaterThan(0);
    expect(found.allowed.filter((name) => found.others.includes(name))).toEqual([]);
  });

  test("what is read is no more than what is read", () => {
    const { allowed, others } = asked(
      policy("from: [{user: {roles: [ds]}}], operations: [{access: [read]}]"),
    );
    expect(allowed.length).toBeGreaterThan(0);
    expect(allowed).not.toContain("serving.invoke.predict");
    expect(others).toContain("serving.invoke.predict");
  });

  test("every one where a rule allows any, and then only without a Deny", () => {
    const any = policy("from: [{user: {roles: [ds]}}], operations: [{any: true}]");
    expect(asked(any)).toMatchObject({ every: true, others: [] });
    const denied = asked(any + policy("operations: [{op: serving.invoke}]", "action: Deny,"));
    expect(denied.every).toBe(false);
    expect(denied.others).toContain("serving.invoke.predict");
    expect(denied.allowed.length).toBeGreaterThan(0);
  });

  test("a grant that nobody approved gives nothing", () => {
    const grant = `
---
kind: AccessGrant
metadata: {name: inc-42, namespace: ml}
spec: {subject: {user: "okta|alice"}, roles: [oncall], targets: [{names: [scorer]}], duration: 2h, reason: INC-42, approval: {required: 1, fromRoles: [ml-admin]}}
`;
    const oncall = policy(ALLOW.replace("ds", "oncall"));
    // Nobody has approved it.
    expect(asked(oncall + grant).allowed).toEqual([]);
  });
});
