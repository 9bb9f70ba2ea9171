// A rule in its program with everything about it; looked at only when its record (rule-record.ts) leaves the matter open.
import { MeshError, type Result } from "../runtime/errors.ts";
import type { Decision, WinningRule } from "./decision.ts";
import { type CompiledRule, compileRule, type MatchContext } from "./match.ts";
import type { AuditSetting, PolicyRule, ProgramPolicy } from "./rule.ts";

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
  /** Position of its first rule in the program; the others follow. */
  readonly first: number;
  /** What the engine asks it for, as a bit. */
  readonly set: number;
}
