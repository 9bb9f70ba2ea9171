// From the state of the cluster to one program per workload; PURE and incremental. A program that does not change stays
// the same object, so whoever encodes or sends programs can tell by `===`.

import { type Pack, parsePack } from "../../sidecar/core/policy/catalog.ts";
import { createCelCompiler } from "../../sidecar/core/policy/cel.ts";
import type { CelCompiler } from "../../sidecar/core/policy/condition.ts";
import type { PolicyRule, ProgramPolicy, WorkloadProgram } from "../../sidecar/core/policy/rule.ts";
import type { ClusterState, ExternalService, Workload } from "../sources/store.ts";
import type { AccessPolicy } from "./access-policy.ts";
import {
  type ConditionContext,
  checkPolicy,
  isUnconditionalDeny,
  operationNames,
  type PolicyProblem,
} from "./conditions.ts";
import { type PolicySource, sourceOfGrant, sourceOfPolicy, sourcesOfRoles } from "./derived.ts";
import { featuresOf } from "./features.ts";
import { withChanges } from "./layered-map.ts";
import {
  couldCall,
  matchesName,
  matchesSelector,
  selectTargets,
  spiffeIdOf,
  WorkloadIndex,
} from "./select.ts";

export interface PolicyReport {
  /** `namespace/name` of workloads, `external:namespace/name` of external services; sorted. */
  readonly targets: readonly string[];
  readonly problems: readonly PolicyProblem[];
}

export interface Compiled {
  readonly state: ClusterState;
  /** By `namespace/name`. */
  readonly programs: ReadonlyMap<string, WorkloadProgram>;
  /** By `external:namespace/name`. */
  readonly externals: ReadonlyMap<string, WorkloadProgram>;
  /** Whom a workload may call as far as policy can tell without user and chain; both sides `namespace/name`. */
  readonly callees: ReadonlyMap<string, ReadonlySet<string>>;
  /** By key of `state.policies`. */
  readonly policies: ReadonlyMap<string, PolicyReport>;
  /** What the next compile reuses. */
  readonly basis: Basis;
}

export interface CompileOptions {
  /** Compiles what this build's data path does not enforce, too: for decision tables. */
  readonly supportAll?: boolean;
}

/** Callers that a policy could allow: all, or the listed workloads. */
type Callers = "all" | ReadonlySet<string>;

/** A policy source with everything that follows from it alone. */
interface Entry {
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

interface Basis {
  readonly packs: ReadonlyMap<string, string>;
  readonly options: CompileOptions;
  readonly context: ConditionContext;
  readonly index: WorkloadIndex;
  readonly derived: readonly PolicySource[];
  readonly entries: ReadonlyMap<string, Entry>;
  /** Entries in force per workload or external service, in reported order. */
  readonly selecting: ReadonlyMap<string, readonly Entry[]>;
  readonly callers: ReadonlyMap<string, Callers>;
  /** Workloads on which nothing is ever allowed. */
  readonly closed: ReadonlySet<string>;
}

/**
 * Compiles everything.
 *
 * @param packs text of the built-in operation packs by name; those of `state.catalogs` are added.
 */
export function compile(
  state: ClusterState,
  packs: ReadonlyMap<string, string>,
  options: CompileOptions = {},
): Compiled {
  return compileAll(state, packs, options, undefined);
}

/** Compiles a new state; reuses what the change cannot affect. Equal to `compile(state, …)` in every respect but time. */
export function recompile(previous: Compiled, state: ClusterState): Compiled {
  const before = previous.state;
  const { packs, options } = previous.basis;
  const onlyPolicies =
    before.config === state.config &&
    before.workloads === state.workloads &&
    before.roles === state.roles &&
    before.bindings === state.bindings &&
    before.externalServices === state.externalServices &&
    before.catalogs === state.catalogs &&
    before.namespaces === state.namespaces;
  return onlyPolicies ? compileChanged(previous, state) : compileAll(state, packs, options, previous);
}

function contextOf(
  state: ClusterState,
  packs: ReadonlyMap<string, string>,
  options: CompileOptions,
  previous: Compiled | undefined,
): ConditionContext {
  const reuse = previous?.basis;
  const samePacks =
    reuse !== undefined && reuse.packs === packs && previous?.state.catalogs === state.catalogs;
  const cel: CelCompiler = reuse?.context.cel ?? createCelCompiler();
  const roles = new Set(state.roles.keys());
  for (const role of state.roles.values()) roles.add(role.name);
  for (const binding of state.bindings.values()) for (const role of binding.roles) roles.add(role);
  for (const grant of state.grants.values()) for (const role of grant.roles ?? []) roles.add(role);
  const operations = samePacks ? reuse.context.operations : operationNames(knownOperations(state, packs));
  return { operations, roles, cel, supportAll: options.supportAll === true };
}

function knownOperations(
  state: ClusterState,
  packs: ReadonlyMap<string, string>,
): { names: Set<string>; withResource: Set<string> } {
  const names = new Set<string>();
  const withResource = new Set<string>();
  const take = (pack: Pack): void => {
    for (const row of pack.rows) {
      names.add(row.operation);
      if (row.resource !== undefined) withResource.add(row.operation);
    }
  };
  const texts = [...packs].map(([name, text]) => ({ name, text }));
  for (const { name, text } of [
    ...texts,
    ...[...state.catalogs.values()].flatMap((catalog) => catalog.packs),
  ]) {
    const parsed = parsePack(name, text); // a pack that does not parse was refused with its OperationCatalog
    if (parsed.ok) take(parsed.value);
  }
  return { names, withResource };
}

function compileAll(
  state: ClusterState,
  packs: ReadonlyMap<string, string>,
  options: CompileOptions,
  previous: Compiled | undefined,
): Compiled {
  const context = contextOf(state, packs, options, previous);
  const index = new WorkloadIndex(state.workloads);
  const derived = derivedSources(state);
  const entries = new Map<string, Entry>();
  const selecting = new Map<string, Entry[]>();
  const old = previous?.basis.entries;
  const sources = [...[...state.policies].map(([key, policy]) => sourceOfPolicy(key, policy)), ...derived];
  for (const source of sources) {
    const entry = createEntry(source, state, context, index, old?.get(source.key));
    entries.set(source.key, entry);
    for (const target of targetsOf(entry)) {
      const list = selecting.get(target);
      if (list === undefined) selecting.set(target, [entry]);
      else list.push(entry);
    }
  }
  for (const list of selecting.values()) list.sort(compareEntries);
  const basis: Basis = {
    packs,
    options,
    context,
    index,
    derived,
    entries,
    selecting,
    callers: new Map(),
    closed: closedTargets(entries),
  };
  return assemble(state, basis, previous, undefined, undefined);
}

/** Only policies or grants differ: touches what the changed ones select and selected. */
function compileChanged(previous: Compiled, state: ClusterState): Compiled {
  const { basis } = previous;
  const changed = new Map<string, { before: Entry | undefined; after: Entry | undefined }>();
  const replace = (key: string, source: PolicySource | undefined): void => {
    const before = basis.entries.get(key);
    const after = source && createEntry(source, state, basis.context, basis.index, before);
    changed.set(key, { before, after });
  };
  if (previous.state.policies !== state.policies) {
    // An edit keeps the order of the others: walking side by side is three times as fast as looking each up.
    const keys = previous.state.policies.keys();
    const values = previous.state.policies.values();
    for (const [key, policy] of state.policies) {
      const besideKey = keys.next().value;
      const beside = values.next().value;
      if (besideKey === key && beside === policy) continue;
      if (previous.state.policies.get(key) !== policy) replace(key, sourceOfPolicy(key, policy));
    }
    if (previous.state.policies.size + added(changed) !== state.policies.size) {
      for (const key of previous.state.policies.keys()) if (!state.policies.has(key)) replace(key, undefined);
    }
  }
  let derived = basis.derived;
  if (previous.state.grants !== state.grants) {
    derived = derivedSources(state);
    const now = new Map(derived.map((source) => [source.key, source]));
    for (const source of basis.derived) if (!now.has(source.key)) replace(source.key, undefined);
    for (const source of derived) replace(source.key, source);
  }
  if (changed.size === 0) return { ...previous, state };
  const entries = withChanges(basis.entries, new Map([...changed].map(([key, { after }]) => [key, after])));
  const affected = new Set<string>();
  for (const { before, after } of changed.values()) {
    for (const entry of [before, after])
      if (entry !== undefined) for (const target of targetsOf(entry)) affected.add(target);
  }
  const selecting = new Map(basis.selecting);
  for (const target of affected)
    selecting.set(target, listWithChanges(selecting.get(target) ?? [], target, changed));
  const context =
    previous.state.grants === state.grants
      ? basis.context
      : contextOf(state, basis.packs, basis.options, previous);
  const rolesChanged = context !== basis.context && !sameSet(context.roles, basis.context.roles);
  if (rolesChanged) return compileAll(state, basis.packs, basis.options, previous);
  const moved = [...changed.values()].some(({ before, after }) => closes(before) || closes(after));
  const closed = moved ? closedTargets(entries) : basis.closed;
  return assemble(
    state,
    { ...basis, context, derived, entries, selecting, closed },
    previous,
    affected,
    new Set(changed.keys()),
  );
}

const sameSet = (a: ReadonlySet<string>, b: ReadonlySet<string>): boolean =>
  a.size === b.size && [...a].every((value) => b.has(value));

function added(changed: ReadonlyMap<string, { before: Entry | undefined }>): number {
  let count = 0;
  for (const { before } of changed.values()) if (before === undefined) count += 1;
  return count;
}

function listWithChanges(
  list: readonly Entry[],
  target: string,
  changed: ReadonlyMap<string, { after: Entry | undefined }>,
): Entry[] {
  const out = list.filter((entry) => !changed.has(entry.source.key));
  for (const { after } of changed.values()) {
    if (after === undefined || !(after.targets.has(target) || after.externals.includes(target))) continue;
    let low = 0;
    let high = out.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      const other = out[middle];
      if (other !== undefined && compareEntries(other, after) < 0) low = middle + 1;
      else high = middle;
    }
    out.splice(low, 0, after);
  }
  return out;
}

const derivedSources = (state: ClusterState): PolicySource[] => [
  ...sourcesOfRoles(state),
  ...[...state.grants.values()].flatMap((grant) => sourceOfGrant(grant) ?? []),
];

const isCluster = (entry: Entry): boolean => entry.source.policy.namespace === undefined;
const compareText = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/** Reported order: cluster before namespaced, then name; the key makes it total. */
function compareEntries(a: Entry, b: Entry): number {
  if (isCluster(a) !== isCluster(b)) return isCluster(a) ? -1 : 1;
  return compareText(a.source.policy.name, b.source.policy.name) || compareText(a.source.key, b.source.key);
}

const targetsOf = (entry: Entry): readonly string[] => [...entry.targets.keys(), ...entry.externals];

/** What a Deny becomes that cannot be enforced as written and has no earlier form: it denies all traffic (DOMAIN 3.3). */
const DENY_ALL: readonly PolicyRule[] = [{ name: "not-accepted" }];

function createEntry(
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
  const rules = failsClosed ? DENY_ALL : policy.rules;
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

function formOf(entry: Entry, ports: readonly number[] | undefined): ProgramPolicy {
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

/** @param affected targets to build anew; undefined: all. @param changed policies to report anew; undefined: all. */
function assemble(
  state: ClusterState,
  basis: Basis,
  previous: Compiled | undefined,
  affected: ReadonlySet<string> | undefined,
  changed: ReadonlySet<string> | undefined,
): Compiled {
  const programs = new Map(affected === undefined ? [] : previous?.programs);
  const externals = new Map(affected === undefined ? [] : previous?.externals);
  const callers = new Map(affected === undefined ? [] : previous?.basis.callers);
  const workloadKeys = affected ?? state.workloads.keys();
  for (const key of workloadKeys) {
    const workload = state.workloads.get(key);
    if (workload === undefined) continue;
    const entries = basis.selecting.get(key) ?? [];
    programs.set(key, kept(programOfWorkload(key, workload, state, entries), previous?.programs.get(key)));
    callers.set(key, callersOfTarget(programs.get(key), entries));
  }
  for (const [key, service] of state.externalServices) {
    const id = `external:${key}`;
    if (affected !== undefined && !affected.has(id)) continue;
    externals.set(
      id,
      kept(programOfExternal(id, service, state, basis.selecting.get(id) ?? []), previous?.externals.get(id)),
    );
  }
  const callees = calleesOf(state, callers, previous, affected);
  const policies = reportsOf(state, basis, previous, changed);
  return { state, programs, externals, callees, policies, basis: { ...basis, callers } };
}

/** The earlier program when the new one says the same. */
function kept(next: WorkloadProgram, before: WorkloadProgram | undefined): WorkloadProgram {
  if (before === undefined || before.policies.length !== next.policies.length) return next;
  if (next.policies.some((policy, i) => policy !== before.policies[i])) return next;
  const { policies: _, ...facts } = next;
  const { policies: __, ...factsBefore } = before;
  const text = (value: object): string =>
    JSON.stringify(value, (_key, part: unknown) => (part instanceof Map ? [...part] : part));
  return text(facts) === text(factsBefore) ? before : next;
}

function programOfWorkload(
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

function programOfExternal(
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

function callersOfTarget(program: WorkloadProgram | undefined, entries: readonly Entry[]): Callers {
  const out = new Set<string>();
  let allowPolicies = 0;
  for (const { source, callers } of entries) {
    if (callers === undefined) continue;
    if (source.source !== "grant") allowPolicies += 1;
    if (callers === "all") return "all";
    for (const caller of callers) out.add(caller);
  }
  return allowPolicies === 0 && program?.defaultAction === "Allow" ? "all" : out;
}

function calleesOf(
  state: ClusterState,
  callers: ReadonlyMap<string, Callers>,
  previous: Compiled | undefined,
  affected: ReadonlySet<string> | undefined,
): ReadonlyMap<string, ReadonlySet<string>> {
  if (previous === undefined || affected === undefined) {
    const out = new Map<string, Set<string>>();
    for (const key of state.workloads.keys()) out.set(key, new Set());
    for (const [target, list] of callers)
      for (const caller of list === "all" ? out.keys() : list) out.get(caller)?.add(target);
    return out;
  }
  const out = new Map(previous.callees);
  const copied = new Set<string>();
  const editable = (caller: string): Set<string> => {
    const set = copied.has(caller) ? (out.get(caller) as Set<string>) : new Set(out.get(caller)); // a copy made below
    copied.add(caller);
    out.set(caller, set);
    return set;
  };
  for (const target of affected) {
    const now = callers.get(target);
    const before = previous.basis.callers.get(target);
    if (now === undefined || now === before) continue;
    const contains = (set: Callers | undefined, caller: string): boolean =>
      set === "all" || set?.has(caller) === true;
    const touched =
      now === "all" || before === "all" ? state.workloads.keys() : new Set([...now, ...(before ?? [])]);
    for (const caller of touched) {
      const may = contains(now, caller);
      if (may === contains(before, caller)) continue;
      if (may) editable(caller).add(target);
      else editable(caller).delete(target);
    }
  }
  return copied.size === 0 ? previous.callees : out;
}

/** Whether nothing is ever allowed where this entry is in force. */
function closes(entry: Entry | undefined): boolean {
  if (entry === undefined) return false;
  const { policy } = entry.source;
  if (entry.rules === DENY_ALL) return policy.targets?.some((target) => target.ports !== undefined) !== true;
  return isUnconditionalDeny(policy);
}

/** Workloads on which nothing is ever allowed. */
function closedTargets(entries: ReadonlyMap<string, Entry>): ReadonlySet<string> {
  const out = new Set<string>();
  for (const entry of entries.values())
    if (closes(entry)) for (const target of entry.targets.keys()) out.add(target);
  return out;
}

function reportsOf(
  state: ClusterState,
  basis: Basis,
  previous: Compiled | undefined,
  changed: ReadonlySet<string> | undefined,
): ReadonlyMap<string, PolicyReport> {
  const { closed } = basis;
  const before = previous?.basis.closed;
  const incremental =
    changed !== undefined &&
    previous !== undefined &&
    before !== undefined &&
    (closed === before || sameSet(closed, before));
  const reports = new Map<string, PolicyReport>();
  const gone = new Map<string, undefined>();
  for (const key of incremental ? changed : state.policies.keys()) {
    const entry = basis.entries.get(key);
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
