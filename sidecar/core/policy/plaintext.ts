// PURE. What decides on callers without an identity where a namespace is in `Permissive` mode, which is for migration: they
// match no Allow rule whatever it says, so being let in cannot depend on one; Deny and Audit rules apply to them too.
import type { WorkloadProgram } from "./rule.ts";

/** The program for plaintext callers: the Deny and Audit policies of the workload, and everything else is allowed. */
export function plaintextProgram(program: WorkloadProgram): WorkloadProgram {
  return {
    ...program,
    defaultAction: "Allow",
    policies: program.policies.filter(({ action }) => action !== "Allow"),
  };
}
