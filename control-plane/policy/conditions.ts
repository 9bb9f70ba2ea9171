// Problems of a policy beyond its schema: what makes it `Accepted=False`, and what its author should know; PURE.
import { selectsCallerLabels } from "../../sidecar/core/policy/cel.ts";
import type { CelCompiler } from "../../sidecar/core/policy/condition.ts";
import type {
  FromClause,
  Obligations,
  OperationClause,
  PolicyRule,
  WorkloadMatch,
} from "../../sidecar/core/policy/rule.ts";
import { parseTimeOfDay } from "../../sidecar/core/policy/schedule.ts";
import { ancestorsOf } from "../../sidecar/core/policy/symbols.ts";
import type { AccessPolicy } from "./access-policy.ts";
import { NameFinder } from "./name-finder.ts";

export interface PolicyProblem {
  readonly severity: "error" | "warning";
  readonly type: "Accepted" | "ResolvedRefs";
  readonly reason: string;
  /** Such as `spec.rules[0].operations[1].op`. */
  readonly path: string;
  readonly message: string;
}

/** What operation packs define: every operation name, and those that name a resource in some template. */
export interface KnownOperations {
  readonly names: ReadonlySet<string>;
  readonly withResource: ReadonlySet<string>;
}

export interface ConditionContext {
  /** Names of known operations and all their ancestors; the value tells whether some operation below has a resource. */
  readonly operations: ReadonlyMap<string, boolean>;
  readonly roles: ReadonlySet<string>;
  readonly cel: CelCompiler;
  /** Takes what the data path does not enforce yet for enforced: for decision tables. */
  readonly supportAll: boolean;
}

/** For one object: whoever writes it chooses how many of its names nobody knows. */
interface CheckContext extends ConditionContext {
  readonly finder: NameFinder;
}

/** Every name that an `op` may state. */
export function operationNames(known: KnownOperations): ReadonlyMap<string, boolean> {
  const out = new Map<string, boolean>();
  for (const name of known.names) {
    const has = known.withResource.has(name);
    for (const ancestor of ancestorsOf(name)) out.set(ancestor, has || out.get(ancestor) === true);
  }
  return out;
}

type Report = (problem: PolicyProblem) => void;
const error = (reason: string, path: string, message: string): PolicyProblem => ({
  severity: "error",
  type: "Accepted",
  reason,
  path,
  message,
});
const warning = (
  reason: string,
  path: string,
  message: string,
  type: PolicyProblem["type"] = "Accepted",
): PolicyProblem => ({
  severity: "warning",
  type,
  reason,
  path,
  message,
});
const never = (path: string, message: string): PolicyProblem => warning("NeverMatches", path, message);

/** Problems of one policy by itself, without regard to which workloads exist. */
export function checkPolicy(policy: AccessPolicy, given: ConditionContext): PolicyProblem[] {
  const context: CheckContext = { ...given, finder: new NameFinder() };
  const problems: PolicyProblem[] = [];
  const report: Report = (problem) => problems.push(problem);
  const isExternal = policy.targets?.some(({ external }) => external !== undefined) === true;
  for (const [i, rule] of policy.rules.entries())
    checkRule(policy, rule, `spec.rules[${i}]`, context, report);
  if (isExternal && !context.supportAll)
    for (const [i, { with: demands }] of policy.rules.entries())
      checkExternalDemands(demands ?? {}, `spec.rules[${i}].with`, report);
  return problems;
}

/** The caller's sidecar decides on calls to external services, where nobody counts, rewrites or keeps bodies. */
function checkExternalDemands(demands: Obligations, path: string, report: Report): void {
  const refuse = (field: string): void =>
    report(
      error(
        "Unsupported",
        `${path}.${field}`,
        `this build does not enforce \`${field}\` for external services yet`,
      ),
    );
  for (const [field, demand] of Object.entries(demands))
    if (demand !== undefined && field !== "audit") refuse(field);
  const { audit } = demands;
  if (audit?.mode === "Required") refuse("audit.mode");
  if (audit?.level === "Body" || audit?.level === "Headers") refuse("audit.level");
}

function checkRule(
  policy: AccessPolicy,
  rule: PolicyRule,
  path: string,
  context: CheckContext,
  report: Report,
): void {
  for (const [i, clause] of (rule.from ?? []).entries())
    checkFrom(clause, `${path}.from[${i}]`, context, report);
  for (const [i, clause] of (rule.unless ?? []).entries())
    checkFrom(clause, `${path}.unless[${i}]`, context, report);
  for (const [i, clause] of (rule.operations ?? []).entries())
    checkOperation(clause, `${path}.operations[${i}]`, context, report);
  checkWhen(rule, `${path}.when`, context, report);
  if (policy.action === "Allow" && (rule.from === undefined || rule.operations === undefined)) {
    report(error("Invalid", path, "an Allow rule must state `from` and `operations`"));
  }
}

function checkFrom(clause: FromClause, path: string, context: CheckContext, report: Report): void {
  const { workload, user, via } = clause;
  if (workload !== undefined) lintWorkload(workload, `${path}.workload`, report);
  if (via?.maxHops !== undefined && via.maxHops < 1)
    report(never(`${path}.via.maxHops`, "the caller counts as one hop, so 0 matches nothing"));
  if (user === undefined) return;
  const fields = user.ids ?? user.roles ?? user.idps ?? user.types;
  if (user.presence === "Forbidden" && fields !== undefined) {
    report(never(`${path}.user`, "presence Forbidden together with other user fields matches nobody"));
  }
  for (const [i, role] of (user.roles ?? []).entries()) {
    if (context.roles.has(role)) continue;
    report(
      warning(
        "UnknownRole",
        `${path}.user.roles[${i}]`,
        `no MeshRole or binding names \`${role}\`${context.finder.hint(role, context.roles)}`,
        "ResolvedRefs",
      ),
    );
  }
}

function lintWorkload(match: WorkloadMatch, path: string, report: Report): void {
  const names = match.kinds !== undefined || match.names !== undefined;
  const anchored = match.namespaces ?? match.serviceAccounts ?? match.spiffeIds ?? match.trustDomains;
  if (names && anchored === undefined) {
    report(
      warning(
        "Unscoped",
        path,
        "kind and name are chosen by whoever creates pods: name namespaces or service accounts too",
      ),
    );
  }
  if (match.spiffeIds?.every((id) => contradicts(match, id)) === true) {
    report(never(path, "no listed SPIFFE ID has the listed kinds, names and namespaces"));
  }
}

function contradicts(match: WorkloadMatch, id: string): boolean {
  const parts = /^spiffe:\/\/([^/]+)\/ns\/([^/]+)\/sa\/[^/]+\/([^/]+)\/([^/]+)$/.exec(id);
  if (parts === null) return false;
  const [, trustDomain = "", namespace = "", kind = "", name = ""] = parts;
  const covered = (patterns: readonly string[] | undefined, value: string): boolean =>
    patterns === undefined ||
    patterns.some((p) => (p.endsWith("*") ? value.startsWith(p.slice(0, -1)) : p === value));
  const kinds: readonly string[] | undefined = match.kinds;
  return (
    !covered(match.namespaces, namespace) ||
    !covered(match.names, name) ||
    (kinds !== undefined && !kinds.includes(kind)) ||
    (match.trustDomains !== undefined && !match.trustDomains.includes(trustDomain))
  );
}

function checkOperation(clause: OperationClause, path: string, context: CheckContext, report: Report): void {
  const { op, resources } = clause;
  if (op === undefined) return;
  const hasResource = context.operations.get(op);
  if (hasResource === undefined) {
    const message = `no operation pack defines \`${op}\`${context.finder.hint(op, context.operations.keys())}`;
    report(error("UnknownOperation", `${path}.op`, message));
  } else if (!hasResource && resources !== undefined) {
    report(
      never(`${path}.resources`, `\`${op}\` has no resource, so a rule that asks for one never matches`),
    );
  }
}

/** Problems of operation clauses outside of policies: those of roles and grants. */
export function checkOperations(
  clauses: readonly OperationClause[],
  path: string,
  given: ConditionContext,
): PolicyProblem[] {
  const context: CheckContext = { ...given, finder: new NameFinder() };
  const problems: PolicyProblem[] = [];
  for (const [i, clause] of clauses.entries())
    checkOperation(clause, `${path}[${i}]`, context, (problem) => problems.push(problem));
  return problems;
}

function checkWhen(rule: PolicyRule, path: string, context: CheckContext, report: Report): void {
  const { when } = rule;
  if (when === undefined) return;
  const { notBeforeMs, notAfterMs, schedule, cel } = when;
  if (notBeforeMs !== undefined && notAfterMs !== undefined && notAfterMs <= notBeforeMs) {
    report(never(`${path}.notAfter`, "`notAfter` is not later than `notBefore`"));
  }
  if (schedule !== undefined) {
    const from = schedule.from === undefined ? 0 : parseTimeOfDay(schedule.from);
    const to = schedule.to === undefined ? 1440 : parseTimeOfDay(schedule.to);
    if (from === undefined || to === undefined)
      report(error("Invalid", `${path}.schedule`, "times are `HH:MM`"));
    else if (from === to)
      report(never(`${path}.schedule`, "`from` equals `to`, so the schedule is never open"));
    if (!isZone(schedule.timeZone))
      report(error("Invalid", `${path}.schedule.timeZone`, `\`${schedule.timeZone}\` is no IANA time zone`));
  }
  if (cel !== undefined) {
    const compiled = context.cel.compile(cel);
    if (!compiled.ok) report(error("InvalidCEL", `${path}.cel`, compiled.error));
    else if (!context.supportAll && selectsCallerLabels(cel)) {
      const message = "no credential of this build carries `caller.labels`; use kind, name or namespace";
      report(error("Unsupported", `${path}.cel`, message));
    }
  }
}

function isZone(timeZone: string): boolean {
  try {
    return new Intl.DateTimeFormat("en-US", { timeZone }) !== undefined;
  } catch {
    return false; // RangeError is how Intl says that it does not know a zone
  }
}

/** A rule that ended before `nowMs` (asked where the time is known: `check` and status, not `compile`). */
export function expiredRules(policy: AccessPolicy, nowMs: number): PolicyProblem[] {
  return policy.rules.flatMap((rule, i) => {
    const end = rule.when?.notAfterMs;
    return end === undefined || end > nowMs
      ? []
      : [never(`spec.rules[${i}].when.notAfter`, "`notAfter` has passed, the rule does not match any more")];
  });
}

/** A Deny that nothing escapes: no `from`, `unless`, `operations`, `when` or ports. */
export function isUnconditionalDeny(policy: AccessPolicy): boolean {
  if (policy.action !== "Deny" || policy.enforcement !== "Enforce") return false;
  if (policy.targets?.some((target) => target.ports !== undefined) === true) return false;
  return policy.rules.some(
    (rule) =>
      rule.from === undefined &&
      rule.unless === undefined &&
      rule.operations === undefined &&
      rule.when === undefined,
  );
}
