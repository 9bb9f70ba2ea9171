// The program of one workload or external service from the policies in force on it.
import type { WorkloadProgram } from "../../sidecar/core/policy/rule.ts";
import type { ClusterState, ExternalService, Workload } from "../sources/store.ts";
import { featuresOf } from "./features.ts";
import { type Entry, formOf } from "./policy-entry.ts";
import { matchesName, matchesSelector, spiffeIdOf } from "./select.ts";

/** The earlier program when the new one says the same. */
export function kept(next: WorkloadProgram, before: WorkloadProgram | undefined): WorkloadProgram {
  if (before === undefined || before.policies.length !== next.policies.length) return next;
  if (next.policies.some((policy, i) => policy !== before.policies[i])) return next;
  const { policies: _, ...facts } = next;
  const { policies: __, ...factsBefore } = before;
  const text = (value: object): string =>
    JSON.stringify(value, (_key, part: unknown) => (part instanceof Map ? [...part] : part));
  return text(facts) === text(factsBefore) ? before : next;
}

/** @param entries in force on it, in reported order. */
export function programOfWorkload(
  key: string,
  workload: Workload,
  state: ClusterState,
  entries: readonly Entry[],
): WorkloadProgram {
  const { config } = state;
  const policies = entries.map((entry) => formOf(entry, entry.targets.get(key)));
  return {
    id: key,
    spiffeId: spiffeIdOf(config.trustDomain, workload),
    kind: workload.kind,
    name: workload.name,
    namespace: workload.namespace,
    labels: workload.labels,
    ports: workload.ports,
    defaultAction: defaultActionOf(workload.namespace, state),
    maxHops: config.maxHops,
    trustDomain: config.trustDomain,
    policies,
    features: featuresOf(policies),
  };
}

/** @param id `external:namespace/name`; @param entries in force on it, in reported order. */
export function programOfExternal(
  id: string,
  service: ExternalService,
  state: ClusterState,
  entries: readonly Entry[],
): WorkloadProgram {
  const { config } = state;
  const policies = entries.map((entry) => formOf(entry, undefined));
  return {
    id,
    spiffeId: "",
    kind: "external",
    name: service.name,
    namespace: service.namespace,
    labels: new Map(),
    ports: [{ port: service.port, protocol: "http", packs: service.packs }],
    defaultAction: defaultActionOf(service.namespace, state),
    maxHops: config.maxHops,
    trustDomain: config.trustDomain,
    policies,
    features: featuresOf(policies),
  };
}

/** The first namespace override that says something about it decides. */
function defaultActionOf(namespace: string, state: ClusterState): "Allow" | "Deny" {
  const labels = state.namespaces.get(namespace) ?? new Map<string, string>();
  for (const override of state.config.namespaces) {
    if (override.defaultAction === undefined || !matchesName(override.names, namespace)) continue;
    if (matchesSelector(override.selector, labels)) return override.defaultAction;
  }
  return state.config.defaultAction;
}
