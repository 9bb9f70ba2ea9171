// What objects name and nobody knows: callers, namespaces, service accounts, roles, ports. Warnings only, because what is
// not there now may come; with the closest name, because mostly it is a typing error. PURE.
import type { FromClause, HopMatch } from "../../sidecar/core/policy/rule.ts";
import type { ClusterState, Workload } from "../sources/store.ts";
import type { AccessPolicy } from "./access-policy.ts";
import type { PolicyProblem } from "./conditions.ts";
import { lintWarning } from "./lint-rules.ts";
import { NameFinder } from "./name-finder.ts";
import { couldCall, type WorkloadIndex } from "./select.ts";

/** Names that are known, by what they are names of. */
export interface KnownNames {
  readonly namespaces: ReadonlySet<string>;
  readonly workloads: ReadonlySet<string>;
  /** `name` and `namespace/name`. */
  readonly accounts: ReadonlySet<string>;
}

export function knownNames({
  namespaces,
  workloads,
}: Pick<ClusterState, "namespaces" | "workloads">): KnownNames {
  const known = {
    namespaces: new Set(namespaces.keys()),
    workloads: new Set<string>(),
    accounts: new Set<string>(),
  };
  for (const { namespace, name, serviceAccount } of workloads.values()) {
    known.namespaces.add(namespace);
    known.workloads.add(name);
    known.accounts.add(serviceAccount).add(`${namespace}/${serviceAccount}`);
  }
  return known;
}

const FIELDS = [
  { field: "namespaces", known: "namespaces", what: "no namespace is named" },
  { field: "serviceAccounts", known: "accounts", what: "no workload that is known now runs as" },
  { field: "names", known: "workloads", what: "no workload that is known now is named" },
] as const;

export interface ReferenceContext {
  readonly known: KnownNames;
  readonly index: WorkloadIndex;
  readonly trustDomain: string;
}

/** What `from` and `unless` of a policy name. */
export function lintCallers(policy: AccessPolicy, context: ReferenceContext): PolicyProblem[] {
  const finder = new NameFinder();
  const problems: PolicyProblem[] = [];
  for (const [i, rule] of policy.rules.entries())
    for (const list of ["from", "unless"] as const)
      for (const [j, clause] of (rule[list] ?? []).entries())
        problems.push(...lintClause(clause, `spec.rules[${i}].${list}[${j}]`, context, finder));
  return problems;
}

function lintClause(
  { workload, via }: FromClause,
  path: string,
  context: ReferenceContext,
  finder: NameFinder,
): PolicyProblem[] {
  const problems: PolicyProblem[] = [];
  // Other trust domains have names of their own.
  const foreign =
    workload?.spiffeIds !== undefined || workload?.trustDomains?.includes(context.trustDomain) === false;
  if (workload !== undefined && !foreign) {
    // Looks at every workload where only service accounts are named, so it is asked at most once and mostly never.
    let nobody: boolean | undefined;
    const matchesNobody = (): boolean => {
      nobody ??= !context.index
        .candidates(workload.namespaces, workload.names)
        .some(([, one]) => couldCall(workload, one, context.trustDomain));
      return nobody;
    };
    problems.push(...lintPlace(workload, `${path}.workload`, context.known, finder, matchesNobody));
  }
  for (const field of ["origin", "through"] as const) {
    const place = via?.[field];
    if (place !== undefined)
      problems.push(...lintPlace(place, `${path}.via.${field}`, context.known, finder, () => false));
  }
  return problems;
}

/** @param matchesNobody whether no workload matches at all: then what is unknown is said also without a close name. */
function lintPlace(
  place: HopMatch,
  path: string,
  known: KnownNames,
  finder: NameFinder,
  matchesNobody: () => boolean,
): PolicyProblem[] {
  const problems: PolicyProblem[] = [];
  for (const { field, known: kind, what } of FIELDS) {
    for (const [i, name] of (place[field] ?? []).entries()) {
      if (name.endsWith("*") || known[kind].has(name)) continue;
      const hint = finder.hint(name, known[kind]);
      if (hint !== "" || matchesNobody())
        problems.push(
          lintWarning(
            "CallerNotFound",
            `${path}.${field}[${i}]`,
            `${what} \`${name}\`${hint}`,
            "ResolvedRefs",
          ),
        );
    }
  }
  return problems;
}

/** Names of a list that are not known, each with the closest one. */
export function unknownNames(
  names: readonly string[] | undefined,
  known: ReadonlySet<string>,
  { path, what, reason }: { readonly path: string; readonly what: string; readonly reason: string },
): PolicyProblem[] {
  const finder = new NameFinder();
  return (names ?? []).flatMap((name, i) =>
    name.endsWith("*") || known.has(name)
      ? []
      : [
          lintWarning(
            reason,
            `${path}[${i}]`,
            `${what} \`${name}\`${finder.hint(name, known)}`,
            "ResolvedRefs",
          ),
        ],
  );
}

/** `namespace/name` or `namespace/kind/name` of a grant's subject; a SPIFFE ID may be of another domain. */
export function isKnownSubject(subject: string, workloads: Iterable<Workload>): boolean {
  if (subject.startsWith("spiffe://")) return true;
  const [namespace, ...rest] = subject.split("/");
  const name = rest.at(-1);
  const kind = rest.length === 2 ? rest[0] : undefined;
  for (const one of workloads)
    if (one.namespace === namespace && one.name === name && (kind === undefined || one.kind === kind))
      return true;
  return false;
}
