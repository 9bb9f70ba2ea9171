// Which workloads a policy's targets and a rule's callers select; PURE.
import type { NamePattern, WorkloadMatch } from "../../sidecar/core/policy/rule.ts";
import type { ClusterState, Workload } from "../sources/store.ts";
import type { LabelSelector, TargetMatch } from "./access-policy.ts";

/** SPIFFE ID of a workload (DOMAIN 1.7). */
export function spiffeIdOf(
  trustDomain: string,
  workload: Pick<Workload, "namespace" | "serviceAccount" | "kind" | "name">,
): string {
  return `spiffe://${trustDomain}/ns/${workload.namespace}/sa/${workload.serviceAccount}/${workload.kind}/${workload.name}`;
}

export function matchesName(patterns: readonly NamePattern[] | undefined, value: string): boolean {
  if (patterns === undefined) return true;
  return patterns.some((pattern) =>
    pattern.endsWith("*") ? value.startsWith(pattern.slice(0, -1)) : value === pattern,
  );
}

/** A Kubernetes label selector; a missing label satisfies `NotIn` and `DoesNotExist`. */
export function matchesSelector(
  selector: LabelSelector | undefined,
  labels: ReadonlyMap<string, string>,
): boolean {
  if (selector === undefined) return true;
  for (const [key, value] of selector.matchLabels ?? []) if (labels.get(key) !== value) return false;
  for (const { key, operator, values } of selector.matchExpressions ?? []) {
    const value = labels.get(key);
    const listed = value !== undefined && values.includes(value);
    if (operator === "In" && !listed) return false;
    if (operator === "NotIn" && listed) return false;
    if (operator === "Exists" && value === undefined) return false;
    if (operator === "DoesNotExist" && value !== undefined) return false;
  }
  return true;
}

/** Workloads by the attributes that policies name exactly, so that a policy looks only at those it could select. */
export class WorkloadIndex {
  readonly #all: readonly (readonly [string, Workload])[];
  readonly #byNamespace = new Map<string, (readonly [string, Workload])[]>();
  readonly #byName = new Map<string, (readonly [string, Workload])[]>();

  constructor(workloads: ReadonlyMap<string, Workload>) {
    this.#all = [...workloads];
    for (const entry of this.#all) {
      add(this.#byNamespace, entry[1].namespace, entry);
      add(this.#byName, entry[1].name, entry);
    }
  }

  /** A superset of the workloads in these namespaces with these names. */
  candidates(
    namespaces: readonly NamePattern[] | undefined,
    names: readonly NamePattern[] | undefined,
  ): readonly (readonly [string, Workload])[] {
    const byName = listed(this.#byName, names);
    const byNamespace = listed(this.#byNamespace, namespaces);
    if (byName === undefined) return byNamespace ?? this.#all;
    return byNamespace === undefined || byName.length <= byNamespace.length ? byName : byNamespace;
  }
}

function add<V>(map: Map<string, V[]>, key: string, value: V): void {
  const list = map.get(key);
  if (list === undefined) map.set(key, [value]);
  else list.push(value);
}

function listed<V>(
  map: ReadonlyMap<string, readonly V[]>,
  patterns: readonly NamePattern[] | undefined,
): readonly V[] | undefined {
  if (patterns === undefined || patterns.some((pattern) => pattern.endsWith("*"))) return undefined;
  if (patterns.length === 1) return map.get(patterns[0] ?? "") ?? [];
  return [...new Set(patterns)].flatMap((pattern) => map.get(pattern) ?? []);
}

/** Whether one entry of `targets` selects a workload; `scope` is the policy's namespace, undefined for cluster scope. */
export function selectsWorkload(
  target: TargetMatch,
  workload: Workload,
  scope: string | undefined,
  namespaces: ClusterState["namespaces"],
): boolean {
  if (target.external !== undefined) return false;
  if (scope !== undefined && workload.namespace !== scope) return false;
  if (target.kinds !== undefined && !target.kinds.includes(workload.kind)) return false;
  if (!matchesName(target.names, workload.name) || !matchesName(target.namespaces, workload.namespace))
    return false;
  if (!matchesSelector(target.selector, workload.labels)) return false;
  return (
    target.namespaceSelector === undefined ||
    matchesSelector(target.namespaceSelector, namespaces.get(workload.namespace) ?? NO_LABELS)
  );
}

const NO_LABELS: ReadonlyMap<string, string> = new Map();

/**
 * Every workload that a policy selects, with the ports it covers there (undefined: all).
 *
 * @param targets undefined: every workload in scope.
 */
export function selectTargets(
  index: WorkloadIndex,
  targets: readonly TargetMatch[] | undefined,
  scope: string | undefined,
  namespaces: ClusterState["namespaces"],
): Map<string, readonly number[] | undefined> {
  const out = new Map<string, readonly number[] | undefined>();
  const within = scope === undefined ? undefined : [scope];
  for (const target of targets ?? [{} as TargetMatch]) {
    for (const [key, workload] of index.candidates(within ?? target.namespaces, target.names)) {
      if (!selectsWorkload(target, workload, scope, namespaces)) continue;
      const known = out.get(key);
      if (!out.has(key)) out.set(key, target.ports === undefined ? undefined : sorted(target.ports));
      else if (known !== undefined)
        out.set(key, target.ports === undefined ? undefined : sorted([...known, ...target.ports]));
    }
  }
  return out;
}

const sorted = (ports: readonly number[]): readonly number[] => [...new Set(ports)].sort((a, b) => a - b);

/** Whether the workload part of a `from` clause could match a local workload. */
export function couldCall(match: WorkloadMatch, workload: Workload, trustDomain: string): boolean {
  if (match.kinds !== undefined && !match.kinds.includes(workload.kind)) return false;
  if (!matchesName(match.names, workload.name) || !matchesName(match.namespaces, workload.namespace))
    return false;
  const { serviceAccounts, trustDomains, spiffeIds } = match;
  if (serviceAccounts !== undefined) {
    const scoped = `${workload.namespace}/${workload.serviceAccount}`;
    if (!serviceAccounts.includes(workload.serviceAccount) && !serviceAccounts.includes(scoped)) return false;
  }
  if (trustDomains !== undefined && !trustDomains.includes(trustDomain)) return false;
  return spiffeIds === undefined || spiffeIds.includes(spiffeIdOf(trustDomain, workload));
}
