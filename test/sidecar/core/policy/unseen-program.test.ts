import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import type { Call } from "../../../../sidecar/core/policy/call.ts";
import { createCaller } from "../../../../sidecar/core/policy/caller.ts";
import { createCelCompiler } from "../../../../sidecar/core/policy/cel.ts";
import { createProgram, decide } from "../../../../sidecar/core/policy/decide.ts";
import type { PolicyRule, ProgramPolicy, WorkloadProgram } from "../../../../sidecar/core/policy/rule.ts";
import { unseenProgram, unseenRequest } from "../../../../sidecar/core/policy/unseen-program.ts";
import { Dice, randomCall, randomProgram } from "../../../conformance/random-world.ts";

const cel = createCelCompiler();

function decided(program: WorkloadProgram, call: Call) {
  const compiled = createProgram(program, { cel });
  if (!compiled.ok) throw new Error(compiled.error);
  return decide(compiled.value, call);
}

const policy = (action: ProgramPolicy["action"], ...rules: Omit<PolicyRule, "name">[]): ProgramPolicy => ({
  id: `lab/${action}`,
  name: action,
  cluster: false,
  source: "policy",
  action,
  enforcement: "Enforce",
  rules: rules.map((rule, i) => ({ name: `rule-${i}`, ...rule })),
});

const program = (...policies: ProgramPolicy[]): WorkloadProgram => ({
  id: "external:lab/outside",
  spiffeId: "",
  kind: "external",
  name: "outside",
  namespace: "lab",
  labels: new Map(),
  ports: [{ port: 443, protocol: "http", packs: [] }],
  defaultAction: "Deny",
  maxHops: 5,
  trustDomain: "lake.example",
  policies,
  features: [],
});

const NOTEBOOK = createCaller({
  spiffeId: "spiffe://lake.example/ns/lab/sa/default/notebook/nb-1",
  trustDomain: "lake.example",
  local: true,
  namespace: "lab",
  serviceAccount: "default",
  kind: "notebook",
  name: "nb-1",
  labels: new Map(),
  owner: undefined,
  env: undefined,
});

const CALL: Call = {
  ...unseenRequest("adb-1.example"),
  caller: NOTEBOOK,
  user: undefined,
  via: [],
  port: 443,
  sourceIp: undefined,
  scope: undefined,
  nowMs: 1_700_000_000_000,
};

const NOTEBOOKS = [{ workload: { kinds: ["notebook"] as const } }];
const JOBS = [{ workload: { kinds: ["job"] as const } }];
const any = (more: Partial<PolicyRule> = {}) => ({
  from: NOTEBOOKS,
  operations: [{ any: true as const }],
  ...more,
});
const ALLOW_ANY = policy("Allow", any());

describe("a connection whose requests are encrypted", () => {
  test.each<{ name: string; policies: ProgramPolicy[]; is: string }>([
    { name: "no policy", policies: [], is: "DEFAULT_DENY" },
    { name: "an Allow of any operation", policies: [ALLOW_ANY], is: "ALLOWED" },
    {
      name: "an Allow for somebody else",
      policies: [policy("Allow", any({ from: JOBS }))],
      is: "NO_MATCHING_ALLOW",
    },
    {
      name: "an Allow of an operation",
      policies: [policy("Allow", { from: NOTEBOOKS, operations: [{ op: "sql" }] })],
      is: "NO_MATCHING_ALLOW",
    },
    {
      name: "an Allow of a class, of methods, of paths, of gRPC and of MCP",
      policies: [
        policy("Allow", {
          from: NOTEBOOKS,
          operations: [
            { access: ["read"] },
            { http: { methods: ["GET"] } },
            { http: { paths: ["/**"] } },
            { grpc: {} },
            { mcp: {} },
            { resources: ["*"] },
          ],
        }),
      ],
      is: "NO_MATCHING_ALLOW",
    },
    {
      name: "an Allow of any operation behind one of an operation, which may demand more",
      policies: [policy("Allow", { from: NOTEBOOKS, operations: [{ op: "sql" }] }, any())],
      is: "NO_MATCHING_ALLOW",
    },
    {
      name: "an Allow of any operation behind one of an operation for somebody else",
      policies: [policy("Allow", { from: JOBS, operations: [{ op: "sql" }] }, any())],
      is: "ALLOWED",
    },
    {
      name: "an Allow of any operation in a policy beside one of an operation",
      policies: [
        policy("Allow", { from: NOTEBOOKS, operations: [{ op: "sql" }] }),
        { ...ALLOW_ANY, id: "lab/z" },
      ],
      is: "ALLOWED",
    },
    {
      name: "a Deny of an operation beside an Allow of any",
      policies: [ALLOW_ANY, policy("Deny", { operations: [{ op: "secrets" }] })],
      is: "DENIED_BY_POLICY",
    },
    {
      name: "a Deny of a path",
      policies: [ALLOW_ANY, policy("Deny", { operations: [{ http: { paths: ["/api/2.0/secrets/**"] } }] })],
      is: "DENIED_BY_POLICY",
    },
    {
      name: "a Deny of an operation for somebody else",
      policies: [ALLOW_ANY, policy("Deny", { from: JOBS, operations: [{ op: "secrets" }] })],
      is: "ALLOWED",
    },
    {
      name: "a Deny of an operation from which this caller is exempt",
      policies: [ALLOW_ANY, policy("Deny", { operations: [{ op: "secrets" }], unless: NOTEBOOKS })],
      is: "ALLOWED",
    },
    {
      name: "a Deny of an operation that is on trial",
      policies: [ALLOW_ANY, { ...policy("Deny", { operations: [{ op: "a" }] }), enforcement: "DryRun" }],
      is: "ALLOWED",
    },
    ...["request.host == 'adb-1.example'", "caller.kind == 'notebook'"].map((source) => ({
      name: `a condition that can be told: ${source}`,
      policies: [policy("Allow", any({ when: { cel: source } }))],
      is: "ALLOWED",
    })),
    ...[
      "request.host == 'other.example'",
      "request.method != 'DELETE'",
      "!request.path.startsWith('/admin')",
      "op != 'secrets.get'",
      "resource != 'x'",
    ].map((source) => ({
      name: `an Allow with a condition that fails or cannot be told: ${source}`,
      policies: [policy("Allow", any({ when: { cel: source } }))],
      is: "NO_MATCHING_ALLOW",
    })),
    ...["request.path == '/admin'", "op == 'secrets.get'"].map((source) => ({
      name: `a Deny with a condition that cannot be told: ${source}`,
      policies: [ALLOW_ANY, policy("Deny", { when: { cel: source } })],
      is: "DENIED_BY_POLICY",
    })),
    {
      name: "a Deny with a condition that is false",
      policies: [ALLOW_ANY, policy("Deny", { when: { cel: "request.host == 'other.example'" } })],
      is: "ALLOWED",
    },
  ])("$name: $is", ({ policies, is }) => {
    expect(decided(unseenProgram(program(...policies)), CALL).reason).toBe(is);
  });

  test("a trial of a Deny that it might be under is told of", () => {
    const trial = { ...policy("Deny", { operations: [{ op: "a" }] }), enforcement: "DryRun" as const };
    expect(decided(unseenProgram(program(ALLOW_ANY, trial)), CALL).would?.allowed).toBe(false);
  });

  test("an audit of operations is one of what may be any of them", () => {
    const audit = policy("Audit", {
      operations: [{ op: "secrets" }],
      with: { audit: { level: "Metadata", sample: 1, mode: "BestEffort" } },
    });
    expect(decided(unseenProgram(program(ALLOW_ANY, audit)), CALL).audit?.level).toBe("Metadata");
  });

  test("that is allowed may carry any request: none of them would be denied by itself", () => {
    let allowed = 0;
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 31 - 1 }), (seed) => {
        const dice = new Dice(seed);
        const whole = randomProgram(dice);
        const call = randomCall(dice);
        const unseen = { ...call, ...unseenRequest(call.request.host) };
        if (!decided(unseenProgram(whole), unseen).allowed) return;
        allowed++;
        expect(decided(whole, call).allowed).toBe(true);
      }),
      { numRuns: 3_000 },
    );
    expect(allowed).toBeGreaterThan(20);
  });
});
