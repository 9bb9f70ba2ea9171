import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import type { Call } from "../../../../sidecar/core/policy/call.ts";
import { plaintextCaller } from "../../../../sidecar/core/policy/caller.ts";
import { createProgram, decide } from "../../../../sidecar/core/policy/decide.ts";
import { plaintextProgram } from "../../../../sidecar/core/policy/plaintext.ts";
import type { ProgramPolicy, WorkloadProgram } from "../../../../sidecar/core/policy/rule.ts";

const ops = fc.constantFrom(
  [{ any: true as const }],
  [{ op: "thing.read" }],
  [{ op: "thing.write" }],
  undefined,
);
const from = fc.constantFrom([{ any: true as const }], [{ workload: { kinds: ["notebook"] } }], undefined);

const policies: fc.Arbitrary<ProgramPolicy> = fc
  .record({
    action: fc.constantFrom("Allow" as const, "Deny" as const, "Audit" as const),
    enforcement: fc.constantFrom("Enforce" as const, "DryRun" as const),
    source: fc.constantFrom("policy" as const, "grant" as const),
    ports: fc.constantFrom([8080], [9090], undefined),
    from,
    operations: ops,
    name: fc.string({ minLength: 1, maxLength: 4 }),
  })
  .map(({ action, enforcement, source, ports, name, ...rule }) => {
    const [callers, operations] = [rule.from ?? undefined, rule.operations];
    return {
      id: `ml/${name}`,
      name,
      cluster: false,
      source: action === "Allow" ? source : "policy",
      action,
      enforcement,
      ...(ports === undefined ? {} : { ports }),
      rules: [
        {
          name: "one",
          // An Allow rule states both.
          ...(action === "Allow" || callers !== undefined ? { from: callers ?? [{ any: true }] } : {}),
          ...(action === "Allow" || operations !== undefined
            ? { operations: operations ?? [{ any: true }] }
            : {}),
        },
      ],
    };
  });

const programOf = (list: readonly ProgramPolicy[], defaultAction: "Allow" | "Deny"): WorkloadProgram => ({
  id: "ml/scorer",
  spiffeId: "spiffe://td/ns/ml/sa/default/serving/scorer",
  kind: "serving",
  name: "scorer",
  namespace: "ml",
  labels: new Map(),
  ports: [{ port: 8080, protocol: "http", packs: [] }],
  defaultAction,
  maxHops: 5,
  trustDomain: "td",
  policies: list,
  features: [],
});

const call: Call = {
  caller: plaintextCaller,
  user: undefined,
  via: [],
  port: 8080,
  request: { method: "GET", path: "/a", host: "a", grpc: undefined, mcp: undefined },
  operation: { kind: "known", name: "thing.read", access: "read", template: "/a" },
  resource: { kind: "none" },
  folded: [],
  sourceIp: "10.0.0.1",
  scope: undefined,
  nowMs: 0,
};

function decideOn(program: WorkloadProgram) {
  const compiled = createProgram(program);
  if (!compiled.ok) throw new Error(compiled.error);
  return decide(compiled.value, call);
}

describe("plaintextProgram", () => {
  test("lets in whoever no Deny rule names, and nobody else, whatever may be allowed to others", () => {
    fc.assert(
      fc.property(
        fc.array(policies, { maxLength: 6 }),
        fc.constantFrom("Allow" as const, "Deny" as const),
        (list, fallback) => {
          const own = decideOn(programOf(list, fallback));
          const plain = decideOn(plaintextProgram(programOf(list, fallback)));
          expect(plain.allowed).toBe(own.reason !== "DENIED_BY_POLICY");
          expect(plain.reason).toBe(plain.allowed ? "DEFAULT_ALLOW" : "DENIED_BY_POLICY");
          expect(plain.audit).toEqual(own.audit);
          expect(plain.winners).toEqual([]);
          // Only an enforced Allow could have let it in otherwise, and none matches such a caller.
          expect(own.reason).not.toBe("ALLOWED");
        },
      ),
    );
  });
});
