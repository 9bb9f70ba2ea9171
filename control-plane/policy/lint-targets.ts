// A policy held against the workloads that it selects: none, ports that none of them has, operations that no pack of
// their ports defines. PURE.
import type { ClusterState } from "../sources/store.ts";
import type { AccessPolicy, TargetMatch } from "./access-policy.ts";
import type { PolicyProblem } from "./conditions.ts";
import { misfitOf, type Template } from "./lint-operations.ts";
import type { KnownNames } from "./lint-references.ts";
import { lintWarning } from "./lint-rules.ts";
import { NameFinder } from "./name-finder.ts";
import { selectsWorkload, selectTargets, type WorkloadIndex } from "./select.ts";

export interface TargetLintContext {
  readonly state: ClusterState;
  readonly index: WorkloadIndex;
  readonly known: KnownNames;
  readonly templates: ReadonlyMap<string, readonly Template[]>;
  readonly everyTemplate: readonly Template[];
  /** Workloads on which nothing is ever allowed. */
  readonly closed: ReadonlySet<string>;
}

type Selecting = Pick<AccessPolicy, "targets" | "namespace">;

/** A policy or grant that selects no workload. The same words as in the report of `compile`. */
export function lintSelection(
  { targets, namespace }: Selecting,
  context: TargetLintContext,
): PolicyProblem[] {
  const { state, index } = context;
  if (targets?.some((target) => target.external !== undefined) === true) return [];
  if (selectTargets(index, targets, namespace, state.namespaces).size > 0) return [];
  const path = targets === undefined ? "spec" : "spec.targets";
  const message = "no workload matches, the policy is in force nowhere";
  return [lintWarning("TargetNotFound", path, message, "ResolvedRefs")];
}

export function lintTargets(policy: AccessPolicy, context: TargetLintContext): PolicyProblem[] {
  const { state, index } = context;
  const none = lintSelection(policy, context);
  const misspelled = lintTargetNames(policy, context);
  if (none.length > 0) return [...none, ...misspelled];
  const selected = selectTargets(index, policy.targets, policy.namespace, state.namespaces);
  const problems = [
    ...misspelled,
    ...(policy.targets ?? []).flatMap((target, i) => lintPorts(policy, target, i, context)),
  ];
  if (
    policy.action === "Allow" &&
    selected.size > 0 &&
    [...selected.keys()].every((key) => context.closed.has(key))
  )
    problems.push(
      lintWarning(
        "NeverMatches",
        policy.targets === undefined ? "spec" : "spec.targets",
        "an unconditional Deny covers every target, so nothing is allowed",
      ),
    );
  // A guard rail over a whole scope may well speak of operations that nobody offers yet.
  if (policy.targets === undefined && policy.action !== "Allow") return problems;
  return [...problems, ...lintPacks(policy, selected, context)];
}

/** Names of targets that nobody in scope has, where one is close: what has another name may come, a typing error stays. */
function lintTargetNames(
  { targets, namespace }: Selecting,
  { known, index }: TargetLintContext,
): PolicyProblem[] {
  const finder = new NameFinder();
  const own = namespace === undefined ? undefined : index.candidates([namespace], undefined);
  const names = own === undefined ? known.workloads : new Set(own.map(([, one]) => one.name));
  const problems: PolicyProblem[] = [];
  const look = (
    list: readonly string[] | undefined,
    path: string,
    of: ReadonlySet<string>,
    what: string,
  ): void => {
    for (const [i, name] of (list ?? []).entries()) {
      const hint = name.endsWith("*") || of.has(name) ? "" : finder.hint(name, of);
      if (hint !== "")
        problems.push(
          lintWarning("TargetNotFound", `${path}[${i}]`, `${what} \`${name}\`${hint}`, "ResolvedRefs"),
        );
    }
  };
  for (const [i, target] of (targets ?? []).entries()) {
    look(target.names, `spec.targets[${i}].names`, names, "no workload that it could select is named");
    look(target.namespaces, `spec.targets[${i}].namespaces`, known.namespaces, "no namespace is named");
  }
  return problems;
}

function lintPorts(
  { namespace }: AccessPolicy,
  target: TargetMatch,
  i: number,
  { state, index }: TargetLintContext,
): PolicyProblem[] {
  if (target.ports === undefined) return [];
  const within = namespace === undefined ? target.namespaces : [namespace];
  const known = new Set<number>();
  for (const [, workload] of index.candidates(within, target.names))
    if (selectsWorkload(target, workload, namespace, state.namespaces))
      for (const { port } of workload.ports) known.add(port);
  // Nothing selected, or nothing declared: that is another matter.
  if (known.size === 0) return [];
  const has = [...known]
    .sort((a, b) => a - b)
    .slice(0, 6)
    .join("`, `");
  return target.ports.flatMap((port, j) =>
    known.has(port)
      ? []
      : [
          lintWarning(
            "PortNotFound",
            `spec.targets[${i}].ports[${j}]`,
            `no workload that it selects has a port ${port}; they have \`${has}\``,
            "ResolvedRefs",
          ),
        ],
  );
}

/** Packs of the ports and of the hosts outside the mesh that a policy covers. */
function packsOf(
  { targets, namespace }: AccessPolicy,
  selected: ReadonlyMap<string, readonly number[] | undefined>,
  { workloads, externalServices }: Pick<ClusterState, "workloads" | "externalServices">,
): ReadonlySet<string> {
  const packs = new Set<string>();
  for (const { external } of targets ?? [])
    for (const pack of externalServices.get(`${namespace ?? ""}/${external ?? ""}`)?.packs ?? [])
      packs.add(pack);
  for (const [key, ports] of selected)
    for (const { port, packs: named } of workloads.get(key)?.ports ?? [])
      if (ports === undefined || ports.includes(port)) for (const pack of named) packs.add(pack);
  return packs;
}

function lintPacks(
  policy: AccessPolicy,
  selected: ReadonlyMap<string, readonly number[] | undefined>,
  { state, templates, everyTemplate }: TargetLintContext,
): PolicyProblem[] {
  const packs = packsOf(policy, selected, state);
  const here = [...packs].flatMap((name) => templates.get(name) ?? []);
  const list =
    packs.size === 0
      ? "its targets declare none"
      : `its targets have \`${[...packs].sort().slice(0, 6).join("`, `")}\``;
  const words = { none: "no pack of its targets", all: "the packs of its targets" };
  const all = { none: "no pack", all: "any pack" };
  return policy.rules.flatMap((rule, i) =>
    (rule.operations ?? []).flatMap((clause, j): PolicyProblem[] => {
      const path = `spec.rules[${i}].operations[${j}]`;
      if (clause.mcp !== undefined && !here.some(({ row }) => row.method === "MCP"))
        return [lintWarning("NotServed", `${path}.mcp`, `no target has a port with pack \`mcp\`; ${list}`)];
      const found = misfitOf(clause, here, words);
      // What fits no pack at all was said by `lintRules`.
      if (found === undefined || misfitOf(clause, everyTemplate, all) !== undefined) return [];
      return [
        lintWarning("NotServed", `${path}.${found.field}`, `${found.message}: nothing matches; ${list}`),
      ];
    }),
  );
}
