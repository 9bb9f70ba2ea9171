// Compares the engine with the second reference on one seed: a dense random program and several calls.

import type { Call } from "../../sidecar/core/policy/call.ts";
import { createCelCompiler } from "../../sidecar/core/policy/cel.ts";
import { createProgram, decide } from "../../sidecar/core/policy/decide.ts";
import type { WorkloadProgram } from "../../sidecar/core/policy/rule.ts";
import { decodeProgram, encodeProgram } from "../../sidecar/core/policy/wire.ts";
import { Dice } from "./random-world.ts";
import { type SecondVerdict, secondReference } from "./second-reference.ts";
import { secondCall, secondCel, secondProgram } from "./second-world.ts";

const cel = createCelCompiler();

/** What the engine says, in the words of the reference. */
function engineVerdict(program: WorkloadProgram, calls: readonly Call[]): SecondVerdict[] | string {
  const compiled = createProgram(program, { cel });
  if (!compiled.ok) return compiled.error;
  return calls.map((call) => {
    const { allowed, reason, policy, rule, winners, audit, identityHeaders, would } = decide(
      compiled.value,
      call,
    );
    return {
      allowed,
      reason,
      policy,
      rule,
      winners: winners
        .filter((winner, i) => i === 0 || winner.with !== undefined)
        .map((winner) => `${winner.policy}/${winner.rule}`),
      audit,
      identityHeaders: [...new Set(identityHeaders)].sort(),
      would,
    };
  });
}

const text = ({
  allowed,
  reason,
  policy,
  rule,
  winners,
  audit,
  identityHeaders,
  would,
}: SecondVerdict): string =>
  JSON.stringify([
    allowed,
    reason,
    policy,
    rule,
    winners,
    audit && [audit.level, audit.sample, audit.mode],
    identityHeaders,
    would && [would.allowed, would.reason, would.policy, would.rule],
  ]);

/** Where a program that was made of `wanted` in some way, sent and received, decides otherwise than the reference. */
export function differences(
  wanted: WorkloadProgram,
  made: WorkloadProgram,
  calls: readonly Call[],
  seen?: (verdict: SecondVerdict) => void,
): string[] {
  const sent = decodeProgram(encodeProgram(made));
  const verdicts = sent.ok ? engineVerdict(sent.value, calls) : sent.error;
  if (typeof verdicts === "string") return [verdicts];
  return calls.flatMap((call, i) => {
    const reference = secondReference(wanted, call, secondCel);
    seen?.(reference);
    const got = verdicts[i];
    if (got !== undefined && text(got) === text(reference)) return [];
    return `call ${i}: engine ${got && text(got)}, second reference ${text(reference)}`;
  });
}

/**
 * @param seen told of each verdict, for a histogram.
 * @returns the first difference in words; undefined when they agree on every call.
 */
export function secondDisagreement(
  seed: number,
  count: number,
  seen?: (verdict: SecondVerdict) => void,
): string | undefined {
  const dice = new Dice(seed);
  const program = secondProgram(dice);
  const calls = Array.from({ length: count }, () => secondCall(dice));
  const [first] = differences(program, program, calls, seen);
  return first && `seed ${seed}, ${first}`;
}
