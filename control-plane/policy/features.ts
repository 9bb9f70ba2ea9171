// Which engine features a program needs, so that a sidecar of an older version refuses what it cannot enforce; PURE.
import type { FromClause, Obligations, ProgramPolicy } from "../../sidecar/core/policy/rule.ts";
import type { PolicyFeature } from "../../sidecar/core/policy/wire.ts";

const usesVia = (clauses: readonly FromClause[] | undefined): boolean =>
  clauses?.some((clause) => clause.via !== undefined) === true;

function collect(policy: ProgramPolicy, out: Set<PolicyFeature>): void {
  if (policy.roles !== undefined) out.add("role-grants");
  for (const rule of policy.rules) {
    if (rule.when?.cel !== undefined) out.add("cel");
    if (rule.when?.schedule !== undefined) out.add("schedule");
    if (usesVia(rule.from) || usesVia(rule.unless)) out.add("via");
    if (rule.with !== undefined) collectDemands(rule.with, out);
  }
}

function collectDemands(demands: Obligations, out: Set<PolicyFeature>): void {
  if (demands.rateLimit !== undefined) out.add("rate-limit");
  if (demands.tokenLimit !== undefined) out.add("token-limit");
  if (demands.concurrency !== undefined) out.add("concurrency");
  if (demands.replay !== undefined) out.add("replay-strict");
  if (demands.audit?.mode === "Required") out.add("audit-required");
  if (demands.audit?.level === "Headers" || demands.audit?.level === "Body") out.add("audit-payload");
}

/** Sorted; empty for a program that every version can evaluate. */
export function featuresOf(policies: readonly ProgramPolicy[]): readonly PolicyFeature[] {
  const out = new Set<PolicyFeature>();
  for (const policy of policies) collect(policy, out);
  return [...out].sort();
}
