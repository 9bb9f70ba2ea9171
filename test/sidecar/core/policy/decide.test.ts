import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { createCelCompiler } from "../../../../sidecar/core/policy/cel.ts";
import { createProgram, decide, needsResource } from "../../../../sidecar/core/policy/decide.ts";
import { mergeAudit } from "../../../../sidecar/core/policy/decision.ts";
import type { AuditSetting, ProgramPolicy, WorkloadProgram } from "../../../../sidecar/core/policy/rule.ts";
import { disagreement } from "../../../conformance/agreement.ts";
import { Dice, randomCall, randomProgram } from "../../../conformance/random-world.ts";
import { run } from "../../../fuzz/sidecar/core/policy/decide.fuzz.ts";

const cel = createCelCompiler();

const created = (program: WorkloadProgram) => {
  const result = createProgram(program, { cel });
  if (!result.ok) throw new Error(result.error);
  return result.value;
};

describe("decide", () => {
  test("agrees with the naive reference evaluator on random worlds", () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 31 - 1 }), (seed) => {
        expect(disagreement(seed, 4)).toBeUndefined();
      }),
      { numRuns: 700 },
    );
  });

  test("has a fuzz target that finds nothing", async () => {
    expect((await run({ seconds: 0.3, seed: 99 })).cases).toBeGreaterThan(0);
  });

  test("never allows more when a Deny is added, and never less when an Allow is added to a guarded target", () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 31 - 1 }), (seed) => {
        const dice = new Dice(seed);
        const program = { ...randomProgram(dice), defaultAction: "Deny" as const };
        const call = randomCall(dice);
        const deny: ProgramPolicy = {
          id: "z",
          name: "z",
          cluster: false,
          source: "policy",
          action: "Deny",
          enforcement: "Enforce",
          rules: [{ name: "all" }],
        };
        const before = decide(created(program), call);
        expect(decide(created({ ...program, policies: [...program.policies, deny] }), call).allowed).toBe(
          false,
        );
        const allow: ProgramPolicy = {
          ...deny,
          action: "Allow",
          rules: [{ name: "all", from: [{ any: true }], operations: [{ any: true }] }],
        };
        const after = decide(created({ ...program, policies: [...program.policies, allow] }), call);
        expect(after.allowed || !before.allowed).toBe(true);
      }),
      { numRuns: 200 },
    );
  });

  test("refuses a program with a CEL condition when no compiler is loaded", () => {
    const policy: ProgramPolicy = {
      id: "p",
      name: "p",
      cluster: false,
      source: "policy",
      action: "Deny",
      enforcement: "Enforce",
      rules: [{ name: "r", when: { cel: "true" } }],
    };
    const program = { ...randomProgram(new Dice(1)), policies: [policy] };
    expect(createProgram(program)).toMatchObject({
      ok: false,
      error: expect.stringContaining("no CEL compiler"),
    });
  });

  test("asks for the resource only where a rule can depend on it", () => {
    const policy: ProgramPolicy = {
      id: "p",
      name: "p",
      cluster: false,
      source: "policy",
      action: "Deny",
      enforcement: "Enforce",
      rules: [{ name: "r", operations: [{ op: "serving.invoke", resources: ["a"] }, { op: "mlflow" }] }],
    };
    const program = created({ ...randomProgram(new Dice(1)), policies: [policy] });
    const known = (name: string) => ({ kind: "known" as const, name, access: "read" as const, template: "" });
    expect(needsResource(program, known("serving.invoke.chat"))).toBe(true);
    expect(needsResource(program, known("serving.metadata"))).toBe(false);
    expect(needsResource(program, known("mlflow.read"))).toBe(false);
    expect(needsResource(program, { kind: "unknown" })).toBe(false);
  });
});

describe("mergeAudit", () => {
  const setting = (
    level: AuditSetting["level"],
    sample: number,
    mode: AuditSetting["mode"],
  ): AuditSetting => ({ level, sample, mode });
  test.each([
    {
      name: "takes the only one",
      a: undefined,
      b: setting("Body", 1, "BestEffort"),
      want: setting("Body", 1, "BestEffort"),
    },
    {
      name: "takes the higher level with its sample",
      a: setting("None", 1, "BestEffort"),
      b: setting("Metadata", 0.5, "BestEffort"),
      want: setting("Metadata", 0.5, "BestEffort"),
    },
    {
      name: "takes the denser sample of equal levels",
      a: setting("Body", 0.1, "BestEffort"),
      b: setting("Body", 0.5, "BestEffort"),
      want: setting("Body", 0.5, "BestEffort"),
    },
    {
      name: "keeps Required",
      a: setting("Body", 1, "BestEffort"),
      b: setting("None", 0, "Required"),
      want: setting("Body", 1, "Required"),
    },
  ])("$name", ({ a, b, want }) => {
    expect(mergeAudit(a, b)).toEqual(want);
  });
});
