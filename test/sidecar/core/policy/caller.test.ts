import { describe, expect, test } from "@jest/globals";
import type { Call, Caller } from "../../../../sidecar/core/policy/call.ts";
import { createCaller, plaintextCaller, scopedAccountOf } from "../../../../sidecar/core/policy/caller.ts";
import { createProgram, decide } from "../../../../sidecar/core/policy/decide.ts";
import type { WorkloadMatch, WorkloadProgram } from "../../../../sidecar/core/policy/rule.ts";

const facts: Omit<Caller, "authenticated"> = {
  spiffeId: "spiffe://home/ns/lab/sa/trainer/job/nightly",
  trustDomain: "home",
  local: true,
  namespace: "lab",
  serviceAccount: "trainer",
  kind: "job",
  name: "nightly",
  labels: new Map([["team", "risk"]]),
  owner: "idp|u1",
  env: "prod",
};

function programOf(workload: WorkloadMatch, defaultAction: "Allow" | "Deny" = "Deny"): WorkloadProgram {
  return {
    id: "lab/scorer",
    spiffeId: "spiffe://home/ns/lab/sa/scorer/serving/scorer",
    kind: "serving",
    name: "scorer",
    namespace: "lab",
    labels: new Map(),
    ports: [],
    defaultAction,
    maxHops: 5,
    trustDomain: "home",
    features: [],
    policies: [
      {
        id: "lab/p",
        name: "p",
        cluster: false,
        source: "policy",
        action: "Allow",
        enforcement: "Enforce",
        rules: [{ name: "r", from: [{ workload }], operations: [{ op: "serving" }] }],
      },
    ],
  };
}

const created = (program: WorkloadProgram) => {
  const result = createProgram(program);
  if (!result.ok) throw new Error(result.error);
  return result.value;
};

const callOf = (caller: Caller): Call => ({
  caller,
  user: undefined,
  via: [],
  port: 8080,
  request: { method: "GET", path: "/", host: "scorer", grpc: undefined, mcp: undefined },
  operation: { kind: "known", name: "serving.invoke", access: "execute", template: "/" },
  resource: { kind: "none" },
  folded: [],
  sourceIp: undefined,
  scope: undefined,
  nowMs: 0,
});

describe("createCaller", () => {
  test("keeps every fact and is authenticated", () => {
    expect(createCaller(facts)).toMatchObject({ ...facts, authenticated: true });
  });

  test("a copy with other facts is decided on by its own facts", () => {
    const program = created(programOf({ names: ["nightly"] }));
    const caller = createCaller(facts);
    expect(decide(program, callOf(caller)).allowed).toBe(true);
    expect(decide(program, callOf({ ...caller, name: "other" })).allowed).toBe(false);
    expect(decide(program, callOf(createCaller({ ...caller, name: "other" }))).allowed).toBe(false);
  });

  test.each([
    ["kind", { kinds: ["job"] }, { kinds: ["serving"] }],
    ["name", { names: ["nightly"] }, { names: ["nightly-2"] }],
    ["name prefix", { names: ["night*"] }, { names: ["day*"] }],
    ["namespace", { namespaces: ["lab"] }, { namespaces: ["prod"] }],
    ["service account", { serviceAccounts: ["trainer"] }, { serviceAccounts: ["lab"] }],
    ["scoped account", { serviceAccounts: ["lab/trainer"] }, { serviceAccounts: ["prod/trainer"] }],
    ["SPIFFE ID", { spiffeIds: [facts.spiffeId] }, { spiffeIds: [`${facts.spiffeId}x`] }],
    ["trust domain", { trustDomains: ["home"] }, { trustDomains: ["away"] }],
  ] satisfies [string, WorkloadMatch, WorkloadMatch][])(
    "one caller is decided on by several programs in turn: %s",
    (_name, matching, other) => {
      const yes = created(programOf(matching));
      const no = created(programOf(other));
      const caller = createCaller(facts);
      const answers = [yes, no, yes, yes, no].map((program) => decide(program, callOf(caller)).allowed);
      expect(answers).toEqual([true, false, true, true, false]);
      expect(decide(yes, callOf(Object.freeze({ ...facts, authenticated: true }))).allowed).toBe(true);
      const frozen = Object.freeze(caller);
      expect([yes, no, yes].map((program) => decide(program, callOf(frozen)).allowed)).toEqual([
        true,
        false,
        true,
      ]);
    },
  );

  test.each([
    ["a foreign caller of the same name", { names: ["nightly"] }, false],
    ["a foreign caller whose SPIFFE ID is named", { spiffeIds: [facts.spiffeId] }, true],
    ["a foreign caller whose trust domain is named", { trustDomains: ["home"] }, true],
    ["a foreign caller of the same account", { serviceAccounts: ["trainer"] }, false],
  ] satisfies [string, WorkloadMatch, boolean][])("%s", (_name, workload, allowed) => {
    const caller = createCaller({ ...facts, local: false });
    expect(decide(created(programOf(workload)), callOf(caller)).allowed).toBe(allowed);
  });
});

describe("plaintextCaller", () => {
  test.each([
    ["an empty name", { names: [""] }],
    ["every name", { names: ["*"] }],
    ["an empty SPIFFE ID", { spiffeIds: [""] }],
    ["an empty scoped account", { serviceAccounts: ["/"] }],
  ] satisfies [string, WorkloadMatch][])("no clause of from matches it, not even %s", (_name, workload) => {
    expect(decide(created(programOf(workload)), callOf(plaintextCaller)).reason).toBe("NO_MATCHING_ALLOW");
  });

  test("cannot be changed", () => {
    expect(Object.isFrozen(plaintextCaller)).toBe(true);
  });
});

test("scopedAccountOf joins namespace and service account", () => {
  expect(scopedAccountOf(createCaller(facts))).toBe("lab/trainer");
  expect(scopedAccountOf({ ...facts, authenticated: true })).toBe("lab/trainer");
});
