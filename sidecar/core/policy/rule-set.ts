// The rules of one kind: their tree, and what a look-up in it answers.
import type { Call } from "./call.ts";
import { FALSE, isExempt, matchRule, TRUE, type VariablesOf, type View } from "./match.ts";
import type { PolicyEntry, RuleEntry } from "./rule-entry.ts";
import { IndexWalk, type RuleTrees } from "./rule-index.ts";
import { ALONE, flagsOf, HAS_PORTS, HAS_UNLESS, matchRecord, QUICK } from "./rule-record.ts";
import type { Probe } from "./symbols.ts";

/**
 * `deny` and `allow` find the first deciding rule; `every` lists the deciding rule of each policy, and
 * `audit` the rules before it that err as well: what cannot be told is recorded rather than missed.
 */
export type SetKind = "deny" | "allow" | "every" | "audit";

/** What all sets of a program share. */
export interface SetDeps {
  readonly trees: RuleTrees;
  /** All rules of the program by position. */
  readonly entries: readonly RuleEntry[];
  /** The owner sets it to the call and view before each look-up. */
  readonly probe: Probe;
  readonly variables: VariablesOf;
}

export class RuleSet extends IndexWalk {
  #found = -1;
  readonly #root: number;
  readonly #kind: SetKind;
  readonly #entries: readonly RuleEntry[];
  readonly #variables: VariablesOf;
  readonly #all: RuleEntry[] = [];

  constructor(root: number, kind: SetKind, deps: SetDeps) {
    super(deps.trees, deps.probe, kind === "deny");
    this.#root = root;
    this.#kind = kind;
    this.#entries = deps.entries;
    this.#variables = deps.variables;
  }

  /** Position of the first deciding rule; -1: none. */
  first(call: Call, view: View): number {
    this.limit = 0x7fffffff;
    this.#found = -1;
    this.walk(this.#root, call, view);
    return this.#found;
  }

  /** The deciding rule of every policy, in reported order. The list is valid until the next call. */
  every(call: Call, view: View): readonly RuleEntry[] {
    this.#all.length = 0;
    this.walk(this.#root, call, view);
    if (this.#all.length > 1) this.#all.sort((a, b) => a.index - b.index);
    return this.#all;
  }

  protected visit(rule: number, call: Call, view: View): void {
    const { cells } = this;
    const flags = flagsOf(cells, rule);
    if ((flags & QUICK) !== 0) {
      const value = matchRecord(cells, rule, call, this.probe);
      if (value === FALSE) return;
      // Nothing else to ask: the object of the rule stays untouched, which saves a miss of the cache.
      if (this.#kind === "allow" && value === TRUE && (flags & (ALONE | HAS_PORTS)) === ALONE) {
        this.#found = rule;
        this.limit = rule;
        return;
      }
    }
    const entry = this.#entries[rule];
    if (entry !== undefined) this.#visitEntry(entry, flags, call, view);
  }

  #visitEntry(entry: RuleEntry, flags: number, call: Call, view: View): void {
    const { policy, index } = entry;
    if ((flags & HAS_PORTS) !== 0 && policy.source.ports?.includes(call.port) !== true) return;
    const value =
      (flags & QUICK) !== 0
        ? matchRecord(this.cells, index, call, this.probe)
        : matchRule(entry.match, call, view, this.#variables);
    if (value === FALSE) return;
    if (this.#kind === "deny") {
      if ((flags & HAS_UNLESS) !== 0 && isExempt(entry.match, call)) return;
      this.#found = index;
      this.limit = index;
      return;
    }
    if (this.#kind === "audit") {
      this.#addAudits(policy, call, view);
      return;
    }
    const winner =
      (flags & ALONE) === 0 ? this.#firstOf(policy, call, view) : value === TRUE ? entry : undefined;
    if (winner === undefined) return;
    if (this.#kind === "every") {
      if (!this.#all.includes(winner)) this.#all.push(winner);
    } else if (winner.index < this.limit) {
      this.#found = winner.index;
      this.limit = winner.index;
    }
  }

  #addAudits(policy: PolicyEntry, call: Call, view: View): void {
    const end = policy.first + policy.source.rules.length;
    for (let i = policy.first; i < end; i++) {
      const rule = this.#entries[i];
      if (rule === undefined) return;
      const value = matchRule(rule.match, call, view, this.#variables);
      if (value !== FALSE && !this.#all.includes(rule)) this.#all.push(rule);
      if (value === TRUE) return;
    }
  }

  /** The first rule of a policy that is not false, if it is true: an erring rule stops its policy. */
  #firstOf(policy: PolicyEntry, call: Call, view: View): RuleEntry | undefined {
    const end = policy.first + policy.source.rules.length;
    for (let i = policy.first; i < end; i++) {
      const rule = this.#entries[i];
      if (rule === undefined) return undefined;
      const value = matchRule(rule.match, call, view, this.#variables);
      if (value === TRUE) return rule;
      if (value !== FALSE) return undefined;
    }
    return undefined;
  }
}
