// Clauses of `from` and `unless` whose fields contradict each other, so that nobody matches them. PURE.
import type { FromClause, HopMatch, When } from "../../sidecar/core/policy/rule.ts";
import { namespacesOf } from "./lint-cover.ts";

type Texts = readonly string[] | undefined;

/** Why nobody can match a clause, with the field that shows it; undefined: somebody may. */
export interface Contradiction {
  /** Below the clause, such as `via.through`. */
  readonly field: string;
  readonly message: string;
}

function patternsMeet(a: Texts, b: Texts): boolean {
  if (a === undefined || b === undefined) return true;
  const stem = (pattern: string): string => (pattern.endsWith("*") ? pattern.slice(0, -1) : pattern);
  const meet = (x: string, y: string): boolean => {
    if (x.endsWith("*") && y.endsWith("*")) return stem(x).startsWith(stem(y)) || stem(y).startsWith(stem(x));
    if (x.endsWith("*")) return y.startsWith(stem(x));
    return y.endsWith("*") ? x.startsWith(stem(y)) : x === y;
  };
  return a.some((x) => b.some((y) => meet(x, y)));
}

function listsMeet(a: Texts, b: Texts): boolean {
  return a === undefined || b === undefined || a.some((text) => b.includes(text));
}

function accountsMeet(a: Texts, b: Texts): boolean {
  if (a === undefined || b === undefined) return true;
  const nameOf = (account: string): string => account.slice(account.indexOf("/") + 1);
  return a.some((x) =>
    b.some((y) => (x.includes("/") && y.includes("/") ? x === y : nameOf(x) === nameOf(y))),
  );
}

const placesMeet = (a: HopMatch, b: HopMatch): boolean =>
  listsMeet(a.kinds, b.kinds) &&
  patternsMeet(a.names, b.names) &&
  patternsMeet(namespacesOf(a), namespacesOf(b)) &&
  accountsMeet(a.serviceAccounts, b.serviceAccounts);

/** Its ServiceAccounts are all in other namespaces than the ones it names. */
function contradictsItself(place: HopMatch): boolean {
  const { namespaces, serviceAccounts } = place;
  return (
    namespaces !== undefined &&
    serviceAccounts !== undefined &&
    !patternsMeet(namespaces, namespacesOf({ serviceAccounts }))
  );
}

const ACCOUNTS = "every listed service account is in another namespace than the listed ones";

/** What the parsers do not refuse and `checkPolicy` does not warn about. */
export function contradictionOf({ workload, via }: FromClause): Contradiction | undefined {
  if (workload !== undefined && contradictsItself(workload))
    return { field: "workload.serviceAccounts", message: ACCOUNTS };
  if (via === undefined) return undefined;
  for (const field of ["origin", "through"] as const)
    if (via[field] !== undefined && contradictsItself(via[field]))
      return { field: `via.${field}.serviceAccounts`, message: ACCOUNTS };
  if (via.maxHops !== 1) return undefined;
  if (via.through !== undefined)
    return {
      field: "via.through",
      message: "`maxHops: 1` leaves only the caller, and nobody to come through",
    };
  if (via.origin !== undefined && workload !== undefined && !placesMeet(via.origin, workload))
    return {
      field: "via.origin",
      message: "`maxHops: 1` makes the caller the origin, and it is none of these",
    };
  return undefined;
}

/** Whether the clause takes calls without a user only, while the rule asks how the user signed in. */
export const lacksUserFor = (clause: FromClause, when: When | undefined): boolean =>
  when?.authn !== undefined && clause.user?.presence === "Forbidden";
