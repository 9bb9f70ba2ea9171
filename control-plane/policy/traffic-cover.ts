// Which TrafficPolicies cover a workload, how precisely, and what they make together of one service; PURE.
import type { TrafficSettings } from "../../sidecar/core/traffic/traffic.ts";
import type { ClusterState, StatedTraffic, TrafficPolicy } from "../sources/store.ts";
import type { TargetMatch } from "./access-policy.ts";
import type { PolicyProblem } from "./conditions.ts";
import { matchesName, selectsWorkload, type WorkloadIndex } from "./select.ts";

/** How precisely a policy names a workload: the more precise of two counts, field by field. */
const EXACT_NAME = 3;
const PREFIX = 2;
const SELECTOR = 1;
const NAMESPACE = 0;

/** Workloads that a policy covers, each with how precisely. */
export type Cover = ReadonlyMap<string, number>;

function precisionOf(target: TargetMatch, name: string): number {
  if (target.names !== undefined) return target.names.includes(name) ? EXACT_NAME : PREFIX;
  return SELECTOR;
}

export function coverOf(
  policy: TrafficPolicy,
  index: WorkloadIndex,
  namespaces: ClusterState["namespaces"],
): Cover {
  const cover = new Map<string, number>();
  const { targets, namespace } = policy;
  if (targets === undefined) {
    for (const [key] of index.candidates([namespace], undefined)) cover.set(key, NAMESPACE);
    return cover;
  }
  for (const target of targets)
    for (const [key, workload] of index.candidates([namespace], target.names)) {
      if (!matchesName(target.names, workload.name)) continue;
      if (!selectsWorkload(target, workload, namespace, namespaces)) continue;
      cover.set(key, Math.max(cover.get(key) ?? NAMESPACE, precisionOf(target, workload.name)));
    }
  return cover;
}

/** A policy that covers some workload of a service. */
export interface Covering {
  /** Such as `TrafficPolicy/ml/fraud`. */
  readonly key: string;
  readonly policy: TrafficPolicy;
  readonly precision: number;
}

const FIELDS = [
  "lb",
  "preferZone",
  "healthCheck",
  "outlier",
  "slowStartMs",
  "limits",
  "timeouts",
  "retries",
] as const satisfies readonly (keyof StatedTraffic)[];

const FIELD_PATHS: Readonly<Record<(typeof FIELDS)[number], string>> = {
  lb: "spec.lb",
  preferZone: "spec.preferZone",
  healthCheck: "spec.healthCheck",
  outlier: "spec.outlier",
  slowStartMs: "spec.slowStart",
  limits: "spec.limits",
  timeouts: "spec.timeouts",
  retries: "spec.retries",
};

/**
 * What several policies say of one service: field by field the most precise counts, of two alike the first by name.
 *
 * @param problem told of each field that is stated twice as precisely, and differently.
 * @returns undefined when none of them says anything.
 */
export function mergeTraffic(
  service: string,
  covering: readonly Covering[],
  problem: (key: string, problem: PolicyProblem) => void,
): TrafficSettings | undefined {
  if (covering.length === 0) return undefined;
  const order = [...covering].sort(
    (a, b) => b.precision - a.precision || (a.policy.name < b.policy.name ? -1 : 1),
  );
  const stated = new Map<string, unknown>();
  for (const field of FIELDS) {
    const winner = order.find(({ policy }) => policy.settings[field] !== undefined);
    if (winner === undefined) continue;
    const value = winner.policy.settings[field];
    stated.set(field, value);
    for (const { key, policy, precision } of order) {
      const other = policy.settings[field];
      if (policy === winner.policy || precision !== winner.precision || other === undefined) continue;
      if (JSON.stringify(other) === JSON.stringify(value)) continue;
      problem(key, {
        severity: "warning",
        type: "Accepted",
        reason: "Conflicted",
        path: FIELD_PATHS[field],
        message: `TrafficPolicy \`${winner.policy.name}\` says something else for service \`${service}\` and comes first by name; name the workload more precisely where this shall count`,
      });
    }
  }
  const settings = Object.fromEntries(FIELDS.map((field) => [field, stated.get(field)]));
  // Holds because every field has the value that a policy stated under the same name.
  return { ...(settings as unknown as TrafficSettings), preferZone: stated.get("preferZone") === true };
}
