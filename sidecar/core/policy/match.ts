// Three-valued matching of one rule against one call (DOMAIN 3.3): rules are compiled once into these forms, and the
// functions here are the hot path that the index leads to.

import { foldCase, withoutTrailingSlash } from "../http/path.ts";
import type { Result } from "../runtime/errors.ts";
import type { AccessClass, Call, Caller, Hop, Operation, Resource, User } from "./call.ts";
import { scopedAccountOf } from "./caller.ts";
import { type Cidr, cidrContains, parseCidr, parseIp } from "./cidr.ts";
import type { CelCompiler, CelCondition, CelVariables } from "./condition.ts";
import type {
  FromClause,
  HopMatch,
  NamePattern,
  OperationClause,
  PolicyRule,
  UserMatch,
  ViaMatch,
  When,
  WorkloadMatch,
} from "./rule.ts";
import { type CompiledSchedule, compileSchedule, isOpen, type ZoneClock } from "./schedule.ts";
import { coversOperation } from "./scope.ts";

/** Kleene values as numbers: AND is the minimum, OR the maximum. */
export type Tri = 0 | 1 | 2;
export const FALSE = 0;
export const ERROR = 1;
export const TRUE = 2;

const and = (a: Tri, b: Tri): Tri => (a < b ? a : b);
const tri = (value: boolean): Tri => (value ? TRUE : FALSE);

/** Names and `prefix*` patterns of one field. */
export interface Patterns {
  readonly all: boolean;
  readonly exact: readonly string[];
  readonly prefixes: readonly string[];
}

export function compilePatterns(patterns: readonly NamePattern[]): Patterns {
  const prefixes = patterns.filter((pattern) => pattern.endsWith("*")).map((pattern) => pattern.slice(0, -1));
  return {
    all: prefixes.includes(""),
    exact: patterns.filter((pattern) => !pattern.endsWith("*")),
    prefixes,
  };
}

/** Paths are exact, or everything below a folder when they end in `/**`. */
function compilePaths(paths: readonly string[]): Patterns {
  const prefixes = paths.filter((path) => path.endsWith("/**")).map((path) => path.slice(0, -2));
  return { all: prefixes.includes("/"), exact: paths.filter((path) => !path.endsWith("/**")), prefixes };
}

export function matchesPattern(patterns: Patterns, value: string): boolean {
  if (patterns.all) return true;
  for (const exact of patterns.exact) if (exact === value) return true;
  for (const prefix of patterns.prefixes) if (value.startsWith(prefix)) return true;
  return false;
}

/** The folded view of a path (M1): one trailing slash removed, case folded. */
export function foldPath(path: string): string {
  return foldCase(withoutTrailingSlash(path));
}

const foldPatterns = (patterns: Patterns, fold: (text: string) => string): Patterns => ({
  all: patterns.all,
  exact: patterns.exact.map(fold),
  prefixes: patterns.prefixes.map(foldCase),
});

interface CompiledPlace {
  readonly kinds: readonly string[] | undefined;
  readonly names: Patterns | undefined;
  readonly namespaces: Patterns | undefined;
  readonly serviceAccounts: readonly string[] | undefined;
}

interface CompiledFrom {
  readonly any: boolean;
  /** Foreign callers may match: on Deny and Audit always, on Allow and `unless` when the clause names them. */
  readonly foreign: boolean;
  readonly place: CompiledPlace | undefined;
  readonly trustDomains: readonly string[] | undefined;
  readonly spiffeIds: readonly string[] | undefined;
  readonly user: UserMatch | undefined;
  readonly origin: CompiledPlace | undefined;
  readonly through: CompiledPlace | undefined;
  readonly maxHops: number;
  /** Hops of a foreign trust domain count for `origin` and `through`. */
  readonly localPrefix: string | undefined;
}

interface CompiledOperation {
  readonly any: boolean;
  readonly op: string | undefined;
  readonly access: readonly AccessClass[] | undefined;
  readonly resources: Patterns | undefined;
  readonly foldedResources: Patterns | undefined;
  readonly http: boolean;
  readonly methods: readonly string[] | undefined;
  readonly paths: Patterns | undefined;
  readonly foldedPaths: Patterns | undefined;
  readonly grpc:
    | { readonly service?: string | undefined; readonly methods?: readonly string[] | undefined }
    | undefined;
  readonly mcp:
    | { readonly methods: readonly string[] | undefined; readonly names: Patterns | undefined }
    | undefined;
}

interface CompiledWhen {
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
  readonly schedule: CompiledSchedule | undefined;
  readonly environments: readonly string[] | undefined;
  readonly cidrs: readonly Cidr[] | undefined;
  readonly authn: When["authn"];
  readonly cel: CelCondition | undefined;
}

export interface CompiledRule {
  readonly from: readonly CompiledFrom[] | undefined;
  readonly unless: readonly CompiledFrom[] | undefined;
  readonly operations: readonly CompiledOperation[] | undefined;
  readonly when: CompiledWhen | undefined;
}

/** Operation, resource and path that a rule is matched on: the exact view, or a folded one (Deny only). */
export interface View {
  readonly operation: Operation;
  readonly resource: Resource;
  readonly path: string;
  readonly folded: boolean;
}

export interface MatchContext {
  readonly zones: Map<string, ZoneClock>;
  readonly trustDomain: string;
  readonly cel: CelCompiler | undefined;
}

/** Variables of the call and view at hand, made only when a condition is reached. */
export type VariablesOf = (call: Call, view: View) => CelVariables;

const compilePlace = (match: HopMatch): CompiledPlace => ({
  kinds: match.kinds,
  names: match.names && compilePatterns(match.names),
  namespaces: match.namespaces && compilePatterns(match.namespaces),
  serviceAccounts: match.serviceAccounts,
});

const constrainsPlace = (match: WorkloadMatch): boolean =>
  match.kinds !== undefined ||
  match.names !== undefined ||
  match.namespaces !== undefined ||
  match.serviceAccounts !== undefined;

/** @param strict Allow rules and `unless`: what is foreign has to be named. */
function compileFrom(clause: FromClause, strict: boolean, context: MatchContext): CompiledFrom {
  const workload = clause.workload;
  const via: ViaMatch | undefined = clause.via;
  return {
    any: clause.any === true,
    foreign: !strict || workload?.trustDomains !== undefined || workload?.spiffeIds !== undefined,
    place: workload !== undefined && constrainsPlace(workload) ? compilePlace(workload) : undefined,
    trustDomains: workload?.trustDomains,
    spiffeIds: workload?.spiffeIds,
    user: clause.user,
    origin: via?.origin && compilePlace(via.origin),
    through: via?.through && compilePlace(via.through),
    maxHops: via?.maxHops ?? Number.POSITIVE_INFINITY,
    localPrefix: strict ? `spiffe://${context.trustDomain}/` : undefined,
  };
}

function compileOperation(clause: OperationClause, deny: boolean): CompiledOperation {
  const resources = clause.resources && compilePatterns(clause.resources);
  const paths = clause.http?.paths && compilePaths(clause.http.paths);
  return {
    any: clause.any === true,
    op: clause.op,
    access: clause.access,
    resources,
    foldedResources: deny && resources ? foldPatterns(resources, foldCase) : undefined,
    http: clause.http !== undefined,
    methods: clause.http?.methods,
    paths,
    foldedPaths: deny && paths ? foldPatterns(paths, foldPath) : undefined,
    grpc: clause.grpc,
    mcp: clause.mcp && {
      methods: clause.mcp.methods,
      names: clause.mcp.names && compilePatterns(clause.mcp.names),
    },
  };
}

function compileWhen(when: When, context: MatchContext): Result<CompiledWhen, string> {
  const schedule = when.schedule && compileSchedule(when.schedule, context.zones);
  if (when.schedule !== undefined && schedule === undefined) {
    return { ok: false, error: `schedule in time zone \`${when.schedule.timeZone}\` cannot be used` };
  }
  const cidrs: Cidr[] = [];
  for (const text of when.sourceCidrs ?? []) {
    const cidr = parseCidr(text);
    if (cidr === undefined) return { ok: false, error: `\`${text}\` is no CIDR block` };
    cidrs.push(cidr);
  }
  let cel: CelCondition | undefined;
  if (when.cel !== undefined) {
    if (context.cel === undefined)
      return { ok: false, error: "a rule has a CEL condition and no CEL compiler is loaded" };
    const compiled = context.cel.compile(when.cel);
    if (!compiled.ok) return { ok: false, error: `CEL condition: ${compiled.error}` };
    cel = compiled.value;
  }
  const value: CompiledWhen = {
    notBeforeMs: when.notBeforeMs ?? Number.NEGATIVE_INFINITY,
    notAfterMs: when.notAfterMs ?? Number.POSITIVE_INFINITY,
    schedule,
    environments: when.environments,
    cidrs: when.sourceCidrs === undefined ? undefined : cidrs,
    authn: when.authn,
    cel,
  };
  return { ok: true, value };
}

/** Compiles a rule; fails on a time zone, CIDR block or CEL condition that cannot be used here. */
export function compileRule(
  rule: PolicyRule,
  action: "Allow" | "Deny" | "Audit",
  context: MatchContext,
): Result<CompiledRule, string> {
  const deny = action === "Deny";
  let when: CompiledWhen | undefined;
  if (rule.when !== undefined) {
    const compiled = compileWhen(rule.when, context);
    if (!compiled.ok) return { ok: false, error: `rule \`${rule.name}\`: ${compiled.error}` };
    when = compiled.value;
  }
  const value: CompiledRule = {
    from: rule.from?.map((clause) => compileFrom(clause, action === "Allow", context)),
    unless: deny ? rule.unless?.map((clause) => compileFrom(clause, true, context)) : undefined,
    operations: rule.operations?.map((clause) => compileOperation(clause, deny)),
    when,
  };
  return { ok: true, value };
}

type Place = Pick<Caller, "kind" | "name" | "namespace" | "serviceAccount">;

function matchesPlace(match: CompiledPlace, place: Place, scopedAccount: string): boolean {
  if (match.kinds !== undefined && !match.kinds.includes(place.kind)) return false;
  if (match.names !== undefined && !matchesPattern(match.names, place.name)) return false;
  if (match.namespaces !== undefined && !matchesPattern(match.namespaces, place.namespace)) return false;
  if (match.serviceAccounts === undefined) return true;
  return (
    match.serviceAccounts.includes(place.serviceAccount) || match.serviceAccounts.includes(scopedAccount)
  );
}

function matchesHop(from: CompiledFrom, match: CompiledPlace, hop: Hop): boolean {
  if (from.localPrefix !== undefined && !hop.spiffeId.startsWith(from.localPrefix)) return false;
  return matchesPlace(match, hop, `${hop.namespace}/${hop.serviceAccount}`);
}

const overlaps = (wanted: readonly string[], have: readonly string[]): boolean => {
  for (const entry of have) if (wanted.includes(entry)) return true;
  return false;
};

/** Whether a call with this user is meant; undefined: a call without one. */
export function matchesUser(match: UserMatch, user: User | undefined): boolean {
  if (match.presence === "Forbidden" && user !== undefined) return false;
  if (match.presence === "Required" && user === undefined) return false;
  if (
    match.ids === undefined &&
    match.roles === undefined &&
    match.idps === undefined &&
    match.types === undefined
  )
    return true;
  if (user === undefined) return false;
  if (match.ids !== undefined && !match.ids.includes(user.id)) return false;
  if (match.roles !== undefined && !overlaps(match.roles, user.roles)) return false;
  if (match.idps !== undefined && !match.idps.includes(user.idp)) return false;
  return match.types === undefined || match.types.includes(user.type);
}

/** A clause of `from` or `unless`; never an error, because who calls is always known. */
export function matchesFrom(from: CompiledFrom, call: Pick<Call, "caller" | "user" | "via">): boolean {
  const caller = call.caller;
  if (!caller.authenticated || (!caller.local && !from.foreign)) return false;
  if (from.any) return true;
  if (from.place !== undefined && !matchesPlace(from.place, caller, scopedAccountOf(caller))) return false;
  if (from.trustDomains !== undefined && !from.trustDomains.includes(caller.trustDomain)) return false;
  if (from.spiffeIds !== undefined && !from.spiffeIds.includes(caller.spiffeId)) return false;
  if (from.user !== undefined && !matchesUser(from.user, call.user)) return false;
  const via = call.via;
  if (via.length + 1 > from.maxHops) return false;
  if (from.origin !== undefined) {
    const first = via[0];
    if (
      first === undefined
        ? !matchesPlace(from.origin, caller, scopedAccountOf(caller))
        : !matchesHop(from, from.origin, first)
    ) {
      return false;
    }
  }
  const { through } = from;
  return through === undefined || via.some((hop) => matchesHop(from, through, hop));
}

function anyFrom(clauses: readonly CompiledFrom[] | undefined, call: Call): boolean {
  if (clauses === undefined) return true;
  for (const clause of clauses) if (matchesFrom(clause, call)) return true;
  return false;
}

const MCP_METHODS_WITH_NAME: readonly string[] = ["tools/call", "resources/read", "prompts/get"];

function matchMcp(match: NonNullable<CompiledOperation["mcp"]>, call: Call, operation: Operation): Tri {
  if (operation.kind === "undetermined") return ERROR;
  const mcp = call.request.mcp;
  if (mcp === undefined) return FALSE;
  if (mcp.method === undefined) return ERROR;
  if (match.methods !== undefined && !match.methods.includes(mcp.method)) return FALSE;
  if (match.names === undefined) return TRUE;
  if (mcp.name === undefined) return MCP_METHODS_WITH_NAME.includes(mcp.method) ? ERROR : FALSE;
  return tri(matchesPattern(match.names, mcp.name));
}

function matchResource(clause: CompiledOperation, patterns: Patterns, view: View): Tri {
  const { operation, resource } = view;
  if (operation.kind === "undetermined" || resource.kind === "unknown") return ERROR;
  if (resource.kind === "none") return FALSE;
  if (matchesPattern(patterns, resource.value)) return TRUE;
  // Set on Deny: the spelling of rule or request opens no door, from a body neither.
  const { foldedResources } = clause;
  return tri(foldedResources !== undefined && matchesPattern(foldedResources, foldCase(resource.value)));
}

function matchPath(clause: CompiledOperation, patterns: Patterns, view: View): boolean {
  if (matchesPattern(patterns, view.path)) return true;
  return clause.foldedPaths !== undefined && matchesPattern(clause.foldedPaths, view.path);
}

/** A clause of `operations`. An undetermined operation is an error in every field that asks for it (M6). */
function matchOperation(clause: CompiledOperation, call: Call, view: View): Tri {
  if (clause.any) return TRUE;
  const { operation } = view;
  let result: Tri = TRUE;
  if (clause.op !== undefined) {
    if (operation.kind === "known") {
      if (!coversOperation(clause.op, operation.name)) return FALSE;
    } else if (operation.kind === "unknown") return FALSE;
    else result = ERROR;
  }
  if (clause.access !== undefined) {
    if (operation.kind === "known") {
      if (!clause.access.includes(operation.access)) return FALSE;
    } else if (operation.kind === "unknown") return FALSE;
    else result = ERROR;
  }
  if (clause.http) {
    if (clause.methods !== undefined && !clause.methods.includes(call.request.method)) return FALSE;
    if (clause.paths !== undefined && !matchPath(clause, clause.paths, view)) return FALSE;
  }
  if (clause.grpc !== undefined) {
    const grpc = call.request.grpc;
    if (grpc === undefined) return FALSE;
    if (clause.grpc.service !== undefined && clause.grpc.service !== grpc.service) return FALSE;
    if (clause.grpc.methods !== undefined && !clause.grpc.methods.includes(grpc.method)) return FALSE;
  }
  if (clause.resources !== undefined) result = and(result, matchResource(clause, clause.resources, view));
  if (clause.mcp !== undefined && result !== FALSE)
    result = and(result, matchMcp(clause.mcp, call, operation));
  return result;
}

function matchOperations(clauses: readonly CompiledOperation[] | undefined, call: Call, view: View): Tri {
  if (clauses === undefined) return TRUE;
  let result: Tri = FALSE;
  for (const clause of clauses) {
    const value = matchOperation(clause, call, view);
    if (value === TRUE) return TRUE;
    if (value > result) result = value;
  }
  return result;
}

function matchSource(cidrs: readonly Cidr[], sourceIp: string | undefined): Tri {
  const address = sourceIp === undefined ? undefined : parseIp(sourceIp);
  if (address === undefined) return ERROR;
  return tri(cidrs.some((cidr) => cidrContains(cidr, address)));
}

/** A missing user, and a token without the fact that is asked for, is false and not an error (DOMAIN 2.6, 3.3). */
function matchesAuthn(authn: NonNullable<When["authn"]>, call: Call): boolean {
  const user = call.user;
  if (user === undefined) return false;
  if (authn.maxAgeMs !== undefined) {
    if (user.authTimeMs === undefined || call.nowMs - user.authTimeMs > authn.maxAgeMs) return false;
  }
  if (authn.amr !== undefined && !overlaps(authn.amr, user.amr)) return false;
  return authn.acr === undefined || (user.acr !== undefined && authn.acr.includes(user.acr));
}

function matchCel(condition: CelCondition, variables: CelVariables): Tri {
  try {
    const value = condition(variables);
    return typeof value === "boolean" ? tri(value) : ERROR;
  } catch {
    return ERROR; // a missing field or a failed conversion is the error value of three-valued matching
  }
}

function matchWhen(when: CompiledWhen, call: Call, view: View, variablesOf: VariablesOf): Tri {
  if (call.nowMs < when.notBeforeMs || call.nowMs >= when.notAfterMs) return FALSE;
  if (when.schedule !== undefined && !isOpen(when.schedule, call.nowMs)) return FALSE;
  if (when.authn !== undefined && !matchesAuthn(when.authn, call)) return FALSE;
  let result: Tri = TRUE;
  if (when.environments !== undefined) {
    const env = call.caller.env;
    result = env === undefined ? ERROR : tri(when.environments.includes(env));
  }
  if (when.cidrs !== undefined && result !== FALSE)
    result = and(result, matchSource(when.cidrs, call.sourceIp));
  if (when.cel !== undefined && result !== FALSE)
    result = and(result, matchCel(when.cel, variablesOf(call, view)));
  return result;
}

/** `from ∧ operations ∧ when`; `unless` is asked separately. */
export function matchRule(rule: CompiledRule, call: Call, view: View, variablesOf: VariablesOf): Tri {
  if (!anyFrom(rule.from, call)) return FALSE;
  const operations = matchOperations(rule.operations, call, view);
  if (operations === FALSE || rule.when === undefined) return operations;
  return and(operations, matchWhen(rule.when, call, view, variablesOf));
}

/** Whether an exception of a Deny rule applies. */
export function isExempt(rule: CompiledRule, call: Call): boolean {
  return rule.unless !== undefined && anyFrom(rule.unless, call);
}
