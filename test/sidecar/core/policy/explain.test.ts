import { describe, expect, test } from "@jest/globals";
import type { Call } from "../../../../sidecar/core/policy/call.ts";
import { createCaller } from "../../../../sidecar/core/policy/caller.ts";
import { createCelCompiler } from "../../../../sidecar/core/policy/cel.ts";
import { createProgram, decide } from "../../../../sidecar/core/policy/decide.ts";
import { explain } from "../../../../sidecar/core/policy/explain.ts";
import type { PolicyRule, WorkloadProgram } from "../../../../sidecar/core/policy/rule.ts";
import { Dice, randomCall, randomProgram } from "../../../conformance/random-world.ts";

const cel = createCelCompiler();
const base = randomProgram(new Dice(1));
const caller = createCaller({
  spiffeId: "spiffe://home/ns/ml-dev/sa/nb/notebook/n",
  trustDomain: "home",
  local: true,
  namespace: "ml-dev",
  serviceAccount: "nb",
  kind: "notebook",
  name: "n",
  labels: new Map(),
  owner: undefined,
  env: undefined,
});
const call: Call = {
  ...randomCall(new Dice(1)),
  caller,
  user: undefined,
  via: [],
  port: 80,
  operation: { kind: "known", name: "serving.invoke", access: "execute", template: "" },
  resource: { kind: "none" },
  folded: [],
  scope: undefined,
  nowMs: 0,
};

function explained(rule: Partial<PolicyRule>): unknown {
  const full: PolicyRule = { name: "r", from: [{ any: true }], operations: [{ any: true }], ...rule };
  const program: WorkloadProgram = {
    ...base,
    policies: [
      {
        id: "p",
        name: "p",
        cluster: true,
        source: "policy",
        action: "Allow",
        enforcement: "Enforce",
        rules: [full],
      },
    ],
  };
  const compiled = createProgram(program, { cel });
  if (!compiled.ok) throw new Error(compiled.error);
  return explain(compiled.value, call, { cel }).policies[0]?.rules[0];
}

describe("explain", () => {
  test.each([
    { name: "matched", rule: {}, want: { outcome: "matched", why: undefined } },
    {
      name: "namespace",
      rule: { from: [{ workload: { namespaces: ["ml-batch"] } }] },
      want: {
        outcome: "failed",
        why: "from[0].workload.namespaces: caller is in `ml-dev`, rule wants `ml-batch`",
      },
    },
    {
      name: "the alternative that got furthest",
      rule: {
        from: [
          { workload: { kinds: ["job" as const] } },
          { workload: { kinds: ["notebook" as const], names: ["x*"] } },
        ],
      },
      want: { outcome: "failed", why: "from[1].workload.names: caller is named `n`, rule wants `x*`" },
    },
    {
      name: "a missing user",
      rule: { from: [{ user: { presence: "Required" as const } }] },
      want: { outcome: "failed", why: "from[0].user: call has no user, rule needs one" },
    },
    {
      name: "operation",
      rule: { operations: [{ op: "mlflow" }] },
      want: { outcome: "failed", why: "operations[0].op: call is `serving.invoke`, rule wants `mlflow`" },
    },
    {
      name: "an unset environment",
      rule: { when: { environments: ["prod"] } },
      want: { outcome: "error", why: "when.environments: the caller's environment is not set" },
    },
    {
      name: "time",
      rule: { when: { notAfterMs: -1 } },
      want: { outcome: "failed", why: "when.notAfter: it is 1970-01-01T00:00:00.000Z, too late" },
    },
    {
      name: "the time in the rule's own zone",
      rule: { when: { schedule: { timeZone: "Asia/Kolkata", days: ["Fri" as const], from: "08:00" } } },
      want: {
        outcome: "failed",
        why: "when.schedule: closed at Thu 1970-01-01 05:30 in `Asia/Kolkata`, rule is open Fri 08:00 to 24:00",
      },
    },
    {
      name: "the condition that decided, not one that holds",
      rule: { operations: [{ http: { paths: ["/**"] }, mcp: { methods: ["tools/call"] } }] },
      want: { outcome: "failed", why: "operations[0].mcp: call is not that MCP method and name" },
    },
    {
      name: "a condition that errs",
      rule: { when: { cel: "user.id == caller.owner" } },
      want: { outcome: "error", why: "when.cel: the condition could not be evaluated" },
    },
  ])("names $name", ({ rule, want }) => {
    expect(explained(rule)).toEqual({ rule: "r", ...want });
  });

  test("gives the decision of decide and can be written as JSON in any world", () => {
    for (let seed = 0; seed < 150; seed++) {
      const dice = new Dice(seed);
      const program = createProgram(randomProgram(dice), { cel });
      if (!program.ok) throw new Error(program.error);
      const any = randomCall(dice);
      const decision = decide(program.value, any);
      const explanation = explain(program.value, any, { cel });
      expect(JSON.parse(JSON.stringify(explanation))).toMatchObject({
        allowed: decision.allowed,
        reason: decision.reason,
      });
    }
  });
});
