// Discrimination tree over rules: each node asks the attribute of a call that splits its rules best, so a decision
// visits the few rules that could match, however many there are. INVARIANT: a rule is skipped only when a field of it
// is *false* for the call, never when it could be an error, because an error stops its policy (DOMAIN 3.3).
import type { Call } from "./call.ts";
import { scopedAccountOf } from "./caller.ts";
import { foldPath, type View } from "./match.ts";
import type { FromClause, OperationClause, PolicyRule } from "./rule.ts";

const ATTRIBUTES = [
  "op",
  "name",
  "namespace",
  "account",
  "spiffeId",
  "userId",
  "role",
  "resource",
  "path",
  "kind",
  "trustDomain",
] as const;
type Attribute = (typeof ATTRIBUTES)[number];

/** Values that a rule can match an attribute with; undefined: every value. */
interface Keys {
  readonly exact: readonly string[];
  readonly prefixes: readonly string[];
}

export interface IndexEntry<R> {
  readonly item: R;
  /** Position of the rule in its program; smaller is reported first. */
  readonly rank: number;
  readonly keys: ReadonlyMap<Attribute, Keys>;
}

/** A node asks one attribute, or is a leaf when `attribute` is undefined. */
export interface IndexNode<R> {
  readonly attribute: Attribute | undefined;
  readonly minRank: number;
  readonly exact: ReadonlyMap<string, IndexNode<R>>;
  readonly prefixes: ReadonlyMap<string, IndexNode<R>>;
  /** Lengths of `prefixes`, ascending. */
  readonly lengths: readonly number[];
  /** Rules that do not ask for the attribute. */
  readonly rest: IndexNode<R> | undefined;
  /** Leaf: sorted by rank. */
  readonly items: readonly R[];
  /** The item of a leaf with one: saves a look into memory that is rarely in the cache. */
  readonly only: R | undefined;
}

/** More values than this in one field are not worth a copy of the rule each. */
const MAX_KEYS = 64;
const MAX_PREFIX_LENGTHS = 8;
const LEAF_SIZE = 2;
const MAX_DEPTH = 12;

const isPrefix = (pattern: string): boolean => pattern.endsWith("*");
const exactKeys = (values: readonly string[] | undefined): Keys | undefined =>
  values && { exact: values, prefixes: [] };
const patternKeys = (values: readonly string[] | undefined): Keys | undefined =>
  values && {
    exact: values.filter((value) => !isPrefix(value)),
    prefixes: values.filter(isPrefix).map((value) => value.slice(0, -1)),
  };
const pathKeys = (values: readonly string[] | undefined): Keys | undefined =>
  values && {
    exact: values.filter((value) => !value.endsWith("/**")),
    prefixes: values.filter((value) => value.endsWith("/**")).map((value) => value.slice(0, -2)),
  };

/** Values of all alternatives together; undefined as soon as one of them takes every value. */
function union(
  clauses: readonly OperationClause[] | undefined,
  of: (clause: OperationClause) => Keys | undefined,
): Keys | undefined {
  if (clauses === undefined) return undefined;
  const exact: string[] = [];
  const prefixes: string[] = [];
  for (const clause of clauses) {
    const keys = clause.any === true ? undefined : of(clause);
    if (keys === undefined) return undefined;
    exact.push(...keys.exact);
    prefixes.push(...keys.prefixes);
  }
  return { exact, prefixes };
}

function fold(keys: Keys | undefined, exact: (text: string) => string): Keys | undefined {
  if (keys === undefined) return undefined;
  return { exact: keys.exact.map(exact), prefixes: keys.prefixes.map((prefix) => prefix.toLowerCase()) };
}

const lower = (text: string): string => text.toLowerCase();

/** Index entries of one rule: one per clause of `from`, so that each keeps its own constraints. */
export function entriesOf<R>(rule: PolicyRule, item: R, rank: number, folded: boolean): IndexEntry<R>[] {
  const common: [Attribute, Keys | undefined][] = [
    ["op", union(rule.operations, (clause) => exactKeys((clause.op && [clause.op]) || undefined))],
  ];
  const resources = union(rule.operations, (clause) => patternKeys(clause.resources));
  const paths = union(rule.operations, (clause) => pathKeys(clause.http?.paths));
  common.push(
    ["resource", folded ? fold(resources, lower) : resources],
    ["path", folded ? fold(paths, foldPath) : paths],
  );
  const clauses: readonly (FromClause | undefined)[] = rule.from ?? [undefined];
  return clauses.map((clause) => {
    const workload = clause?.workload;
    const all: [Attribute, Keys | undefined][] = [
      ...common,
      ["name", patternKeys(workload?.names)],
      ["namespace", patternKeys(workload?.namespaces)],
      ["account", exactKeys(workload?.serviceAccounts)],
      ["spiffeId", exactKeys(workload?.spiffeIds)],
      ["kind", exactKeys(workload?.kinds)],
      ["trustDomain", exactKeys(workload?.trustDomains)],
      ["userId", exactKeys(clause?.user?.ids)],
      ["role", exactKeys(clause?.user?.roles)],
    ];
    const keys = new Map<Attribute, Keys>();
    for (const [attribute, value] of all) {
      if (value === undefined || value.exact.length + value.prefixes.length > MAX_KEYS) continue;
      if (!value.prefixes.includes(""))
        keys.set(attribute, { exact: [...new Set(value.exact)], prefixes: [...new Set(value.prefixes)] });
    }
    return { item, rank, keys };
  });
}

interface Split {
  readonly attribute: Attribute;
  readonly expected: number;
}

/** How many rules a look-up would visit on average below a node that asks `attribute`; Infinity: not worth it. */
function expectedVisits<R>(entries: readonly IndexEntry<R>[], attribute: Attribute): number {
  const sizes = new Map<string, number>();
  const lengths = new Set<number>();
  let rest = 0;
  let copies = 0;
  for (const { keys } of entries) {
    const value = keys.get(attribute);
    if (value === undefined) {
      rest += 1;
      continue;
    }
    for (const key of value.exact) sizes.set(key, (sizes.get(key) ?? 0) + 1);
    for (const prefix of value.prefixes) {
      lengths.add(prefix.length);
      sizes.set(`${prefix}*`, (sizes.get(`${prefix}*`) ?? 0) + 1);
    }
    copies += value.exact.length + value.prefixes.length;
  }
  if (sizes.size === 0 || lengths.size > MAX_PREFIX_LENGTHS || copies > 4 * entries.length + 64)
    return Number.POSITIVE_INFINITY;
  let squares = 0;
  for (const size of sizes.values()) squares += size * size;
  return rest + squares / copies;
}

function bestSplit<R>(entries: readonly IndexEntry<R>[]): Split | undefined {
  let best: Split | undefined;
  for (const attribute of ATTRIBUTES) {
    const expected = expectedVisits(entries, attribute);
    if (best === undefined || expected < best.expected) best = { attribute, expected };
  }
  return best !== undefined && best.expected < 0.8 * entries.length ? best : undefined;
}

const EMPTY: ReadonlyMap<string, never> = new Map<string, never>();

function leaf<R>(entries: readonly IndexEntry<R>[]): IndexNode<R> {
  return {
    attribute: undefined,
    minRank: entries[0]?.rank ?? Number.POSITIVE_INFINITY,
    exact: EMPTY,
    prefixes: EMPTY,
    lengths: [],
    rest: undefined,
    items: entries.map((entry) => entry.item),
    only: entries.length === 1 ? entries[0]?.item : undefined,
  };
}

const push = <R>(groups: Map<string, IndexEntry<R>[]>, key: string, entry: IndexEntry<R>): void => {
  const group = groups.get(key);
  if (group === undefined) groups.set(key, [entry]);
  else group.push(entry);
};

/** Builds the tree; `entries` must be sorted by rank. */
export function buildIndex<R>(entries: readonly IndexEntry<R>[], depth = 0): IndexNode<R> {
  const split = entries.length <= LEAF_SIZE || depth >= MAX_DEPTH ? undefined : bestSplit(entries);
  if (split === undefined) return leaf(entries);
  const exact = new Map<string, IndexEntry<R>[]>();
  const prefixes = new Map<string, IndexEntry<R>[]>();
  const rest: IndexEntry<R>[] = [];
  for (const entry of entries) {
    const keys = entry.keys.get(split.attribute);
    if (keys === undefined) rest.push(entry);
    else {
      for (const key of keys.exact) push(exact, key, entry);
      for (const prefix of keys.prefixes) push(prefixes, prefix, entry);
    }
  }
  // The attribute is used up for the children: asking it again would not split them further.
  const build = (group: readonly IndexEntry<R>[]): IndexNode<R> =>
    buildIndex(
      group.map((entry) => without(entry, split.attribute)),
      depth + 1,
    );
  return {
    attribute: split.attribute,
    minRank: entries[0]?.rank ?? Number.POSITIVE_INFINITY,
    exact: new Map([...exact].map(([key, group]) => [key, build(group)])),
    prefixes: new Map([...prefixes].map(([key, group]) => [key, build(group)])),
    lengths: [...new Set([...prefixes.keys()].map((prefix) => prefix.length))].sort((a, b) => a - b),
    rest: rest.length === 0 ? undefined : build(rest),
    items: [],
    only: undefined,
  };
}

function without<R>(entry: IndexEntry<R>, attribute: Attribute): IndexEntry<R> {
  if (!entry.keys.has(attribute)) return entry;
  const keys = new Map(entry.keys);
  keys.delete(attribute);
  return { ...entry, keys };
}

/** An operation name and its ancestors at dots, from the longest. */
export function ancestorsOf(name: string): readonly string[] {
  const out = [name];
  for (let dot = name.lastIndexOf("."); dot > 0; dot = name.lastIndexOf(".", dot - 1))
    out.push(name.slice(0, dot));
  return out;
}

/** Walks a tree for one call and view. Kept and reused by its owner, so that a look-up makes no garbage. */
export abstract class IndexWalk<R extends { readonly index: number }> {
  /** Subtrees and rules from this rank on are left out; lower it when something was found. */
  protected limit = Number.POSITIVE_INFINITY;
  protected abstract visit(item: R, call: Call, view: View): void;
  readonly #ancestors = new Map<string, readonly string[]>();
  readonly #folded: boolean;

  constructor(folded: boolean) {
    this.#folded = folded;
  }

  protected walk(node: IndexNode<R>, call: Call, view: View): void {
    if (node.minRank >= this.limit) return;
    switch (node.attribute) {
      case undefined: {
        if (node.only !== undefined) {
          this.visit(node.only, call, view);
          return;
        }
        for (const item of node.items) {
          if (item.index >= this.limit) return;
          this.visit(item, call, view);
        }
        return;
      }
      case "op":
        if (view.operation.kind === "known")
          this.#anyOf(node, this.#ancestorsOf(view.operation.name), call, view);
        else if (view.operation.kind === "undetermined") this.#every(node, call, view);
        break;
      case "name":
        this.#one(node, call.caller.name, call, view);
        break;
      case "namespace":
        this.#one(node, call.caller.namespace, call, view);
        break;
      case "kind":
        this.#one(node, call.caller.kind, call, view);
        break;
      case "spiffeId":
        this.#one(node, call.caller.spiffeId, call, view);
        break;
      case "trustDomain":
        this.#one(node, call.caller.trustDomain, call, view);
        break;
      case "account":
        this.#one(node, call.caller.serviceAccount, call, view);
        this.#one(node, scopedAccountOf(call.caller), call, view);
        break;
      case "userId":
        if (call.user !== undefined) this.#one(node, call.user.id, call, view);
        break;
      case "role":
        if (call.user !== undefined) this.#anyOf(node, call.user.roles, call, view);
        break;
      case "resource":
        if (view.resource.kind === "unknown" || view.operation.kind === "undetermined")
          this.#every(node, call, view);
        else if (view.resource.kind === "known") {
          this.#one(node, this.#folded ? view.resource.value.toLowerCase() : view.resource.value, call, view);
        }
        break;
      case "path":
        this.#path(node, call, view);
        break;
    }
    if (node.rest !== undefined) this.walk(node.rest, call, view);
  }

  #one(node: IndexNode<R>, value: string, call: Call, view: View): void {
    const child = node.exact.get(value);
    if (child !== undefined) this.walk(child, call, view);
    if (node.lengths.length > 0) this.#prefixes(node, value, call, view);
  }

  #prefixes(node: IndexNode<R>, value: string, call: Call, view: View): void {
    for (const length of node.lengths) {
      if (length > value.length) return;
      const child = node.prefixes.get(value.slice(0, length));
      if (child !== undefined) this.walk(child, call, view);
    }
  }

  #path(node: IndexNode<R>, call: Call, view: View): void {
    const child = node.exact.get(this.#folded ? foldPath(view.path) : view.path);
    if (child !== undefined) this.walk(child, call, view);
    if (node.lengths.length > 0)
      this.#prefixes(node, this.#folded ? view.path.toLowerCase() : view.path, call, view);
  }

  #anyOf(node: IndexNode<R>, values: readonly string[], call: Call, view: View): void {
    for (const value of values) {
      const child = node.exact.get(value);
      if (child !== undefined) this.walk(child, call, view);
    }
  }

  #every(node: IndexNode<R>, call: Call, view: View): void {
    for (const child of node.exact.values()) this.walk(child, call, view);
    for (const child of node.prefixes.values()) this.walk(child, call, view);
  }

  /** Operation names come from packs, a bounded set; the cap is for packs that were exchanged many times. */
  #ancestorsOf(name: string): readonly string[] {
    let list = this.#ancestors.get(name);
    if (list === undefined) {
      if (this.#ancestors.size >= 4096) this.#ancestors.clear();
      list = ancestorsOf(name);
      this.#ancestors.set(name, list);
    }
    return list;
  }
}
