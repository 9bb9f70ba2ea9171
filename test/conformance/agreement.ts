// Compares the engine with the reference evaluator on one seed: a random program and several calls.
import { createCelCompiler } from "../../sidecar/core/policy/cel.ts";
import { createProgram, decide } from "../../sidecar/core/policy/decide.ts";
import { Dice, randomCall, randomProgram } from "./random-world.ts";
import { referenceDecide } from "./reference.ts";

const cel = createCelCompiler();

/** @returns the first difference in words; undefined when they agree on every call. */
export function disagreement(seed: number, calls: number): string | undefined {
  const dice = new Dice(seed);
  const source = randomProgram(dice);
  const program = createProgram(source, { cel });
  if (!program.ok) return `seed ${seed}: ${program.error}`;
  for (let i = 0; i < calls; i++) {
    const call = randomCall(dice);
    const { allowed, reason, policy, rule, winners, audit, would } = decide(program.value, call);
    const demanding = winners
      .filter((winner) => winner.with !== undefined)
      .map((winner) => `${winner.policy}/${winner.rule}`);
    const got = JSON.stringify({
      allowed,
      reason,
      policy,
      rule,
      demanding,
      auditLevel: audit?.level,
      would: would?.allowed,
    });
    const wanted = referenceDecide(source, call);
    const expected = JSON.stringify({
      allowed: wanted.allowed,
      reason: wanted.reason,
      policy: wanted.policy,
      rule: wanted.rule,
      demanding: wanted.demanding,
      auditLevel: wanted.auditLevel,
      would: wanted.would,
    });
    if (got !== expected) return `seed ${seed}, call ${i}: engine ${got}, reference ${expected}`;
  }
  return undefined;
}
