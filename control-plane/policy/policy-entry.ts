// A policy with everything that follows from it and the workloads: its problems, where it is in force, whom it lets in.
import { doubtLabel } from "../../sidecar/core/policy/role-label.ts";
import type { PolicyRule, ProgramPolicy } from "../../sidecar/core/policy/rule.ts";
import type { ClusterState, ExternalService } from "../sources/store.ts";
import type { AccessPolicy } from "./access-policy.ts";
import { type ConditionContext, checkPolicy, isUnconditionalDeny, type PolicyProblem } from "./conditions.ts";
import type { PolicySource } from "./derived.ts";
import { couldCall, selectTargets, type WorkloadIndex } from "./select.ts";

/** Callers that a policy could allow: all, or the listed workloads. */
export type Callers = "all" | ReadonlySet<string>;

/** A policy source with everything that follows from it alone. */
export interface Entry {
  readonly source: PolicySource;
  readonly problems: readonly PolicyProblem[];
  /** Workloads it is in force on, with ports; empty when it is excluded. */
  readonly targets: ReadonlyMap<string, readonly number[] | undefined>;
  readonly externals: readonly string[];
  readonly callers: Callers | undefined;
  /** By ports: programs with the same ports share the object. */
  readonly forms: Map<string, ProgramPolicy>;
  readonly rules: readonly PolicyRule[];
}

const isCluster = (entry: Entry): boolean => entry.source.policy.namespace === undefined;
const compareText = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/** Reported order: cluster before namespaced, then name; the key makes it total. */
export function compareEntries(a: Entry, b: Entry): number {
  if (isCluster(a) !== isCluster(b)) return isCluster(a) ? -1 : 1;
  return compareText(a.source.policy.name, b.source.policy.name) || compareText(a.source.key, b.source.key);
}

/** Keys of workloads and external services that it is in force on. */
export const targetsOf = (entry: Entry): readonly string[] => [...entry.targets.keys(), ...entry.externals];

/** What a Deny becomes that cannot be enforced as written and has no earlier form: it denies all traffic (DOMAIN 3.3). */
const DENY_ALL: readonly PolicyRule[] = [{ name: "not-accepted" }];

/** @param before the entry that an earlier compile made of the same source, whose forms are reused. */
export function createEntry(
  source: PolicySource,
  state: ClusterState,
  context: ConditionContext,
  index: WorkloadIndex,
  before: Entry | undefined,
): Entry {
  const { policy } = source;
  const problems = source.source === "policy" ? checkPolicy(policy, context) : [];
  const refused = problems.some((problem) => problem.severity === "error");
  const failsClosed = refused && policy.action === "Deny" && policy.enforcement === "Enforce";
  const none = refused && !failsClosed;
  const kept = before?.source.policy === policy && before.rules !== DENY_ALL ? before.rules : undefined;
  const rules = failsClosed ? DENY_ALL : (kept ?? withDoubts(policy));
  const sameForm =
    before?.source.policy === policy && before.rules === rules && sameList(before.source.roles, source.roles);
  return {
    source,
    problems,
    targets: none ? new Map() : selectTargets(index, policy.targets, policy.namespace, state.namespaces),
    externals: none ? [] : externalsOf(policy, state.externalServices),
    callers:
      none || policy.action !== "Allow" || policy.enforcement === "DryRun" || source.roles !== undefined
        ? undefined
        : callersOf(rules, index, state.config.trustDomain),
    forms: sameForm && before !== undefined ? before.forms : new Map(),
    rules,
  };
}

/** A Deny on a role holds also for users of whom it is not known whether they have the role; its exceptions do not. */
function withDoubts({ action, rules }: AccessPolicy): readonly PolicyRule[] {
  const names =
    action === "Deny" && rules.some(({ from }) => from?.some(({ user }) => user?.roles !== undefined));
  if (!names) return rules;
  return rules.map((rule) => ({
    ...rule,
    from: rule.from?.map((clause) =>
      clause.user?.roles === undefined
        ? clause
        : {
            ...clause,
            user: { ...clause.user, roles: clause.user.roles.flatMap((role) => [role, doubtLabel(role)]) },
          },
    ),
  }));
}

const sameList = (a: readonly string[] | undefined, b: readonly string[] | undefined): boolean =>
  a === b ||
  (a !== undefined && b !== undefined && a.length === b.length && a.every((value, i) => value === b[i]));

function externalsOf(
  policy: AccessPolicy,
  services: ReadonlyMap<string, ExternalService>,
): readonly string[] {
  const out = new Set<string>();
  for (const { external } of policy.targets ?? []) {
    const key = `${policy.namespace ?? ""}/${external ?? ""}`;
    if (external !== undefined && services.has(key)) out.add(`external:${key}`);
  }
  return [...out];
}

function callersOf(rules: readonly PolicyRule[], index: WorkloadIndex, trustDomain: string): Callers {
  const out = new Set<string>();
  for (const rule of rules) {
    for (const { workload } of rule.from ?? [{}]) {
      if (workload === undefined) return "all";
      for (const [key, candidate] of index.candidates(workload.namespaces, workload.names)) {
        if (couldCall(workload, candidate, trustDomain)) out.add(key);
      }
    }
  }
  return out;
}

/** The policy as programs carry it, one object for all with the same ports. */
export function formOf(entry: Entry, ports: readonly number[] | undefined): ProgramPolicy {
  const key = ports === undefined ? "" : ports.join(",");
  let form = entry.forms.get(key);
  if (form === undefined) {
    const { source, rules } = entry;
    const { policy } = source;
    form = {
      id: source.id,
      name: policy.name,
      cluster: policy.namespace === undefined,
      source: source.source,
      action: policy.action,
      enforcement: policy.enforcement,
      ...(ports === undefined ? {} : { ports }),
      ...(source.roles === undefined ? {} : { roles: source.roles }),
      rules,
    };
    entry.forms.set(key, form);
  }
  return form;
}

/** Whether nothing is ever allowed where this entry is in force. */
export function closes(entry: Entry | undefined): boolean {
  if (entry === undefined) return false;
  const { policy } = entry.source;
  if (entry.rules === DENY_ALL) return policy.targets?.some((target) => target.ports !== undefined) !== true;
  return isUnconditionalDeny(policy);
}

/** Workloads on which nothing is ever allowed. */
export function closedTargets(entries: ReadonlyMap<string, Entry>): ReadonlySet<string> {
  const out = new Set<string>();
  for (const entry of entries.values())
    if (closes(entry)) for (const target of entry.targets.keys()) out.add(target);
  return out;
}
