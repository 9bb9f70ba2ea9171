// The rules of one program as a decision meets them: a record of integers each, side by side in one array, and an object
// with everything else, which is looked at only when the record does not settle the matter.
import { MeshError, type Result } from "../runtime/errors.ts";
import type { Call } from "./call.ts";
import { type Decision, FIXED, type WinningRule } from "./decision.ts";
import { type CompiledRule, compileRule, ERROR, FALSE, type MatchContext, TRUE, type Tri } from "./match.ts";
import type { AuditSetting, PolicyRule, ProgramPolicy } from "./rule.ts";
import type { Probe, Symbols } from "./symbols.ts";

/** A rule in its program. What follows from it is made at first use: most rules of a large program are never met. */
export class RuleEntry {
  readonly policy: PolicyEntry;
  readonly rule: PolicyRule;
  readonly index: number;
  readonly #context: MatchContext;
  #match: CompiledRule | undefined;
  #winner: WinningRule | undefined;
  #decision: Decision | undefined;

  constructor(policy: PolicyEntry, rule: PolicyRule, index: number, context: MatchContext) {
    this.policy = policy;
    this.rule = rule;
    this.index = index;
    this.#context = context;
  }

  get audit(): AuditSetting | undefined {
    return this.rule.with?.audit;
  }

  /** Compiles the rule now and says what is wrong with it; for rules whose `when` may not be usable here. */
  compile(): Result<CompiledRule, string> {
    const compiled = compileRule(this.rule, this.policy.source.action, this.#context);
    if (compiled.ok) this.#match = compiled.value;
    return compiled;
  }

  get match(): CompiledRule {
    if (this.#match !== undefined) return this.#match;
    const compiled = this.compile();
    // Only `when` can fail, and `createProgram` has compiled the rules that have one.
    if (!compiled.ok) throw new MeshError("bad_object", compiled.error);
    return compiled.value;
  }

  get winner(): WinningRule {
    const { source } = this.policy;
    this.#winner ??= {
      policy: source.id,
      policyName: source.name,
      rule: this.rule.name,
      ruleIndex: this.index,
      with: this.rule.with,
    };
    return this.#winner;
  }

  /** The decision when this rule alone decides. */
  get decision(): Decision {
    this.#decision ??= this.#decide();
    return this.#decision;
  }

  #decide(): Decision {
    const { source } = this.policy;
    const { name, with: demands } = this.rule;
    const allowed = source.action === "Allow";
    return {
      allowed,
      reason: allowed ? (source.source === "grant" ? "GRANTED" : "ALLOWED") : "DENIED_BY_POLICY",
      policy: source.id,
      policyName: source.name,
      rule: name,
      ruleIndex: this.index,
      winners: allowed ? [this.winner] : [],
      audit: demands?.audit,
      identityHeaders: demands?.identity?.forward ?? [],
      would: undefined,
    };
  }
}

export interface PolicyEntry {
  readonly source: ProgramPolicy;
  readonly rules: RuleEntry[];
}

/** Flags of a record. QUICK: the record holds all of `from ∧ operations ∧ when`. */
export const QUICK = 1;
/** Foreign callers may match. */
const FOREIGN = 2;
export const HAS_PORTS = 4;
export const HAS_UNLESS = 8;
/** Its policy has no other rule. */
export const ALONE = 16;
/** The record names a SPIFFE ID or a service account. */
const NAMES_IDENTITY = 32;

/** Integers per record: 32 bytes, so that a record lies in one line of the cache. */
const WIDTH = 8;
const R_NAME = 1;
const R_NAMESPACE = 2;
const R_KIND = 3;
const R_ROLE = 4;
const R_OP = 5;
const R_SPIFFE_ID = 6;
const R_ACCOUNT = 7;

/** All rules of a program by position. Records are symbols; 0: not asked for. */
export class RuleTable {
  readonly entries: readonly RuleEntry[];
  readonly #records: Int32Array;
  readonly #decisions: (Decision | undefined)[];

  constructor(entries: readonly RuleEntry[], symbols: Symbols) {
    this.entries = entries;
    this.#records = new Int32Array(entries.length * WIDTH);
    this.#decisions = new Array<Decision | undefined>(entries.length).fill(undefined);
    for (const entry of entries) this.#write(entry, symbols);
  }

  /** The decision when this rule, which has to be in the table, alone decides. */
  decisionOf(rule: number): Decision {
    const known = this.#decisions[rule];
    if (known !== undefined) return known;
    const decision = this.entries[rule]?.decision ?? FIXED.NO_MATCHING_ALLOW;
    this.#decisions[rule] = decision;
    return decision;
  }

  flagsOf(rule: number): number {
    return this.#records[rule * WIDTH] ?? 0;
  }

  /** `from ∧ operations ∧ when` of a rule with QUICK. */
  matchQuick(rule: number, flags: number, call: Call, probe: Probe): Tri {
    const records = this.#records;
    const at = rule * WIDTH;
    const { keys, operations } = probe;
    if (keys.standing !== 2 && (keys.standing === 0 || (flags & FOREIGN) === 0)) return FALSE;
    const name = records[at + R_NAME];
    if (name !== 0 && name !== keys.nameId) return FALSE;
    const namespace = records[at + R_NAMESPACE];
    if (namespace !== 0 && namespace !== keys.namespaceId) return FALSE;
    const kind = records[at + R_KIND];
    if (kind !== 0 && kind !== keys.kindId) return FALSE;
    if ((flags & NAMES_IDENTITY) !== 0) {
      const spiffeId = records[at + R_SPIFFE_ID];
      if (spiffeId !== 0 && spiffeId !== keys.spiffeIdId) return FALSE;
      const account = records[at + R_ACCOUNT];
      if (account !== 0 && account !== keys.accountId && account !== keys.scopedAccountId) return FALSE;
    }
    const role = records[at + R_ROLE] ?? 0;
    if (role !== 0 && !probe.roles(call).includes(role)) return FALSE;
    if (operations === undefined) return ERROR;
    const op = records[at + R_OP] ?? 0;
    for (const operation of operations) if (operation === op) return TRUE;
    return FALSE;
  }

  #write(entry: RuleEntry, symbols: Symbols): void {
    const { policy, rule, index } = entry;
    const { source } = policy;
    const records = this.#records;
    const at = index * WIDTH;
    let flags = 0;
    if (source.ports !== undefined) flags |= HAS_PORTS;
    if (rule.unless !== undefined) flags |= HAS_UNLESS;
    if (source.rules.length === 1) flags |= ALONE;
    const quick = quickMatch(rule);
    if (quick !== undefined) {
      const symbol = (text: string | undefined): number => (text === undefined ? 0 : symbols.intern(text));
      flags |= QUICK;
      if (source.action !== "Allow" || quick.spiffeId !== undefined) flags |= FOREIGN;
      if ((quick.spiffeId ?? quick.account) !== undefined) flags |= NAMES_IDENTITY;
      records[at + R_NAME] = symbol(quick.name);
      records[at + R_NAMESPACE] = symbol(quick.namespace);
      records[at + R_KIND] = symbol(quick.kind);
      records[at + R_ROLE] = symbol(quick.role);
      records[at + R_OP] = symbol(quick.op);
      records[at + R_SPIFFE_ID] = symbol(quick.spiffeId);
      records[at + R_ACCOUNT] = symbol(quick.account);
    }
    records[at] = flags;
  }
}

interface QuickMatch {
  readonly kind: string | undefined;
  readonly name: string | undefined;
  readonly namespace: string | undefined;
  readonly spiffeId: string | undefined;
  readonly account: string | undefined;
  readonly role: string | undefined;
  readonly op: string;
}

/** The single value of a field; `null` when the field says more than one exact value can. */
function single(values: readonly string[] | undefined): string | undefined | null {
  if (values === undefined) return undefined;
  const [value] = values;
  return values.length !== 1 || value === undefined ? null : value;
}

function singleName(values: readonly string[] | undefined): string | undefined | null {
  const value = single(values);
  return value?.endsWith("*") === true ? null : value;
}

/** The operation of a rule that says no more about operations than one name. */
function onlyOp(rule: PolicyRule): string | undefined {
  const [clause] = rule.operations ?? [];
  if (clause === undefined || rule.operations?.length !== 1) return undefined;
  const { any, op, access, resources, http, grpc, mcp } = clause;
  return any === true || (access ?? resources ?? http ?? grpc ?? mcp) !== undefined ? undefined : op;
}

/** The whole of `from ∧ operations ∧ when` as single values, which is what most rules are. */
function quickMatch(rule: PolicyRule): QuickMatch | undefined {
  const [clause] = rule.from ?? [];
  const op = onlyOp(rule);
  if (clause === undefined || rule.from?.length !== 1 || op === undefined || rule.when !== undefined)
    return undefined;
  if (clause.any === true || clause.via !== undefined) return undefined;
  const { workload, user } = clause;
  if ((workload?.trustDomains ?? user?.ids ?? user?.idps ?? user?.types) !== undefined) return undefined;
  if (user !== undefined && (user.presence !== "Required" || user.roles === undefined)) return undefined;
  const kind = single(workload?.kinds);
  const name = singleName(workload?.names);
  const namespace = singleName(workload?.namespaces);
  const spiffeId = single(workload?.spiffeIds);
  const account = single(workload?.serviceAccounts);
  const role = single(user?.roles);
  if (kind === null || name === null || namespace === null) return undefined;
  if (spiffeId === null || account === null || role === null) return undefined;
  return { kind, name, namespace, spiffeId, account, role, op };
}
