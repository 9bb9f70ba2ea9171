// All that is probably not meant, though it is valid: one linter for `countersign lint`, for `check`, and for the warnings
// that kubectl shows. PURE.
import { createCelCompiler } from "../../sidecar/core/policy/cel.ts";
import type { OperationClause } from "../../sidecar/core/policy/rule.ts";
import type {
  AccessGrant,
  ClusterState,
  MeshConfig,
  MeshGateway,
  MeshRole,
  MeshRoleBinding,
  OperationCatalog,
} from "../sources/store.ts";
import type { AccessPolicy } from "./access-policy.ts";
import { knownOperations, knownRoles } from "./compile.ts";
import {
  type ConditionContext,
  checkOperations,
  checkPolicy,
  expiredRules,
  isUnconditionalDeny,
  operationNames,
  type PolicyProblem,
} from "./conditions.ts";
import { gatewayProblems } from "./gateway-plan.ts";
import { misfitOf, type Template, templatesOf } from "./lint-operations.ts";
import { isKnownSubject, type KnownNames, knownNames, lintCallers, unknownNames } from "./lint-references.ts";
import { lintRoutePolicy, lintTrafficPolicy } from "./lint-routes.ts";
import { isTooLarge, lintRules, lintWarning } from "./lint-rules.ts";
import { lintSelection, lintTargets } from "./lint-targets.ts";
import { NameFinder } from "./name-finder.ts";
import { selectTargets, WorkloadIndex } from "./select.ts";
import type { TypedObject } from "./typed-object.ts";

export interface Linter {
  /**
   * Warnings on one object against a state, which need not hold it; what is wrong is not among them.
   *
   * @param nowMs Unix milliseconds.
   */
  lint(object: TypedObject, state: ClusterState, nowMs: number): readonly PolicyProblem[];
  /**
   * What a state loses with a catalog's old version.
   *
   * @param next undefined: the catalog goes.
   * @returns operations that policies name and that nobody would define any more, each with the policies by key.
   */
  lost(
    name: string,
    next: OperationCatalog | undefined,
    state: ClusterState,
  ): ReadonlyMap<string, readonly string[]>;
}

/** Warnings by `Kind/namespace/name` or `Kind/name`, for all objects of a state. */
export type StateLint = ReadonlyMap<string, readonly PolicyProblem[]>;

/** What is kept while a state does not change in the maps that it follows from. */
interface Facts {
  readonly state: ClusterState;
  readonly condition: ConditionContext;
  readonly templates: ReadonlyMap<string, readonly Template[]>;
  /** Of all packs. */
  readonly everyTemplate: readonly Template[];
  readonly known: KnownNames;
  readonly index: WorkloadIndex;
  readonly closed: ReadonlySet<string>;
  /** Roles that exist or that a policy asks for. */
  readonly bindable: ReadonlySet<string>;
}

/** @param packs text of the built-in operation packs by name. */
export function createLinter(packs: ReadonlyMap<string, string>): Linter {
  const cel = createCelCompiler();
  let facts: Facts | undefined;
  return {
    lint(object, state, nowMs) {
      if (facts?.state !== state) facts = factsOf(state, packs, cel, facts);
      return lintObject(object, facts, nowMs);
    },
    lost(name, next, state) {
      const before = operationNames(knownOperations(state, packs));
      const catalogs = new Map(state.catalogs);
      if (next === undefined) catalogs.delete(name);
      else catalogs.set(name, next);
      const after = operationNames(knownOperations({ catalogs }, packs));
      const lost = new Map<string, string[]>();
      for (const [key, { rules }] of state.policies)
        for (const { op } of rules.flatMap(({ operations }) => operations ?? [])) {
          if (op === undefined || after.has(op) || !before.has(op)) continue;
          lost.set(op, [...new Set([...(lost.get(op) ?? []), key])]);
        }
      return lost;
    },
  };
}

function factsOf(
  state: ClusterState,
  packs: ReadonlyMap<string, string>,
  cel: ConditionContext["cel"],
  before: Facts | undefined,
): Facts {
  const same = (...names: (keyof ClusterState)[]): Facts | undefined =>
    before !== undefined && names.every((name) => before.state[name] === state[name]) ? before : undefined;
  const catalogs = same("catalogs");
  const index = same("workloads")?.index ?? new WorkloadIndex(state.workloads);
  const custom = [...state.catalogs.values()].flatMap((catalog) => catalog.packs);
  const templates =
    catalogs?.templates ?? templatesOf([...packs, ...custom.map(({ name, text }) => [name, text] as const)]);
  return {
    state,
    condition: {
      operations: catalogs?.condition.operations ?? operationNames(knownOperations(state, packs)),
      roles: same("roles", "bindings", "grants")?.condition.roles ?? knownRoles(state),
      cel,
      supportAll: false,
    },
    templates,
    everyTemplate: catalogs?.everyTemplate ?? [...templates.values()].flat(),
    known: same("workloads", "namespaces")?.known ?? knownNames(state),
    index,
    closed: same("workloads", "namespaces", "policies")?.closed ?? closedWorkloads(state, index),
    bindable: same("roles", "policies")?.bindable ?? bindableRoles(state),
  };
}

function closedWorkloads(state: ClusterState, index: WorkloadIndex): ReadonlySet<string> {
  const closed = new Set<string>();
  for (const policy of state.policies.values()) {
    if (!isUnconditionalDeny(policy)) continue;
    for (const key of selectTargets(index, policy.targets, policy.namespace, state.namespaces).keys())
      closed.add(key);
  }
  return closed;
}

function bindableRoles(state: ClusterState): ReadonlySet<string> {
  const roles = new Set(state.roles.keys());
  for (const { rules } of state.policies.values())
    for (const { from = [], unless = [] } of rules)
      for (const { user } of [...from, ...unless]) for (const role of user?.roles ?? []) roles.add(role);
  return roles;
}

function lintObject(object: TypedObject, facts: Facts, nowMs: number): readonly PolicyProblem[] {
  switch (object.kind) {
    case "AccessPolicy":
    case "ClusterAccessPolicy":
      return lintPolicy(object.value, facts, nowMs);
    case "AccessGrant":
      return lintGrant(object.value, facts, nowMs);
    case "MeshRole":
      return lintRole(object.value, facts);
    case "MeshRoleBinding":
      return lintBinding(object.value, facts);
    case "RoutePolicy":
      return lintRoutePolicy(object.value, facts);
    case "TrafficPolicy":
      return lintTrafficPolicy(object.value, facts);
    case "MeshGateway":
      return lintGateway(object.value, facts.state);
    case "MeshConfig":
      return lintConfig(object.value, facts);
    default:
      return [];
  }
}

const warningsOf = (problems: readonly PolicyProblem[]): PolicyProblem[] =>
  problems.filter(({ severity }) => severity === "warning");

function lintPolicy(policy: AccessPolicy, facts: Facts, nowMs: number): PolicyProblem[] {
  const { trustDomain } = facts.state.config;
  const rules = lintRules(policy, { trustDomain, templates: facts.everyTemplate });
  const own = [...warningsOf(checkPolicy(policy, facts.condition)), ...expiredRules(policy, nowMs), ...rules];
  if (isTooLarge(policy)) return [...own, ...lintSelection(policy, facts)];
  const { known, index } = facts;
  return [...own, ...lintTargets(policy, facts), ...lintCallers(policy, { known, index, trustDomain })];
}

function lintClauses(clauses: readonly OperationClause[], path: string, facts: Facts): PolicyProblem[] {
  const words = { none: "no operation pack", all: "any operation pack" };
  const misfits = clauses.flatMap((clause, i) => {
    const found = misfitOf(clause, facts.everyTemplate, words);
    const said = found?.field === "op" || (found?.field === "resources" && clause.access === undefined);
    return found === undefined || said
      ? []
      : [lintWarning("NeverMatches", `${path}[${i}].${found.field}`, `${found.message}: nothing matches`)];
  });
  return [...warningsOf(checkOperations(clauses, path, facts.condition)), ...misfits];
}

function lintRole(role: MeshRole, facts: Facts): PolicyProblem[] {
  return role.rules.flatMap(({ operations }, i) =>
    lintClauses(operations, `spec.rules[${i}].operations`, facts),
  );
}

function lintGrant(grant: AccessGrant, facts: Facts, nowMs: number): PolicyProblem[] {
  const problems = [
    ...lintClauses(grant.operations ?? [], "spec.operations", facts),
    ...unknownNames(grant.roles, facts.bindable, {
      path: "spec.roles",
      what: "no MeshRole is named and no policy asks for",
      reason: "UnknownRole",
    }),
    ...lintSelection({ targets: grant.targets, namespace: grant.namespace }, facts),
  ];
  const { workload } = grant.subject;
  if (workload !== undefined && !isKnownSubject(workload, facts.state.workloads.values()))
    problems.push(
      lintWarning(
        "CallerNotFound",
        "spec.subject.workload",
        `no workload that is known now is \`${workload}\`; write \`namespace/name\` or \`namespace/kind/name\``,
        "ResolvedRefs",
      ),
    );
  if (grant.activeUntilMs !== undefined && grant.activeUntilMs <= nowMs)
    problems.push(
      lintWarning("NeverMatches", "status.activeUntil", "has passed: the grant allows nothing any more"),
    );
  return problems;
}

/** A principal's name without provider means nobody once several providers can give it out. */
function lintSubjects(binding: MeshRoleBinding, { state }: Facts): PolicyProblem[] {
  const providers = state.identityProviders;
  const finder = new NameFinder();
  return binding.subjects.flatMap(({ idp, user, servicePrincipal }, i) => {
    const path = `spec.subjects[${i}]`;
    const named = idp ?? (user ?? servicePrincipal)?.match(/^([^|]+)\|/)?.[1];
    if (named !== undefined)
      return providers.has(named)
        ? []
        : [
            lintWarning(
              "IdentityProviderNotFound",
              idp === undefined ? path : `${path}.idp`,
              `there is no IdentityProvider \`${named}\`, so nobody is meant${finder.hint(named, providers.keys())}`,
              "ResolvedRefs",
            ),
          ];
    if (user !== undefined)
      return [lintWarning("NeverMatches", `${path}.user`, "users are `provider|user`: nobody is meant")];
    return servicePrincipal === undefined || providers.size === 1
      ? []
      : [
          lintWarning(
            "NeverMatches",
            `${path}.servicePrincipal`,
            `there are ${providers.size} identity providers, so nobody is meant; say which with \`idp\``,
          ),
        ];
  });
}

/** Roles that nobody holds: said of a whole state alone, because a role comes before what gives it. */
function* idleRoles({ roles, bindings, grants }: ClusterState): Generator<readonly [string, PolicyProblem]> {
  const given = new Set([...bindings.values()].flatMap((binding) => binding.roles));
  for (const grant of grants.values()) for (const role of grant.roles ?? []) given.add(role);
  const message = "no MeshRoleBinding and no AccessGrant gives this role: nobody holds it";
  for (const [key, { name }] of roles)
    if (!given.has(name)) yield [`MeshRole/${key}`, lintWarning("NoHolders", "metadata.name", message)];
}

function lintBinding(binding: MeshRoleBinding, facts: Facts): PolicyProblem[] {
  const { known, bindable } = facts;
  const accounts = binding.subjects.map(({ serviceAccount }) => serviceAccount ?? "*");
  const unknown = unknownNames(accounts, known.accounts, {
    path: "spec.subjects",
    what: "no workload that is known now runs as",
    reason: "CallerNotFound",
  });
  return [
    ...unknownNames(binding.roles, bindable, {
      path: "spec.roles",
      what: "no MeshRole is named and no policy asks for",
      reason: "UnknownRole",
    }),
    ...unknown.map((problem) => ({ ...problem, path: `${problem.path}.serviceAccount` })),
    ...lintSubjects(binding, facts),
    ...unknownNames(binding.namespaces, known.namespaces, {
      path: "spec.namespaces",
      what: "no namespace is named",
      reason: "NamespaceNotFound",
    }),
  ];
}

function lintGateway(gateway: MeshGateway, state: ClusterState): PolicyProblem[] {
  return gatewayProblems(gateway, state).map((problem) => ({ ...problem, severity: "warning" }));
}

function lintConfig(config: MeshConfig, { known }: Facts): PolicyProblem[] {
  const finding = { what: "no namespace is named", reason: "NamespaceNotFound" };
  const overrides = config.namespaces.flatMap(({ names }, i) =>
    unknownNames(names, known.namespaces, { ...finding, path: `spec.namespaces[${i}].names` }),
  );
  // Their pods need not be in the mesh, so of these accounts only the namespace can be told.
  const accounts = (["trustedSpawners", "gateways"] as const).flatMap((field) =>
    unknownNames(
      config[field].map((account) => account.slice(0, account.indexOf("/"))),
      known.namespaces,
      { ...finding, path: `spec.${field}` },
    ),
  );
  return [...overrides, ...accounts];
}

/** Everything of a state at once. Objects without a warning are not in the answer. */
export function lintState(state: ClusterState, linter: Linter, nowMs: number): StateLint {
  const out = new Map<string, readonly PolicyProblem[]>();
  const take = (key: string, object: TypedObject): void => {
    const problems = linter.lint(object, state, nowMs);
    if (problems.length > 0) out.set(key, problems);
  };
  for (const [key, value] of state.policies) take(key, { kind: value.kind, value });
  for (const [key, value] of state.grants) take(`AccessGrant/${key}`, { kind: "AccessGrant", value });
  for (const [key, value] of state.roles) take(`MeshRole/${key}`, { kind: "MeshRole", value });
  for (const [key, value] of state.bindings)
    take(`MeshRoleBinding/${key}`, { kind: "MeshRoleBinding", value });
  for (const [key, value] of state.routePolicies) take(`RoutePolicy/${key}`, { kind: "RoutePolicy", value });
  for (const [key, value] of state.trafficPolicies)
    take(`TrafficPolicy/${key}`, { kind: "TrafficPolicy", value });
  for (const [key, value] of state.meshGateways) take(`MeshGateway/${key}`, { kind: "MeshGateway", value });
  for (const [key, problem] of idleRoles(state)) out.set(key, [...(out.get(key) ?? []), problem]);
  take("MeshConfig/default", { kind: "MeshConfig", value: state.config });
  return out;
}
