// What the status of each policy says: where it is in force, and what is wrong with it.
import type { ClusterState } from "../sources/store.ts";
import type { PolicyProblem } from "./conditions.ts";
import { withChanges } from "./layered-map.ts";
import { type Entry, targetsOf } from "./policy-entry.ts";

export interface PolicyReport {
  /** `namespace/name` of workloads, `external:namespace/name` of external services; sorted. */
  readonly targets: readonly string[];
  readonly problems: readonly PolicyProblem[];
}

/** What the reports follow from. */
interface ReportBasis {
  readonly entries: ReadonlyMap<string, Entry>;
  /** Workloads on which nothing is ever allowed. */
  readonly closed: ReadonlySet<string>;
}

/** Whether two sets have the same members. */
export const sameSet = (a: ReadonlySet<string>, b: ReadonlySet<string>): boolean =>
  a.size === b.size && [...a].every((value) => b.has(value));

/** @param changed policies to report anew while the closed workloads are the same; undefined: all. */
export function reportsOf(
  state: ClusterState,
  now: ReportBasis,
  previous: (ReportBasis & { readonly policies: ReadonlyMap<string, PolicyReport> }) | undefined,
  changed: ReadonlySet<string> | undefined,
): ReadonlyMap<string, PolicyReport> {
  const { closed } = now;
  const before = previous?.closed;
  const incremental =
    changed !== undefined &&
    previous !== undefined &&
    before !== undefined &&
    (closed === before || sameSet(closed, before));
  const reports = new Map<string, PolicyReport>();
  const gone = new Map<string, undefined>();
  for (const key of incremental ? changed : state.policies.keys()) {
    const entry = now.entries.get(key);
    if (entry?.source.source === "policy") reports.set(key, reportOf(entry, closed));
    else gone.set(key, undefined);
  }
  return incremental ? withChanges(previous.policies, new Map([...reports, ...gone])) : reports;
}

function reportOf(entry: Entry, closed: ReadonlySet<string>): PolicyReport {
  const { policy } = entry.source;
  const targets = [...targetsOf(entry)].sort();
  const problems = [...entry.problems];
  const refused = problems.some((problem) => problem.severity === "error");
  const path = policy.targets === undefined ? "spec" : "spec.targets";
  if (targets.length === 0 && !refused) {
    problems.push({
      severity: "warning",
      type: "ResolvedRefs",
      reason: "TargetNotFound",
      path,
      message: "no workload matches, the policy is in force nowhere",
    });
  }
  if (policy.action === "Allow" && targets.length > 0 && targets.every((target) => closed.has(target))) {
    problems.push({
      severity: "warning",
      type: "Accepted",
      reason: "NeverMatches",
      path,
      message: "an unconditional Deny covers every target, so nothing is allowed",
    });
  }
  return { targets, problems };
}
