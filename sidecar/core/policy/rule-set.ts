// The rules of one kind in one tree, with its look-up.
import type { Call } from "./call.ts";
import { FALSE, isExempt, matchRule, TRUE, type VariablesOf, type View } from "./match.ts";
import { buildTree, entriesOf, type IndexEntry, IndexWalk, type RuleTree } from "./rule-index.ts";
import {
  ALONE,
  HAS_PORTS,
  HAS_UNLESS,
  type PolicyEntry,
  QUICK,
  type RuleEntry,
  type RuleTable,
} from "./rule-table.ts";
import type { Probe, Symbols } from "./symbols.ts";

/** `deny` and `allow` find the first deciding rule; `every` lists the deciding rule of each policy. */
export type SetKind = "deny" | "allow" | "every";

/** What all sets of a program share. */
export interface SetDeps {
  readonly symbols: Symbols;
  readonly table: RuleTable;
  /** The owner sets it to the call and view before each look-up. */
  readonly probe: Probe;
  readonly variables: VariablesOf;
}

function treeOf(policies: readonly PolicyEntry[], kind: SetKind, symbols: Symbols): RuleTree {
  const entries: IndexEntry[] = [];
  for (const { rules } of policies)
    for (const { rule, index } of rules) entriesOf(rule, index, kind === "deny", symbols, entries);
  return buildTree(entries, symbols);
}

export class RuleSet extends IndexWalk {
  readonly empty: boolean;
  readonly #root: number;
  readonly #kind: SetKind;
  readonly #table: RuleTable;
  readonly #probe: Probe;
  readonly #variables: VariablesOf;
  #found = -1;
  readonly #all: RuleEntry[] = [];

  constructor(policies: readonly PolicyEntry[], kind: SetKind, deps: SetDeps) {
    const tree = treeOf(policies, kind, deps.symbols);
    super(tree, deps.probe, kind === "deny");
    this.empty = tree.root === 0;
    this.#root = tree.root;
    this.#kind = kind;
    this.#table = deps.table;
    this.#probe = deps.probe;
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
    const table = this.#table;
    const flags = table.flagsOf(rule);
    if ((flags & QUICK) !== 0) {
      const value = table.matchQuick(rule, flags, call, this.#probe);
      if (value === FALSE) return;
      // Nothing else to ask: the object of the rule stays untouched, which saves a miss of the cache.
      if (this.#kind === "allow" && value === TRUE && (flags & (ALONE | HAS_PORTS)) === ALONE) {
        this.#found = rule;
        this.limit = rule;
        return;
      }
    }
    const entry = table.entries[rule];
    if (entry !== undefined) this.#visitEntry(entry, flags, call, view);
  }

  #visitEntry(entry: RuleEntry, flags: number, call: Call, view: View): void {
    const { policy, index } = entry;
    if ((flags & HAS_PORTS) !== 0 && policy.source.ports?.includes(call.port) !== true) return;
    const value =
      (flags & QUICK) !== 0
        ? this.#table.matchQuick(index, flags, call, this.#probe)
        : matchRule(entry.match, call, view, this.#variables);
    if (value === FALSE) return;
    if (this.#kind === "deny") {
      if ((flags & HAS_UNLESS) !== 0 && isExempt(entry.match, call)) return;
      this.#found = index;
      this.limit = index;
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
