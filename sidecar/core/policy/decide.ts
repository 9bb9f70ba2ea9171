// The decision on one call (DOMAIN 3.3): chain and scope, Deny, Allow, grants, defaults, then what a dry run would say.
// A program is compiled once; `decide` visits only rules that its index cannot rule out.
import type { Result } from "../runtime/errors.ts";
import type { Call, Operation, Resource, User } from "./call.ts";
import { type CelCompiler, type CelVariables, celVariables } from "./condition.ts";
import { type Decision, FIXED, mergeAudit, type WinningRule } from "./decision.ts";
import type { MatchContext, View } from "./match.ts";
import type { Reason } from "./reason.ts";
import type { AuditSetting, IdentityHeader, Obligations, ProgramPolicy, WorkloadProgram } from "./rule.ts";
import { type PolicyEntry, RuleEntry } from "./rule-entry.ts";
import { TreeBuilder } from "./rule-index.ts";
import { entriesOf, type IndexEntry } from "./rule-keys.ts";
import { pushRecord } from "./rule-record.ts";
import { RuleSet, type SetKind } from "./rule-set.ts";
import { coversOperation, withinScope } from "./scope.ts";
import { Probe, Symbols } from "./symbols.ts";

export type { Decision, WinningRule } from "./decision.ts";

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
  const entries: RuleEntry[] = [];
  for (const source of program.policies) {
    const policy: PolicyEntry = { source, first: entries.length, set: setOf(source) };
    for (const rule of source.rules) {
      const entry = new RuleEntry(policy, rule, entries.length, context);
      if (rule.when !== undefined) {
        const compiled = entry.compile();
        if (!compiled.ok) return { ok: false, error: `policy \`${source.id}\`, ${compiled.error}` };
      }
      entries.push(entry);
    }
  }
  return {
    ok: true,
    value: { program, engine: new Engine(program, entries), ruleCount: entries.length },
  };
}

/** The decision on one call. Never throws for anything a caller can send. */
export function decide(program: CompiledProgram, call: Call): Decision {
  return program.engine.decide(call);
}

/** Whether a decision on this operation can depend on its resource (DOMAIN M4: bodies are read only then). */
export function needsResource(program: CompiledProgram, operation: Operation): boolean {
  return program.engine.needsResource(operation);
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

const isEnforcedAllow = (policy: ProgramPolicy): boolean =>
  policy.action === "Allow" && policy.enforcement === "Enforce" && policy.source !== "grant";
const isDryAllow = (policy: ProgramPolicy): boolean =>
  policy.action === "Allow" && policy.enforcement === "DryRun";

/** The set that a policy belongs to; 0: an Audit on trial, which changes nothing. A Deny is one whatever its source. */
function setOf(policy: ProgramPolicy): number {
  const enforced = policy.enforcement === "Enforce";
  if (policy.action === "Deny") return enforced ? DENIES : DRY_DENIES;
  if (policy.action === "Audit") return enforced ? AUDITS : 0;
  if (policy.source === "grant") return policy.roles === undefined ? GRANTS : ROLE_GRANTS;
  if (!enforced) return DRY_ALLOWS;
  return policy.rules.some((rule) => rule.with !== undefined) ? DEMANDS : ALLOWS;
}

const NONE: readonly RuleEntry[] = [];
const UNKNOWN: Operation = { kind: "unknown" };
const NO_RESOURCE: Resource = { kind: "none" };

/** The sets of rules that a program has, as bits: one word in the cache tells what need not be asked. */
const ALLOWS = 1;
const DENIES = 2;
const DEMANDS = 4;
const GRANTS = 8;
const ROLE_GRANTS = 16;
const AUDITS = 32;
const DRY_DENIES = 64;
const DRY_ALLOWS = 128;

/** All trees of one program and the order they are asked in. Not re-entrant: one decision at a time, synchronously. */
class Engine {
  // What every decision reads comes first and so lies together.
  readonly #maxHops: number;
  readonly #has: number;
  readonly #probe: Probe;
  /** Policies without obligations: only the first winner matters. */
  readonly #allow: RuleSet;
  readonly #decisions: (Decision | undefined)[];
  readonly #selected = new PortCover();
  readonly #deny: RuleSet;
  /** Policies with obligations: every winner matters. */
  readonly #demanding: RuleSet;
  readonly #grants: RuleSet;
  readonly #roleGrants: RuleSet;
  readonly #audit: RuleSet;
  readonly #dryDeny: RuleSet;
  readonly #dryAllow: RuleSet;
  readonly #drySelected = new PortCover();
  readonly #entries: readonly RuleEntry[];
  readonly #program: WorkloadProgram;
  readonly #resourceOps: string[] = [];
  #resourceAlways = false;
  readonly #needs = new Map<string, boolean>();
  /** Kept for every call: an object each would go through the cache and push rules out of it. */
  readonly #view: { -readonly [K in keyof View]: View[K] } = {
    operation: UNKNOWN,
    resource: NO_RESOURCE,
    path: "",
    folded: false,
  };
  #celVariables: CelVariables | undefined;

  constructor(program: WorkloadProgram, entries: readonly RuleEntry[]) {
    this.#program = program;
    this.#maxHops = program.maxHops;
    this.#entries = entries;
    this.#decisions = new Array<Decision | undefined>(entries.length).fill(undefined);
    const symbols = new Symbols();
    const records: number[] = [];
    const lists = new Map<number, IndexEntry[]>();
    let has = 0;
    for (const { policy, rule, index } of entries) {
      const list = lists.get(policy.set) ?? [];
      if (list.length === 0) lists.set(policy.set, list);
      entriesOf(rule, index, (policy.set & (DENIES | DRY_DENIES)) !== 0, symbols, list);
      pushRecord(records, policy.source, rule, list.at(-1)?.keys);
      has |= policy.set;
    }
    if (records.length === 0) records.push(0); // offset 0 means nothing and is never a node
    const builder = new TreeBuilder(symbols, records);
    const roots = new Map([...lists].map(([set, list]) => [set, builder.add(list)]));
    this.#has = has;
    this.#probe = new Probe(symbols);
    const variables = (call: Call, view: View): CelVariables => this.#variablesOf(call, view);
    const deps = { trees: builder.finish(), entries, probe: this.#probe, variables };
    const create = (set: number, kind: SetKind) => new RuleSet(roots.get(set) ?? 0, kind, deps);
    this.#deny = create(DENIES, "deny");
    this.#allow = create(ALLOWS, "allow");
    this.#demanding = create(DEMANDS, "every");
    this.#grants = create(GRANTS, "allow");
    this.#roleGrants = create(ROLE_GRANTS, "every");
    this.#audit = create(AUDITS, "audit");
    this.#dryDeny = create(DRY_DENIES, "deny");
    this.#dryAllow = create(DRY_ALLOWS, "allow");
    for (const source of program.policies) {
      if (isEnforcedAllow(source)) this.#selected.add(source.ports);
      if (isDryAllow(source)) this.#drySelected.add(source.ports);
      this.#collectResourceUse(source);
    }
  }

  decide(call: Call): Decision {
    const refused = this.#admit(call);
    if (refused !== undefined) return refused;
    const has = this.#has;
    const effective =
      (has & ROLE_GRANTS) === 0 || call.user === undefined ? call : this.#withGrantedRoles(call, call.user);
    const view = this.#exactView(effective);
    let decision = this.#enforced(effective, view);
    if ((has & AUDITS) !== 0) decision = this.#audited(decision, effective, view);
    if ((has & (DRY_DENIES | DRY_ALLOWS)) !== 0) decision = this.#withDryRun(decision, effective, view);
    // Facts of a call are not kept beyond it.
    this.#view.resource = NO_RESOURCE;
    this.#view.path = "";
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
    if (via.length + 1 > this.#maxHops) return FIXED.CHAIN_TOO_DEEP;
    if (via.length > 1 && hasLoop(call)) return FIXED.CHAIN_LOOP;
    return withinScope(call.operation, call.scope) ? undefined : FIXED.SCOPE_EXCEEDED;
  }

  #enforced(call: Call, view: View): Decision {
    const has = this.#has;
    const denied = (has & DENIES) === 0 ? -1 : this.#firstDeny(this.#deny, call, view);
    if (denied >= 0) return this.#decisionOf(denied);
    const first = this.#allow.first(call, view);
    const demanding = (has & DEMANDS) === 0 ? NONE : this.#demanding.every(call, view);
    if (demanding.length === 0) {
      if (first >= 0) return new PlainAllow(this.#entries, first);
      const granted = (has & GRANTS) === 0 ? -1 : this.#grants.first(call, view);
      if (granted >= 0) return this.#decisionOf(granted);
      if (this.#selected.covers(call.port)) return FIXED.NO_MATCHING_ALLOW;
      return this.#program.defaultAction === "Allow" ? FIXED.DEFAULT_ALLOW : FIXED.DEFAULT_DENY;
    }
    const only = demanding[0];
    if (first < 0 && demanding.length === 1 && only !== undefined) return only.decision;
    return combine(this.#entries[first], demanding);
  }

  /** The decision when this rule alone decides. */
  #decisionOf(rule: number): Decision {
    const known = this.#decisions[rule];
    if (known !== undefined) return known;
    const decision = this.#entries[rule]?.decision ?? FIXED.NO_MATCHING_ALLOW;
    this.#decisions[rule] = decision;
    return decision;
  }

  /** Position of the first Deny over the exact view and the folded ones; -1: none. */
  #firstDeny(set: RuleSet, call: Call, view: View): number {
    let found = set.first(call, view);
    if (call.folded.length === 0) return found;
    for (const { operation, resource, path } of call.folded) {
      const folded: View = { operation, resource, path, folded: true };
      this.#look(call, folded);
      const other = set.first(call, folded);
      if (other >= 0 && (found < 0 || other < found)) found = other;
    }
    this.#look(call, view);
    return found;
  }

  #audited(decision: Decision, call: Call, view: View): Decision {
    let audit = decision.audit;
    for (const rule of this.#audit.every(call, view)) audit = mergeAudit(audit, rule.audit);
    return audit === decision.audit ? decision : { ...wholeOf(decision), audit };
  }

  #withDryRun(decision: Decision, call: Call, view: View): Decision {
    const other = this.#dryDecision(decision, call, view);
    if (other === undefined || other.allowed === decision.allowed) return decision;
    const { allowed, reason, policy, rule } = other;
    return { ...wholeOf(decision), would: { allowed, reason, policy, rule } };
  }

  /** The answer if dry-run policies were enforced; undefined: as it is. */
  #dryDecision(decision: Decision, call: Call, view: View): Decision | undefined {
    if (decision.reason === "DENIED_BY_POLICY") return undefined;
    const denied = this.#firstDeny(this.#dryDeny, call, view);
    if (denied >= 0) return this.#decisionOf(denied);
    const byAllow = decision.reason === "ALLOWED" || decision.reason === "GRANTED";
    if (byAllow) return undefined;
    const allowed = this.#dryAllow.first(call, view);
    if (allowed >= 0) return this.#decisionOf(allowed);
    return decision.reason === "DEFAULT_ALLOW" && this.#drySelected.covers(call.port)
      ? FIXED.NO_MATCHING_ALLOW
      : undefined;
  }

  #withGrantedRoles(call: Call, user: User): Call {
    const view = this.#exactView(call);
    const granted = this.#roleGrants.every(call, view);
    if (granted.length === 0) return call;
    const roles = new Set(user.roles);
    for (const { policy } of granted) for (const role of policy.source.roles ?? []) roles.add(role);
    return { ...call, user: { ...user, roles: [...roles] } };
  }

  /** The exact view, in the one object that is kept for it, and made the view that is looked up. */
  #exactView(call: Call): View {
    const view = this.#view;
    view.operation = call.operation;
    view.resource = call.resource;
    view.path = call.request.path;
    this.#look(call, view);
    return view;
  }

  #look(call: Call, view: View): void {
    this.#celVariables = undefined;
    this.#probe.set(call, view);
  }

  /** Variables of the call and view that are looked up. */
  #variablesOf(call: Call, view: View): CelVariables {
    this.#celVariables ??= celVariables(this.#program, call, view);
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

const NO_HEADERS: readonly IdentityHeader[] = [];

/**
 * Allowed by a rule without obligations, nearly every decision there is. It knows the rule by its position and reads the
 * rest when asked: the names of 10 000 rules are a miss of the cache each time, and who records a call asks for them once
 * per caller and operation. INVARIANT: the position is one that the program's own trees named.
 */
class PlainAllow implements Decision {
  readonly ruleIndex: number;
  readonly #entries: readonly RuleEntry[];

  constructor(entries: readonly RuleEntry[], ruleIndex: number) {
    this.#entries = entries;
    this.ruleIndex = ruleIndex;
  }

  get allowed(): boolean {
    return true;
  }

  get reason(): Reason {
    return "ALLOWED";
  }

  get policy(): string | undefined {
    return this.whole.policy;
  }

  get policyName(): string | undefined {
    return this.whole.policyName;
  }

  get rule(): string | undefined {
    return this.whole.rule;
  }

  get winners(): readonly WinningRule[] {
    return this.whole.winners;
  }

  get audit(): undefined {
    return undefined;
  }

  get identityHeaders(): readonly IdentityHeader[] {
    return NO_HEADERS;
  }

  get would(): undefined {
    return undefined;
  }

  /** The same as a value of its own. */
  get whole(): Decision {
    return this.#entries[this.ruleIndex]?.decision ?? FIXED.NO_MATCHING_ALLOW;
  }
}

/** For a copy with a change: getters are not copied. */
const wholeOf = (decision: Decision): Decision =>
  decision instanceof PlainAllow ? decision.whole : decision;

const hasResourceKey = (demands: Obligations | undefined): boolean =>
  demands?.rateLimit?.key.includes("resource") === true ||
  demands?.tokenLimit?.key.includes("resource") === true;

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
