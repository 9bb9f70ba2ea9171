// Which operations of a workload ask for a proof that was not shown before (`replay: Strict`): its callers must know, or
// they would show a proof again. PURE.
import type { WorkloadProgram } from "../../sidecar/core/policy/rule.ts";

/** Stands for every operation. */
const ANY = "*";

/**
 * Operation patterns, sorted; more than needed never hurts.
 *
 * @returns empty for nearly every workload.
 */
export function freshProofsOf(program: WorkloadProgram): readonly string[] {
  const patterns = new Set<string>();
  for (const { rules } of program.policies)
    for (const { operations, with: demands } of rules) {
      if (demands?.replay !== "Strict") continue;
      for (const clause of operations ?? [undefined]) patterns.add(clause?.op ?? ANY);
    }
  return patterns.has(ANY) ? [ANY] : [...patterns].sort();
}
