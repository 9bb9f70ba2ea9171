// PURE. Which programs may say something else later, without having changed.
import type { When, WorkloadProgram } from "./rule.ts";

/** Whether any rule looks at the time, or at what may. */
export function dependsOnTime({ policies }: WorkloadProgram): boolean {
  return policies.some(({ rules }) => rules.some(({ when }) => isTimed(when)));
}

function isTimed(when: When | undefined): boolean {
  if (when === undefined) return false;
  const { notBeforeMs, notAfterMs, schedule, authn, cel } = when;
  return (notBeforeMs ?? notAfterMs ?? schedule ?? authn ?? cel) !== undefined;
}
