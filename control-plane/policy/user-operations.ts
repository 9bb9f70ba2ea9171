// Which operations of one workload policies let a person do at all: what a token that names that workload may say. What depends
// on a call (resource, time of day, sign-in, chain) stays for the call to decide. PURE.
import type { AccessClass, Caller, User } from "../../sidecar/core/policy/call.ts";
import type { Pack } from "../../sidecar/core/policy/catalog.ts";
import { compileRule, matchesFrom, matchesUser } from "../../sidecar/core/policy/match.ts";
import type {
  FromClause,
  OperationClause,
  PolicyRule,
  ProgramPolicy,
  WorkloadProgram,
} from "../../sidecar/core/policy/rule.ts";
import { coversOperation } from "../../sidecar/core/policy/scope.ts";

/** Operations of a workload's packs by whether a person may do them; sorted. */
export interface UserOperations {
  /** Also requests that no pack names: some rule allows any operation, and none is denied altogether. */
  readonly every: boolean;
  readonly allowed: readonly string[];
  readonly others: readonly string[];
}

export interface UserOperationsInput {
  readonly user: User;
  /** Who calls with the token: rules that name callers and no users count when they name this one. */
  readonly caller: Caller;
  readonly program: WorkloadProgram;
  readonly pack: (name: string) => Pack | undefined;
  readonly nowMs: number;
}

/**
 * A rule counts when one of its clauses means the user, or names no user and means the caller. A Deny takes an operation away
 * where it holds for every call of the user; one with exceptions or conditions is left to the calls.
 */
export function operationsOf(input: UserOperationsInput): UserOperations {
  const { program, nowMs } = input;
  const inForce = program.policies.filter(({ enforcement }) => enforcement === "Enforce");
  const asked = { ...input, user: withGranted(input.user, inForce, nowMs) };
  const granting = inForce.filter(({ action, roles }) => action === "Allow" && roles === undefined);
  const allows = granting.flatMap(({ rules }) =>
    rules
      .filter((rule) => isTimely(rule, nowMs) && (rule.from ?? [{}]).some((clause) => means(clause, asked)))
      .flatMap(({ operations }) => operations ?? [{ any: true as const }]),
  );
  const denies = inForce
    .filter(({ action }) => action === "Deny")
    .flatMap((policy) => policy.rules.filter((rule) => holdsAlways(policy, rule, asked)))
    .flatMap(({ operations }) => operations ?? [{ any: true as const }]);
  // A namespace without a policy of its own may be open by default.
  if (program.defaultAction === "Allow" && granting.every(({ source }) => source === "grant"))
    allows.push({ any: true });
  const allowed: string[] = [];
  const others: string[] = [];
  for (const [name, classes] of operationsIn(input)) {
    const isAllowed =
      allows.some((clause) => mayCover(clause, name, classes)) &&
      !denies.some((clause) => coversAll(clause, name, classes));
    (isAllowed ? allowed : others).push(name);
  }
  return {
    every: allows.some(({ any }) => any === true) && denies.length === 0,
    allowed: allowed.sort(),
    others: others.sort(),
  };
}

/** Every operation that the packs of the workload's ports name, with its access classes. */
function operationsIn({ program, pack }: UserOperationsInput): ReadonlyMap<string, ReadonlySet<AccessClass>> {
  const found = new Map<string, Set<AccessClass>>();
  for (const name of new Set(program.ports.flatMap(({ packs }) => packs)))
    for (const { operation, access } of pack(name)?.rows ?? []) {
      const classes = found.get(operation);
      if (classes === undefined) found.set(operation, new Set([access]));
      else classes.add(access);
    }
  return found;
}

/** The user with the roles that grants of roles give on this workload now. */
function withGranted(user: User, policies: readonly ProgramPolicy[], nowMs: number): User {
  const granted = policies.flatMap(({ roles, rules }) =>
    roles !== undefined &&
    rules.some(
      (rule) =>
        isTimely(rule, nowMs) &&
        rule.from?.some((clause) => clause.user !== undefined && matchesUser(clause.user, user)) === true,
    )
      ? roles
      : [],
  );
  return granted.length === 0 ? user : { ...user, roles: [...user.roles, ...granted] };
}

function isTimely({ when }: PolicyRule, nowMs: number): boolean {
  const { notBeforeMs = Number.NEGATIVE_INFINITY, notAfterMs = Number.POSITIVE_INFINITY } = when ?? {};
  return nowMs >= notBeforeMs && nowMs < notAfterMs;
}

/** A clause about users counts whichever workload it is from: a person calls by notebooks and agents, too. */
function means(clause: FromClause, asked: UserOperationsInput): boolean {
  const { user, caller, program } = asked;
  if (clause.user !== undefined) return matchesUser(clause.user, user);
  const rule = { name: "", from: [clause] };
  const compiled = compileRule(rule, "Allow", {
    ...{ zones: new Map(), trustDomain: program.trustDomain, cel: undefined },
  });
  const [from] = compiled.ok ? (compiled.value.from ?? []) : [];
  return from !== undefined && matchesFrom(from, { caller, user, via: [] });
}

function holdsAlways(
  { ports }: ProgramPolicy,
  { from, unless, when }: PolicyRule,
  { user }: UserOperationsInput,
): boolean {
  if (ports !== undefined || unless !== undefined || when !== undefined) return false;
  return (from ?? [{}]).some(
    (clause) =>
      clause.workload === undefined &&
      clause.via === undefined &&
      (clause.user === undefined || matchesUser(clause.user, user)),
  );
}

/** Whether a clause of an Allow can mean an operation, on whatever resource. Paths and methods name none. */
function mayCover(clause: OperationClause, name: string, classes: ReadonlySet<AccessClass>): boolean {
  if (clause.any === true) return true;
  if (clause.op === undefined && clause.access === undefined) return false;
  if (clause.http !== undefined || clause.grpc !== undefined || clause.mcp !== undefined) return false;
  if (clause.op !== undefined && !coversOperation(clause.op, name)) return false;
  // An operation of two classes that is allowed in one is not allowed.
  return clause.access === undefined || [...classes].every((each) => clause.access?.includes(each) === true);
}

/** Whether a clause of a Deny means every call of an operation. */
function coversAll(clause: OperationClause, name: string, classes: ReadonlySet<AccessClass>): boolean {
  return clause.any === true || (clause.resources === undefined && mayCover(clause, name, classes));
}
