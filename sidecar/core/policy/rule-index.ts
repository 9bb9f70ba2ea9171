// Discrimination tree over rules: each node asks the attribute of a call that splits its rules best, so a decision
// visits the few rules that could match, however many there are. INVARIANT: a rule is skipped only when a field of it
// is *false* for the call, never when it could be an error, because an error stops its policy (DOMAIN 3.3).
import { foldCase } from "../http/path.ts";
import type { Call } from "./call.ts";
import { foldPath, type View } from "./match.ts";
import {
  ACCOUNT,
  ATTRIBUTES,
  type IndexEntry,
  KIND,
  NAME,
  NAMESPACE,
  OP,
  PATH,
  RESOURCE,
  ROLE,
  SPIFFE_ID,
  TRUST_DOMAIN,
  USER_ID,
} from "./rule-keys.ts";
import type { Probe, Symbols } from "./symbols.ts";

/** In the place of an attribute: a node without children. */
const LEAF = ATTRIBUTES;
const LEAF_SIZE = 2;
const MAX_DEPTH = 12;
const MAX_PREFIX_LENGTHS = 8;

interface PrefixTable {
  /** Ascending. */
  readonly lengths: readonly number[];
  readonly children: ReadonlyMap<string, number>;
}

/**
 * All trees of a program in one array, behind the records of its rules (rule-record.ts). A reference is 0 (nothing),
 * `-1 - rule` (one rule) or the offset of a node, which is `[attribute, smallest rule, rest, prefix table + 1, mask,
 * …]`. With `mask >= 0` a hash table with linear probing follows, `mask + 1` pairs of symbol and reference; symbols are
 * small, so they are their own hash. With `mask < 0` the symbols are dense: `-mask` references from symbol `…` on, which
 * stands in front of them. A leaf is `[LEAF, smallest rule, count, rules…]`. The largest node of 10 000 rules takes
 * 40 KiB, so a look-up stays in the cache.
 */
export interface RuleTrees {
  readonly cells: Int32Array;
  readonly prefixTables: readonly PrefixTable[];
}

const FIRST_RULE = 1;
const REST = 2;
const PREFIXES = 3;
const MASK = 4;
const SLOTS = 5;
const COUNT = 2;
const RULES = 3;

export class TreeBuilder {
  readonly #cells: number[];
  readonly #prefixTables: PrefixTable[] = [];
  readonly #symbols: Symbols;
  /** Scratch of `#expectedVisits`: how many entries name a symbol. */
  #sizes = new Int32Array(0);

  /** @param records what lies in front of the trees; not empty. */
  constructor(symbols: Symbols, records: number[]) {
    this.#symbols = symbols;
    this.#cells = records;
  }

  /** Adds a tree of entries, which must be sorted by rule, and returns the reference of its root. */
  add(entries: readonly IndexEntry[]): number {
    if (this.#sizes.length < this.#symbols.size) this.#sizes = new Int32Array(this.#symbols.size);
    return this.#node(entries, 0, 0);
  }

  finish(): RuleTrees {
    return { cells: Int32Array.from(this.#cells), prefixTables: this.#prefixTables };
  }

  /** @param asked bits of the attributes that nodes above have asked: they would not split further. */
  #node(entries: readonly IndexEntry[], asked: number, depth: number): number {
    const [first] = entries;
    if (first === undefined) return 0;
    if (entries.length === 1) return -1 - first.rule;
    const attribute = entries.length <= LEAF_SIZE || depth >= MAX_DEPTH ? LEAF : this.#best(entries, asked);
    if (attribute === LEAF) return this.#leaf(entries);
    const exact = new Map<number, IndexEntry[]>();
    const prefixes = new Map<string, IndexEntry[]>();
    const rest: IndexEntry[] = [];
    for (const entry of entries) {
      const keys = entry.keys[attribute];
      if (keys === undefined) rest.push(entry);
      else if (typeof keys === "number") push(exact, keys, entry);
      else {
        for (const key of keys.exact) push(exact, key, entry);
        for (const prefix of keys.prefixes) push(prefixes, prefix, entry);
      }
    }
    const cells = this.#cells;
    const node = cells.length;
    const below = asked | (1 << attribute);
    cells.push(attribute, first.rule, 0, 0, 0);
    const places = this.#reserve(node, exact);
    for (const [key, group] of exact) cells[places(key)] = this.#node(group, below, depth + 1);
    if (prefixes.size > 0) {
      const children = new Map(
        [...prefixes].map(([key, group]) => [key, this.#node(group, below, depth + 1)]),
      );
      const lengths = [...new Set([...prefixes.keys()].map((prefix) => prefix.length))].sort((a, b) => a - b);
      cells[node + PREFIXES] = this.#prefixTables.push({ lengths, children });
    }
    cells[node + REST] = this.#node(rest, below, depth + 1);
    return node;
  }

  /** Makes room for the references of a node; the result tells where the one of a symbol lies. */
  #reserve(node: number, groups: ReadonlyMap<number, unknown>): (key: number) => number {
    const cells = this.#cells;
    let low = Number.POSITIVE_INFINITY;
    let high = 0;
    for (const key of groups.keys()) {
      if (key < low) low = key;
      if (key > high) high = key;
    }
    const range = high - low + 1;
    if (groups.size > 0 && range <= 4 * groups.size) {
      cells[node + MASK] = -range;
      cells.push(low);
      for (let i = 0; i < range; i++) cells.push(0);
      return (key) => node + SLOTS + 1 + key - low;
    }
    let capacity = 1;
    while (capacity < groups.size * 1.5) capacity *= 2;
    cells[node + MASK] = capacity - 1;
    for (let i = 0; i < capacity; i++) cells.push(0, 0);
    return (key) => {
      let slot = key & (capacity - 1);
      while (cells[node + SLOTS + 2 * slot] !== 0) slot = (slot + 1) & (capacity - 1);
      cells[node + SLOTS + 2 * slot] = key;
      return node + SLOTS + 2 * slot + 1;
    };
  }

  #leaf(entries: readonly IndexEntry[]): number {
    const rules = [...new Set(entries.map((entry) => entry.rule))];
    const [first = 0] = rules;
    if (rules.length === 1) return -1 - first;
    const node = this.#cells.length;
    this.#cells.push(LEAF, first, rules.length);
    for (const rule of rules) this.#cells.push(rule);
    return node;
  }

  #best(entries: readonly IndexEntry[], asked: number): number {
    let wanted = 0;
    for (const { asks } of entries) wanted |= asks;
    let best = LEAF;
    let least = 0.8 * entries.length;
    for (let attribute = 0; attribute < ATTRIBUTES; attribute++) {
      if ((wanted & ~asked & (1 << attribute)) === 0) continue;
      const expected = this.#expectedVisits(entries, attribute);
      if (expected >= least) continue;
      best = attribute;
      least = expected;
    }
    return best;
  }

  /** How many rules a look-up would visit on average below a node that asks this; Infinity: not worth it. */
  #expectedVisits(entries: readonly IndexEntry[], attribute: number): number {
    const sizes = this.#sizes;
    const prefixSizes = new Map<string, number>();
    const lengths = new Set<number>();
    let rest = 0;
    let copies = 0;
    let squares = 0;
    // The sum of squares grows by 2n + 1 when a group grows from n to n + 1.
    for (const { keys } of entries) {
      const value = keys[attribute];
      if (value === undefined) {
        rest += 1;
        continue;
      }
      if (typeof value === "number") {
        const size = sizes[value] ?? 0;
        squares += 2 * size + 1;
        sizes[value] = size + 1;
        copies += 1;
        continue;
      }
      for (const key of value.exact) {
        const size = sizes[key] ?? 0;
        squares += 2 * size + 1;
        sizes[key] = size + 1;
      }
      for (const prefix of value.prefixes) {
        lengths.add(prefix.length);
        const size = prefixSizes.get(prefix) ?? 0;
        squares += 2 * size + 1;
        prefixSizes.set(prefix, size + 1);
      }
      copies += value.exact.length + value.prefixes.length;
    }
    if (copies === 0) return Number.POSITIVE_INFINITY;
    for (const { keys } of entries) {
      const value = keys[attribute];
      if (typeof value === "number") sizes[value] = 0;
      else if (value !== undefined) for (const key of value.exact) sizes[key] = 0;
    }
    if (lengths.size > MAX_PREFIX_LENGTHS || copies > 4 * entries.length + 64)
      return Number.POSITIVE_INFINITY;
    return rest + squares / copies;
  }
}

function push<K>(groups: Map<K, IndexEntry[]>, key: K, entry: IndexEntry): void {
  const group = groups.get(key);
  if (group === undefined) groups.set(key, [entry]);
  else group.push(entry);
}

/** Walks a tree for one call and view. */
export abstract class IndexWalk {
  /** Subtrees and rules from this position on are left out; lower it when something was found. */
  protected limit = 0x7fffffff;
  protected abstract visit(rule: number, call: Call, view: View): void;
  protected readonly cells: Int32Array;
  protected readonly probe: Probe;
  readonly #prefixTables: readonly PrefixTable[];
  readonly #folded: boolean;

  constructor(trees: RuleTrees, probe: Probe, folded: boolean) {
    this.cells = trees.cells;
    this.#prefixTables = trees.prefixTables;
    this.probe = probe;
    this.#folded = folded;
  }

  protected walk(node: number, call: Call, view: View): void {
    if (node <= 0) {
      if (node !== 0 && -1 - node < this.limit) this.visit(-1 - node, call, view);
      return;
    }
    const cells = this.cells;
    if ((cells[node + FIRST_RULE] ?? 0) >= this.limit) return;
    const { keys } = this.probe;
    switch (cells[node]) {
      case LEAF:
        this.#leaf(node, call, view);
        return;
      case OP:
        if (this.probe.undetermined) this.#every(node, call, view);
        else if (this.probe.opChain.length === 0) this.#one(node, this.probe.op, call, view);
        else this.#anyOf(node, this.probe.opChain, call, view);
        break;
      case NAME:
        this.#one(node, keys.nameId, call, view);
        this.#prefixes(node, call.caller.name, call, view);
        break;
      case NAMESPACE:
        this.#one(node, keys.namespaceId, call, view);
        this.#prefixes(node, call.caller.namespace, call, view);
        break;
      case KIND:
        this.#one(node, keys.kindId, call, view);
        break;
      case SPIFFE_ID:
        this.#one(node, keys.spiffeIdId, call, view);
        break;
      case TRUST_DOMAIN:
        this.#one(node, keys.trustDomainId, call, view);
        break;
      case ACCOUNT:
        this.#one(node, keys.accountId, call, view);
        this.#one(node, keys.scopedAccountId, call, view);
        break;
      case USER_ID:
        if (call.user !== undefined) this.#one(node, this.probe.idOf(call.user.id), call, view);
        break;
      case ROLE:
        if (call.user !== undefined) this.#anyOf(node, this.probe.roles(call), call, view);
        break;
      case RESOURCE:
        this.#resource(node, call, view);
        break;
      case PATH:
        this.#one(node, this.probe.idOf(this.#folded ? foldPath(view.path) : view.path), call, view);
        this.#prefixes(node, this.#folded ? foldCase(view.path) : view.path, call, view);
        break;
    }
    const rest = cells[node + REST] ?? 0;
    if (rest !== 0) this.walk(rest, call, view);
  }

  #leaf(node: number, call: Call, view: View): void {
    const cells = this.cells;
    const end = node + RULES + (cells[node + COUNT] ?? 0);
    for (let at = node + RULES; at < end; at++) {
      const rule = cells[at] ?? 0;
      if (rule >= this.limit) return;
      this.visit(rule, call, view);
    }
  }

  #one(node: number, key: number, call: Call, view: View): void {
    if (key === 0) return;
    const cells = this.cells;
    const mask = cells[node + MASK] ?? 0;
    if (mask < 0) {
      const place = key - (cells[node + SLOTS] ?? 0);
      if (place >= 0 && place < -mask) this.walk(cells[node + SLOTS + 1 + place] ?? 0, call, view);
      return;
    }
    // A table is never full, so the search ends.
    for (let slot = key & mask; ; slot = (slot + 1) & mask) {
      const at = node + SLOTS + 2 * slot;
      const found = cells[at];
      if (found === key) {
        this.walk(cells[at + 1] ?? 0, call, view);
        return;
      }
      if (found === 0 || found === undefined) return;
    }
  }

  #prefixes(node: number, value: string, call: Call, view: View): void {
    const number = this.cells[node + PREFIXES] ?? 0;
    if (number === 0) return;
    const table = this.#prefixTables[number - 1];
    if (table === undefined) return;
    for (const length of table.lengths) {
      if (length > value.length) return;
      const child = table.children.get(value.slice(0, length));
      if (child !== undefined) this.walk(child, call, view);
    }
  }

  #resource(node: number, call: Call, view: View): void {
    const { operation, resource } = view;
    if (resource.kind === "unknown" || operation.kind === "undetermined") this.#every(node, call, view);
    else if (resource.kind === "known") {
      const value = this.#folded ? foldCase(resource.value) : resource.value;
      this.#one(node, this.probe.idOf(value), call, view);
      this.#prefixes(node, value, call, view);
    }
  }

  #anyOf(node: number, keys: readonly number[], call: Call, view: View): void {
    for (const key of keys) this.#one(node, key, call, view);
  }

  #every(node: number, call: Call, view: View): void {
    const cells = this.cells;
    const mask = cells[node + MASK] ?? 0;
    const step = mask < 0 ? 1 : 2;
    const end = node + SLOTS + (mask < 0 ? 1 - mask : 2 * (mask + 1));
    for (let at = node + SLOTS + 1; at < end; at += step) this.walk(cells[at] ?? 0, call, view);
    const table = this.#prefixTables[(cells[node + PREFIXES] ?? 0) - 1];
    if (table !== undefined) for (const child of table.children.values()) this.walk(child, call, view);
  }
}
