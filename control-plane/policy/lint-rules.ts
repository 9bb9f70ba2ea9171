// Rules that never match, or change nothing where they do, told from one policy and the operation packs alone. PURE.
// `checkPolicy` in conditions.ts finds what a single field shows; this holds fields, clauses and rules against each other.
import type { FromClause, OperationClause, PolicyRule } from "../../sidecar/core/policy/rule.ts";
import type { AccessPolicy } from "./access-policy.ts";
import type { PolicyProblem } from "./conditions.ts";
import { callersCover, isLocal, operationCovers, type Reach } from "./lint-cover.ts";
import { contradictionOf, lacksUserFor } from "./lint-empty.ts";
import { misfitOf, rawMisfitOf, type Template } from "./lint-operations.ts";
import { neverOpens, whenCovers } from "./lint-when.ts";

export interface RuleLintContext {
  /** Of the mesh. */
  readonly trustDomain: string;
  /** Of every pack there is. */
  readonly templates: readonly Template[];
}

/**
 * Rules and lists of one policy are held against each other, so the cost grows with the square of its size, and whoever
 * may write a policy could have us compare all day.
 */
const MAX_VALUES = 1_000;

const ANY_PACK = { none: "no operation pack", all: "any operation pack" };

export const lintWarning = (
  reason: string,
  path: string,
  message: string,
  type: PolicyProblem["type"] = "Accepted",
): PolicyProblem => ({ severity: "warning", type, reason, path, message });

/** How many single values an object holds. */
export function valuesIn(value: unknown): number {
  if (typeof value !== "object" || value === null) return value === undefined ? 0 : 1;
  const parts = value instanceof Map ? [...value.values()] : Object.values(value);
  return parts.reduce((sum: number, part) => sum + valuesIn(part), 0);
}

export const isTooLarge = (policy: AccessPolicy): boolean => valuesIn(policy.rules) > MAX_VALUES;

/** At most one problem per rule on why it never matches, and one per clause of `from`, `unless` and `operations`. */
export function lintRules(policy: AccessPolicy, context: RuleLintContext): PolicyProblem[] {
  if (isTooLarge(policy)) {
    const message = `has more than ${MAX_VALUES} values, so nobody looks for rules that never match`;
    return [lintWarning("TooLarge", "spec.rules", message)];
  }
  const reach: Reach = policy.action === "Allow" ? "named" : "open";
  return policy.rules.flatMap((rule, i) => {
    const path = `spec.rules[${i}]`;
    const clauses = lintClauses(rule, path, context);
    const whole = neverByItself(rule, path) ?? neverBecauseOf(policy, i, reach, context.trustDomain);
    return whole === undefined ? clauses : [...clauses, whole];
  });
}

function lintClauses(rule: PolicyRule, path: string, { templates }: RuleLintContext): PolicyProblem[] {
  const problems: PolicyProblem[] = [];
  for (const list of ["from", "unless"] as const) {
    for (const [i, clause] of (rule[list] ?? []).entries()) {
      const found = contradictionOf(clause);
      if (found !== undefined)
        problems.push(
          lintWarning(
            "NeverMatches",
            `${path}.${list}[${i}].${found.field}`,
            `${found.message}: nobody matches`,
          ),
        );
    }
  }
  for (const [i, clause] of (rule.operations ?? []).entries()) {
    const found = misfitOf(clause, templates, ANY_PACK) ?? rawMisfitOf(clause);
    // An unknown operation is an error already, and one without resource a warning, both of `checkPolicy`.
    if (found === undefined || found.field === "op") continue;
    if (found.field === "resources" && clause.access === undefined) continue;
    problems.push(
      lintWarning(
        "NeverMatches",
        `${path}.operations[${i}].${found.field}`,
        `${found.message}: nothing matches`,
      ),
    );
  }
  return problems;
}

function neverByItself({ from, when }: PolicyRule, path: string): PolicyProblem | undefined {
  if (from?.every((clause) => lacksUserFor(clause, when)))
    return lintWarning(
      "NeverMatches",
      `${path}.when.authn`,
      "asks how the user signed in, and `from` takes calls without a user only",
    );
  if (when !== undefined && neverOpens(when))
    return lintWarning(
      "NeverMatches",
      `${path}.when.schedule`,
      "is never open between `notBefore` and `notAfter`",
    );
  return undefined;
}

function neverBecauseOf(
  policy: AccessPolicy,
  index: number,
  reach: Reach,
  home: string,
): PolicyProblem | undefined {
  const rule = policy.rules[index];
  if (rule === undefined) return undefined;
  const path = `spec.rules[${index}]`;
  const exempt = exemptionOf(rule, home);
  if (exempt !== undefined) return lintWarning(exempt.reason, `${path}.unless`, exempt.message);
  const names = coveringRules(policy, index, reach, home);
  if (names === undefined) return undefined;
  const by = names.map((name) => `\`${name}\``).join(", ");
  const message = {
    Allow: `never decides: ${by} before it ${names.length > 1 ? "match" : "matches"} every call that it matches`,
    Deny: `denies nothing that ${by} before it ${names.length > 1 ? "do" : "does"} not deny`,
    Audit: `records nothing that ${by} before it ${names.length > 1 ? "do" : "does"} not record`,
  };
  return lintWarning("Shadowed", path, message[policy.action]);
}

/** A Deny whose exceptions leave nobody, or only callers of other trust domains, which `unless` has to name. */
function exemptionOf(
  { from, unless }: PolicyRule,
  home: string,
): { readonly reason: string; readonly message: string } | undefined {
  // Without `from` it meets plaintext callers, whom no exception covers.
  if (from === undefined || unless === undefined) return undefined;
  const exempts = (clause: FromClause, reach: Reach): boolean =>
    unless.some((one) => callersCover({ clause: one, reach: "named" }, { clause, reach }, home));
  if (from.every((clause) => exempts(clause, "open")))
    return { reason: "NeverMatches", message: "exempts every caller that `from` names: nobody is denied" };
  // Read as an Allow would, `from` takes callers of this mesh only, as far as it names no others.
  const locals = from.every(
    (clause) =>
      exempts(clause, "named") && isLocal({ clause, reach: "named" }, home) && clause.via === undefined,
  );
  return locals
    ? {
        reason: "OnlyForeign",
        message: "exempts every caller of this mesh that `from` names: only other trust domains are denied",
      }
    : undefined;
}

/** One clause of `from` with one of `operations`; undefined: all. */
type Pair = readonly [from: FromClause | undefined, operation: OperationClause | undefined];

/** Names of earlier rules that together cover the rule at `index`; undefined: something is left to it. */
function coveringRules(
  policy: AccessPolicy,
  index: number,
  reach: Reach,
  home: string,
): readonly string[] | undefined {
  const rule = policy.rules[index];
  if (rule === undefined) return undefined;
  const covers = policy.rules
    .slice(0, index)
    .filter((earlier) => isCandidate(earlier, rule, home))
    .map((earlier) => ({ name: earlier.name, covers: coverOf(earlier, rule, reach, home) }));
  const names = new Set<string>();
  const { from = [undefined], operations = [undefined] } = rule;
  const pairs = from.flatMap((clause) => operations.map((operation): Pair => [clause, operation]));
  for (const pair of pairs) {
    const found = covers.find((one) => one.covers(pair));
    if (found === undefined) return undefined;
    names.add(found.name);
  }
  return [...names];
}

/** An earlier rule stands in for a later one only where it holds whenever, and exempts nobody whom, that does not. */
function isCandidate(earlier: PolicyRule, later: PolicyRule, home: string): boolean {
  if (!whenCovers(earlier.when, later.when)) return false;
  return (earlier.unless ?? []).every((clause) =>
    later.unless?.some((one) =>
      callersCover({ clause: one, reach: "named" }, { clause, reach: "named" }, home),
    ),
  );
}

function coverOf(
  earlier: PolicyRule,
  later: PolicyRule,
  reach: Reach,
  home: string,
): (pair: Pair) => boolean {
  const folded = reach === "open";
  const callers = new Set(
    (later.from ?? []).filter((clause) =>
      earlier.from?.some((one) => callersCover({ clause: one, reach }, { clause, reach }, home)),
    ),
  );
  const operations = new Set(
    (later.operations ?? []).filter((clause) =>
      earlier.operations?.some((one) => operationCovers(one, clause, folded)),
    ),
  );
  const everything = earlier.operations?.some((one) => one.any === true) === true;
  return ([from, operation]) =>
    (earlier.from === undefined || (from !== undefined && callers.has(from))) &&
    (earlier.operations === undefined || (operation === undefined ? everything : operations.has(operation)));
}
