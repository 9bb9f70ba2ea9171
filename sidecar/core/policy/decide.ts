// The decision on one call (DOMAIN 3.3): chain and scope, Deny, Allow, grants, defaults, then what a dry run would say.
// A program is compiled once; `decide` visits only rules that its index cannot rule out.
import type { Result } from "../runtime/errors.ts";
import type { Call, Operation, User } from "./call.ts";
import { type CelCompiler, type CelVariables, celVariables } from "./condition.ts";
import {
  type CompiledRule,
  compileRule,
  ERROR,
  FALSE,
  isExempt,
  type MatchContext,
  matchRule,
  TRUE,
  type Tri,
  type View,
} from "./match.ts";
import type { Reason } from "./reason.ts";
import {
  AUDIT_LEVELS,
  type AuditSetting,
  type IdentityHeader,
  type Obligations,
  type PolicyRule,
  type ProgramPolicy,
  type WorkloadProgram,
} from "./rule.ts";
import { buildIndex, entriesOf, type IndexEntry, type IndexNode, IndexWalk } from "./rule-index.ts";
import { coversOperation, withinScope } from "./scope.ts";

/** An allow rule that won, with what it demands. */
export interface WinningRule {
  readonly policy: string;
  readonly policyName: string;
  readonly rule: string;
  readonly ruleIndex: number;
  readonly with: Obligations | undefined;
}

export interface Decision {
  readonly allowed: boolean;
  readonly reason: Reason;
  /** `name`, or `namespace/name` of a namespaced policy; undefined when no rule decided. */
  readonly policy: string | undefined;
  readonly policyName: string | undefined;
  readonly rule: string | undefined;
  /** Position of the rule in its program, for counters; -1 when no rule decided. */
  readonly ruleIndex: number;
  /**
   * The winning allow rules in reported order: the reported one, and every other that has obligations. Winners that
   * demand nothing are left out, which is what keeps the cost independent of the number of policies.
   */
  readonly winners: readonly WinningRule[];
  /** The highest audit setting of the winners and of matching Audit rules. */
  readonly audit: AuditSetting | undefined;
  readonly identityHeaders: readonly IdentityHeader[];
  /** Set only when the answer would differ if the dry-run policies were enforced. */
  readonly would:
    | undefined
    | {
        readonly allowed: boolean;
        readonly reason: Reason;
        readonly policy: string | undefined;
        readonly rule: string | undefined;
      };
}

/** A rule in its program, with its place and its ready-made decisions. */
export interface RuleEntry {
  readonly policy: PolicyEntry;
  readonly name: string;
  readonly index: number;
  readonly match: CompiledRule;
  readonly winner: WinningRule;
  readonly audit: AuditSetting | undefined;
  /** The decision when this rule alone decides. */
  readonly decision: Decision;
  readonly ports: readonly number[] | undefined;
  /** Its policy has no other rule. */
  readonly alone: boolean;
  /**
   * Most rules name one caller or role and one operation. Those are matched on these fields of their own instead of
   * `match`: one object to fetch instead of a dozen, which is most of the cost at 10 000 policies.
   */
  readonly quick: boolean;
  readonly foreign: boolean;
  readonly kind: string | undefined;
  readonly callerName: string | undefined;
  readonly namespace: string | undefined;
  readonly role: string | undefined;
  readonly op: string | undefined;
}

export interface PolicyEntry {
  readonly source: ProgramPolicy;
  readonly rules: RuleEntry[];
}

/** Built by `createProgram`; its owner may keep it as long as the table it came from. */
export interface CompiledProgram {
  readonly program: WorkloadProgram;
  readonly engine: Engine;
  /** Number of rules: `ruleIndex` is below it. */
  readonly ruleCount: number;
}

export interface ProgramDeps {
  /** Needed when `needsCel(program)`; from `createCelCompiler` (cel.ts). */
  readonly cel?: CelCompiler | undefined;
}

/** Whether a program has CEL conditions, so that the process must load a compiler for it. */
export function needsCel(program: WorkloadProgram): boolean {
  return program.policies.some((policy) => policy.rules.some((rule) => rule.when?.cel !== undefined));
}

/** Builds the index. Fails on what cannot be evaluated here: the sidecar then NACKs and keeps the last good program. */
export function createProgram(
  program: WorkloadProgram,
  deps: ProgramDeps = {},
): Result<CompiledProgram, string> {
  const context: MatchContext = { zones: new Map(), trustDomain: program.trustDomain, cel: deps.cel };
  const policies: PolicyEntry[] = [];
  const strings = new Map<string, string>();
  let index = 0;
  for (const source of program.policies) {
    const policy: PolicyEntry = { source, rules: [] };
    for (const rule of source.rules) {
      const compiled = compileRule(rule, source.action, context);
      if (!compiled.ok) return { ok: false, error: `policy \`${source.id}\`, ${compiled.error}` };
      policy.rules.push(createRule(policy, rule, index, compiled.value, strings));
      index += 1;
    }
    policies.push(policy);
  }
  return { ok: true, value: { program, engine: new Engine(program, policies), ruleCount: index } };
}

/** `createProgram` for a process that should load the CEL library only when a program needs it. */
export async function loadProgram(program: WorkloadProgram): Promise<Result<CompiledProgram, string>> {
  if (!needsCel(program)) return createProgram(program);
  const { createCelCompiler } = await import("./cel.ts");
  return createProgram(program, { cel: createCelCompiler() });
}

/** The decision on one call. Never throws for anything a caller can send. */
export function decide(program: CompiledProgram, call: Call): Decision {
  return program.engine.decide(call);
}

/** Whether a decision on this operation can depend on its resource (DOMAIN M4: bodies are read only then). */
export function needsResource(program: CompiledProgram, operation: Operation): boolean {
  return program.engine.needsResource(operation);
}

interface QuickMatch {
  readonly kind: string | undefined;
  readonly callerName: string | undefined;
  readonly namespace: string | undefined;
  readonly role: string | undefined;
  readonly op: string | undefined;
}

/** The single value of a field; `null` when the field says more than one exact value can. */
function single(values: readonly string[] | undefined): string | undefined | null {
  if (values === undefined) return undefined;
  const [value] = values;
  return values.length !== 1 || value === undefined || value.endsWith("*") ? null : value;
}

/** The whole of `from ∧ operations ∧ when` as five strings, where it is no more than that. */
function quickMatch(rule: PolicyRule): QuickMatch | undefined {
  const [clause, ...moreClauses] = rule.from ?? [];
  const [operation, ...moreOperations] = rule.operations ?? [];
  if (clause === undefined || operation === undefined || moreClauses.length + moreOperations.length > 0)
    return undefined;
  if (rule.when !== undefined || clause.any === true || clause.via !== undefined) return undefined;
  const { workload, user } = clause;
  if (
    workload?.serviceAccounts ??
    workload?.trustDomains ??
    workload?.spiffeIds ??
    user?.ids ??
    user?.idps ??
    user?.types
  )
    return undefined;
  if (user !== undefined && (user.presence !== "Required" || user.roles === undefined)) return undefined;
  const { any, op, access, resources, http, grpc, mcp } = operation;
  if (any === true || op === undefined || (access ?? resources ?? http ?? grpc ?? mcp) !== undefined)
    return undefined;
  const kind = single(workload?.kinds);
  const callerName = single(workload?.names);
  const namespace = single(workload?.namespaces);
  const role = user?.roles?.length === 1 ? user.roles[0] : user === undefined ? undefined : null;
  if (kind === null || callerName === null || namespace === null || role === null) return undefined;
  return { kind, callerName, namespace, role, op };
}

function matchQuick(rule: RuleEntry, call: Call, view: View): Tri {
  const { caller, user } = call;
  if (!caller.authenticated || (!caller.local && !rule.foreign)) return FALSE;
  if (rule.callerName !== undefined && rule.callerName !== caller.name) return FALSE;
  if (rule.kind !== undefined && rule.kind !== caller.kind) return FALSE;
  if (rule.namespace !== undefined && rule.namespace !== caller.namespace) return FALSE;
  if (rule.role !== undefined && (user === undefined || !user.roles.includes(rule.role))) return FALSE;
  const { operation } = view;
  if (operation.kind === "undetermined") return ERROR;
  if (operation.kind === "unknown" || rule.op === undefined) return FALSE;
  return rule.op === operation.name || coversOperation(rule.op, operation.name) ? TRUE : FALSE;
}

/** @param strings one object per text, so that equal texts of 10 000 policies lie in one place. */
function createRule(
  policy: PolicyEntry,
  rule: PolicyRule,
  index: number,
  match: CompiledRule,
  strings: Map<string, string>,
): RuleEntry {
  const { name, with: demands } = rule;
  const shared = (text: string | undefined): string | undefined => {
    if (text === undefined) return undefined;
    const known = strings.get(text);
    if (known === undefined) strings.set(text, text);
    return known ?? text;
  };
  const quick = quickMatch(rule);
  const { source } = policy;
  const winner: WinningRule = {
    policy: source.id,
    policyName: source.name,
    rule: name,
    ruleIndex: index,
    with: demands,
  };
  const allowed = source.action === "Allow";
  const decision: Decision = {
    allowed,
    reason: allowed ? (source.source === "grant" ? "GRANTED" : "ALLOWED") : "DENIED_BY_POLICY",
    policy: source.id,
    policyName: source.name,
    rule: name,
    ruleIndex: index,
    winners: allowed ? [winner] : [],
    audit: demands?.audit,
    identityHeaders: demands?.identity?.forward ?? [],
    would: undefined,
  };
  return {
    policy,
    name,
    index,
    match,
    winner,
    audit: demands?.audit,
    decision,
    ports: source.ports,
    alone: source.rules.length === 1,
    quick: quick !== undefined,
    foreign: source.action !== "Allow",
    kind: shared(quick?.kind),
    callerName: shared(quick?.callerName),
    namespace: shared(quick?.namespace),
    role: shared(quick?.role),
    op: shared(quick?.op),
  };
}

const plain = (allowed: boolean, reason: Reason): Decision => ({
  allowed,
  reason,
  policy: undefined,
  policyName: undefined,
  rule: undefined,
  ruleIndex: -1,
  winners: [],
  audit: undefined,
  identityHeaders: [],
  would: undefined,
});

const FIXED = {
  DEFAULT_ALLOW: plain(true, "DEFAULT_ALLOW"),
  DEFAULT_DENY: plain(false, "DEFAULT_DENY"),
  NO_MATCHING_ALLOW: plain(false, "NO_MATCHING_ALLOW"),
  SCOPE_EXCEEDED: plain(false, "SCOPE_EXCEEDED"),
  CHAIN_TOO_DEEP: plain(false, "CHAIN_TOO_DEEP"),
  CHAIN_LOOP: plain(false, "CHAIN_LOOP"),
} as const;

/** The highest level; of equal levels the denser sample; `Required` as soon as one of them says so. */
export function mergeAudit(
  a: AuditSetting | undefined,
  b: AuditSetting | undefined,
): AuditSetting | undefined {
  if (a === undefined || b === undefined || a === b) return a ?? b;
  const difference = AUDIT_LEVELS.indexOf(a.level) - AUDIT_LEVELS.indexOf(b.level);
  const higher = difference === 0 ? (a.sample >= b.sample ? a : b) : difference > 0 ? a : b;
  const mode = a.mode === "Required" || b.mode === "Required" ? "Required" : "BestEffort";
  return higher.mode === mode ? higher : { ...higher, mode };
}

type WalkKind = "deny" | "allow" | "every";

/** One tree with its look-up. `deny` and `allow` stop at the first rule by rank; `every` lists all policies that win. */
class RuleSet extends IndexWalk<RuleEntry> {
  readonly #root: IndexNode<RuleEntry>;
  readonly #kind: WalkKind;
  readonly #variables: (call: Call, view: View) => CelVariables;
  #found: RuleEntry | undefined;
  readonly #all: RuleEntry[] = [];
  readonly empty: boolean;

  constructor(
    policies: readonly PolicyEntry[],
    kind: WalkKind,
    variables: (call: Call, view: View) => CelVariables,
  ) {
    super(kind === "deny");
    const entries: IndexEntry<RuleEntry>[] = [];
    for (const { source, rules } of policies) {
      for (const [i, rule] of rules.entries()) {
        const of = source.rules[i];
        if (of !== undefined)
          for (const entry of entriesOf(of, rule, rule.index, kind === "deny")) entries.push(entry);
      }
    }
    this.empty = entries.length === 0;
    this.#root = buildIndex(entries);
    this.#kind = kind;
    this.#variables = variables;
  }

  /** The first deciding rule by rank. */
  first(call: Call, view: View): RuleEntry | undefined {
    if (this.empty) return undefined;
    this.limit = Number.POSITIVE_INFINITY;
    this.#found = undefined;
    this.walk(this.#root, call, view);
    return this.#found;
  }

  /** The deciding rule of every policy, by rank. The list is valid until the next call. */
  every(call: Call, view: View): readonly RuleEntry[] {
    this.#all.length = 0;
    if (this.empty) return this.#all;
    this.walk(this.#root, call, view);
    if (this.#all.length > 1) this.#all.sort((a, b) => a.index - b.index);
    return this.#all;
  }

  protected visit(item: RuleEntry, call: Call, view: View): void {
    if (item.ports !== undefined && !item.ports.includes(call.port)) return;
    const value = item.quick
      ? matchQuick(item, call, view)
      : matchRule(item.match, call, view, this.#variables);
    if (value === FALSE) return;
    if (this.#kind === "deny") {
      if (isExempt(item.match, call)) return;
      this.#found = item;
      this.limit = item.index;
      return;
    }
    const winner = item.alone ? (value === TRUE ? item : undefined) : this.#firstOf(item.policy, call, view);
    if (winner === undefined) return;
    if (this.#kind === "every") {
      if (!this.#all.includes(winner)) this.#all.push(winner);
    } else if (winner.index < this.limit) {
      this.#found = winner;
      this.limit = winner.index;
    }
  }

  /** The first rule of a policy that is not false, if it is true: an erring rule stops its policy. */
  #firstOf(policy: PolicyEntry, call: Call, view: View): RuleEntry | undefined {
    for (const rule of policy.rules) {
      const value = matchRule(rule.match, call, view, this.#variables);
      if (value === TRUE) return rule;
      if (value !== FALSE) return undefined;
    }
    return undefined;
  }
}

/** Ports that some policy of a kind covers: all of them, or the listed. */
class PortCover {
  #all = false;
  readonly #ports = new Set<number>();

  add(ports: readonly number[] | undefined): void {
    if (ports === undefined) this.#all = true;
    else for (const port of ports) this.#ports.add(port);
  }

  covers(port: number): boolean {
    return this.#all || this.#ports.has(port);
  }
}

const demandsSomething = (policy: PolicyEntry): boolean =>
  policy.source.rules.some((rule) => rule.with !== undefined);

/** All trees of one program and the order they are asked in. Not re-entrant: one decision at a time, synchronously. */
class Engine {
  readonly #program: WorkloadProgram;
  readonly #deny: RuleSet;
  /** Policies without obligations: only the first winner matters. */
  readonly #allow: RuleSet;
  /** Policies with obligations: every winner matters. */
  readonly #demanding: RuleSet;
  readonly #grants: RuleSet;
  readonly #roleGrants: RuleSet;
  readonly #audit: RuleSet;
  readonly #dryDeny: RuleSet;
  readonly #dryAllow: RuleSet;
  readonly #selected = new PortCover();
  readonly #drySelected = new PortCover();
  readonly #resourceOps: string[] = [];
  #resourceAlways = false;
  readonly #needs = new Map<string, boolean>();
  #view: View | undefined;
  #celVariables: CelVariables | undefined;

  constructor(program: WorkloadProgram, policies: readonly PolicyEntry[]) {
    this.#program = program;
    const variables = (call: Call, view: View): CelVariables => this.#variablesOf(call, view);
    const where = (test: (policy: ProgramPolicy) => boolean): PolicyEntry[] =>
      policies.filter(({ source }) => test(source));
    const enforced = where(
      (p) => p.action === "Allow" && p.enforcement === "Enforce" && p.source !== "grant",
    );
    this.#deny = new RuleSet(
      where((p) => p.action === "Deny" && p.enforcement === "Enforce"),
      "deny",
      variables,
    );
    this.#allow = new RuleSet(
      enforced.filter((policy) => !demandsSomething(policy)),
      "allow",
      variables,
    );
    this.#demanding = new RuleSet(enforced.filter(demandsSomething), "every", variables);
    this.#grants = new RuleSet(
      where((p) => p.source === "grant" && p.roles === undefined),
      "allow",
      variables,
    );
    this.#roleGrants = new RuleSet(
      where((p) => p.source === "grant" && p.roles !== undefined),
      "every",
      variables,
    );
    this.#audit = new RuleSet(
      where((p) => p.action === "Audit" && p.enforcement === "Enforce"),
      "every",
      variables,
    );
    this.#dryDeny = new RuleSet(
      where((p) => p.action === "Deny" && p.enforcement === "DryRun"),
      "deny",
      variables,
    );
    this.#dryAllow = new RuleSet(
      where((p) => p.action === "Allow" && p.enforcement === "DryRun" && p.source !== "grant"),
      "allow",
      variables,
    );
    for (const { source } of enforced) this.#selected.add(source.ports);
    for (const { source } of where((p) => p.action === "Allow" && p.enforcement === "DryRun"))
      this.#drySelected.add(source.ports);
    for (const { source } of policies) this.#collectResourceUse(source);
  }

  decide(call: Call): Decision {
    const refused = this.#admit(call);
    if (refused !== undefined) return refused;
    const effective =
      this.#roleGrants.empty || call.user === undefined ? call : this.#withGrantedRoles(call, call.user);
    const view: View = exactView(effective);
    let decision = this.#enforced(effective, view);
    if (!this.#audit.empty) decision = this.#audited(decision, effective, view);
    if (!this.#dryDeny.empty || !this.#dryAllow.empty) decision = this.#withDryRun(decision, effective, view);
    this.#view = undefined; // facts of a call are not kept beyond it
    this.#celVariables = undefined;
    return decision;
  }

  needsResource(operation: Operation): boolean {
    if (operation.kind !== "known") return false;
    if (this.#resourceAlways) return true;
    let known = this.#needs.get(operation.name);
    if (known === undefined) {
      known = this.#resourceOps.some((op) => coversOperation(op, operation.name));
      if (this.#needs.size >= 4096) this.#needs.clear();
      this.#needs.set(operation.name, known);
    }
    return known;
  }

  /** V8 and V9: chain and scope. */
  #admit(call: Call): Decision | undefined {
    const { via } = call;
    if (via.length + 1 > this.#program.maxHops) return FIXED.CHAIN_TOO_DEEP;
    if (via.length > 1 && hasLoop(call)) return FIXED.CHAIN_LOOP;
    return withinScope(call.operation, call.scope) ? undefined : FIXED.SCOPE_EXCEEDED;
  }

  #enforced(call: Call, view: View): Decision {
    const denied = this.#firstDeny(this.#deny, call, view);
    if (denied !== undefined) return denied.decision;
    const first = this.#allow.first(call, view);
    const demanding = this.#demanding.empty ? NONE : this.#demanding.every(call, view);
    if (demanding.length === 0) {
      if (first !== undefined) return first.decision;
      const granted = this.#grants.first(call, view);
      if (granted !== undefined) return granted.decision;
      if (this.#selected.covers(call.port)) return FIXED.NO_MATCHING_ALLOW;
      return this.#program.defaultAction === "Allow" ? FIXED.DEFAULT_ALLOW : FIXED.DEFAULT_DENY;
    }
    const only = demanding[0];
    if (first === undefined && demanding.length === 1 && only !== undefined) return only.decision;
    return combine(first, demanding);
  }

  /** The first Deny over the exact view and the folded ones. */
  #firstDeny(set: RuleSet, call: Call, view: View): RuleEntry | undefined {
    if (set.empty) return undefined;
    let found = set.first(call, view);
    for (const { operation, resource, path } of call.folded) {
      const other = set.first(call, { operation, resource, path, folded: true });
      if (other !== undefined && (found === undefined || other.index < found.index)) found = other;
    }
    return found;
  }

  #audited(decision: Decision, call: Call, view: View): Decision {
    let audit = decision.audit;
    for (const rule of this.#audit.every(call, view)) audit = mergeAudit(audit, rule.audit);
    return audit === decision.audit ? decision : { ...decision, audit };
  }

  #withDryRun(decision: Decision, call: Call, view: View): Decision {
    const other = this.#dryDecision(decision, call, view);
    if (other === undefined || other.allowed === decision.allowed) return decision;
    const { allowed, reason, policy, rule } = other;
    return { ...decision, would: { allowed, reason, policy, rule } };
  }

  /** The answer if dry-run policies were enforced; undefined: as it is. */
  #dryDecision(decision: Decision, call: Call, view: View): Decision | undefined {
    if (decision.reason === "DENIED_BY_POLICY") return undefined;
    const denied = this.#firstDeny(this.#dryDeny, call, view);
    if (denied !== undefined) return denied.decision;
    const byAllow = decision.reason === "ALLOWED" || decision.reason === "GRANTED";
    if (byAllow) return undefined;
    const allowed = this.#dryAllow.first(call, view);
    if (allowed !== undefined) return allowed.decision;
    return decision.reason === "DEFAULT_ALLOW" && this.#drySelected.covers(call.port)
      ? FIXED.NO_MATCHING_ALLOW
      : undefined;
  }

  #withGrantedRoles(call: Call, user: User): Call {
    const granted = this.#roleGrants.every(call, exactView(call));
    if (granted.length === 0) return call;
    const roles = new Set(user.roles);
    for (const { policy } of granted) for (const role of policy.source.roles ?? []) roles.add(role);
    return { ...call, user: { ...user, roles: [...roles] } };
  }

  #variablesOf(call: Call, view: View): CelVariables {
    if (this.#view !== view || this.#celVariables === undefined) {
      this.#celVariables = celVariables(this.#program, call, view);
      this.#view = view;
    }
    return this.#celVariables;
  }

  #collectResourceUse(policy: ProgramPolicy): void {
    for (const rule of policy.rules) {
      const everywhere = rule.when?.cel?.includes("resource") === true || hasResourceKey(rule.with);
      for (const clause of rule.operations ?? [undefined]) {
        if (!everywhere && clause?.resources === undefined) continue;
        if (clause?.op === undefined) this.#resourceAlways = true;
        else this.#resourceOps.push(clause.op);
      }
    }
  }
}

const NONE: readonly RuleEntry[] = [];

const hasResourceKey = (demands: Obligations | undefined): boolean =>
  demands?.rateLimit?.key.includes("resource") === true ||
  demands?.tokenLimit?.key.includes("resource") === true;

function exactView(call: Call): View {
  return { operation: call.operation, resource: call.resource, path: call.request.path, folded: false };
}

/** No SPIFFE ID may be in the chain (earlier hops and the caller) more than twice. */
function hasLoop(call: Call): boolean {
  const { via, caller } = call;
  for (const [i, hop] of via.entries()) {
    let count = hop.spiffeId === caller.spiffeId ? 2 : 1;
    for (let j = i + 1; j < via.length; j++) if (via[j]?.spiffeId === hop.spiffeId) count += 1;
    if (count > 2) return true;
  }
  return false;
}

/** Several winners: the first by rank is reported, all obligations apply together. */
function combine(first: RuleEntry | undefined, demanding: readonly RuleEntry[]): Decision {
  const rules =
    first === undefined ? [...demanding] : [first, ...demanding].sort((a, b) => a.index - b.index);
  let audit: AuditSetting | undefined;
  const identityHeaders = new Set<IdentityHeader>();
  for (const rule of rules) {
    audit = mergeAudit(audit, rule.audit);
    for (const header of rule.decision.identityHeaders) identityHeaders.add(header);
  }
  const reported = rules[0];
  const base = reported === undefined ? FIXED.NO_MATCHING_ALLOW : reported.decision;
  return { ...base, winners: rules.map((rule) => rule.winner), audit, identityHeaders: [...identityHeaders] };
}
