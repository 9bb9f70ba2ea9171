// Packs compiled for look-up: one trie of path segments per method. Every node is visited at most once per look-up, so
// the cost is bounded by the packs, never by the request.
import { foldCase } from "../http/path.ts";
import type { Operation } from "./call.ts";
import { type PackRow, type Segment, templateRank } from "./catalog.ts";

/** A template that can match, with what the classifier needs of it. */
export interface Leaf {
  readonly row: PackRow;
  readonly operation: Operation;
  /** Segment that holds the resource; -1: the resource does not come from the path. */
  readonly resourceAt: number;
  /** Length of literal text around the resource in its segment. */
  readonly prefixLength: number;
  readonly suffixLength: number;
  /** First segment of the tail; -1: none. */
  readonly tailAt: number;
  /** The tail may carry `%25`, `%23`, `%3B`. */
  readonly loose: boolean;
  readonly rank: number;
}

interface MixedEdge {
  readonly prefix: string;
  readonly suffix: string;
  readonly node: Node;
}

interface Node {
  readonly literals: Map<string, Node>;
  readonly mixed: MixedEdge[];
  param: Node | undefined;
  readonly ends: Leaf[];
  readonly tails: Leaf[];
}

const createNode = (): Node => ({ literals: new Map(), mixed: [], param: undefined, ends: [], tails: [] });

function createLeaf(row: PackRow, segments: readonly Segment[]): Leaf {
  const source = row.resource?.source;
  // The last variable of that name: the row's own, not one of a prefix before it.
  const resourceAt =
    source?.kind === "path"
      ? segments.findLastIndex((each) => each.kind !== "literal" && each.name === source.name)
      : -1;
  const holder = segments[resourceAt];
  const last = segments[segments.length - 1];
  const tail = last?.kind === "tail" ? last : undefined;
  return {
    row,
    operation: { kind: "known", name: row.operation, access: row.access, template: row.template },
    resourceAt,
    prefixLength: holder?.kind === "param" ? holder.prefix.length : 0,
    suffixLength: holder?.kind === "param" ? holder.suffix.length : 0,
    tailAt: tail === undefined ? -1 : segments.length - 1,
    loose: tail?.loose ?? false,
    rank: templateRank(segments),
  };
}

/** The templates of one pack and method, once exact and once folded (case, one trailing slash) for Deny rules. */
export class TemplateTrie {
  readonly #exact = createNode();
  readonly #folded = createNode();
  #best: Leaf[] = [];
  #foldable = false;

  /** True when folding changes a template, so that a path which it leaves alone can still match only folded. */
  get foldable(): boolean {
    return this.#foldable;
  }

  add(row: PackRow, segments: readonly Segment[]): void {
    const leaf = createLeaf(row, segments);
    insert(this.#exact, segments, leaf);
    const last = segments[segments.length - 1];
    const slash = segments.length > 1 && last?.kind === "literal" && last.text === "";
    const folded = (slash ? segments.slice(0, -1) : segments).map(foldSegment);
    this.#foldable ||= slash || folded.some((each, at) => !sameText(each, segments[at]));
    insert(this.#folded, folded, leaf);
  }

  /** The most specific template; ties were excluded when the pack was parsed. */
  find(segments: readonly string[]): Leaf | undefined {
    this.#best = [];
    this.#search(this.#exact, segments, 0);
    return this.#best[0];
  }

  /** The most specific templates in the folded view; more than one where templates differ only by what is folded. */
  findFolded(foldedSegments: readonly string[]): readonly Leaf[] {
    this.#best = [];
    this.#search(this.#folded, foldedSegments, 0);
    return this.#best;
  }

  #offer(leaves: readonly Leaf[]): void {
    for (const leaf of leaves) {
      const rank = this.#best[0]?.rank ?? -1;
      if (leaf.rank > rank) this.#best = [leaf];
      else if (leaf.rank === rank) this.#best.push(leaf);
    }
  }

  #search(node: Node, segments: readonly string[], at: number): void {
    const segment = segments[at];
    if (segment === undefined) {
      if (node.ends.length > 0) this.#offer(node.ends);
      return;
    }
    const literal = node.literals.get(segment);
    if (literal !== undefined) this.#search(literal, segments, at + 1);
    if (segment === "") return;
    for (const edge of node.mixed) {
      const fits =
        segment.length > edge.prefix.length + edge.suffix.length &&
        segment.startsWith(edge.prefix) &&
        segment.endsWith(edge.suffix);
      if (fits) this.#search(edge.node, segments, at + 1);
    }
    if (node.param !== undefined) this.#search(node.param, segments, at + 1);
    if (node.tails.length > 0 && segments[segments.length - 1] !== "") this.#offer(node.tails);
  }
}

function sameText(a: Segment, b: Segment | undefined): boolean {
  if (a.kind === "literal") return b?.kind === "literal" && a.text === b.text;
  return a.kind === "tail" || (b?.kind === "param" && a.prefix === b.prefix && a.suffix === b.suffix);
}

function foldSegment(segment: Segment): Segment {
  if (segment.kind === "literal") return { kind: "literal", text: foldCase(segment.text) };
  if (segment.kind === "tail") return segment;
  return { ...segment, prefix: foldCase(segment.prefix), suffix: foldCase(segment.suffix) };
}

function insert(root: Node, segments: readonly Segment[], leaf: Leaf): void {
  let node = root;
  for (const segment of segments) {
    if (segment.kind === "tail") {
      node.tails.push(leaf);
      return;
    }
    node = childOf(node, segment);
  }
  node.ends.push(leaf);
}

function childOf(node: Node, segment: Exclude<Segment, { kind: "tail" }>): Node {
  if (segment.kind === "literal") {
    const known = node.literals.get(segment.text);
    if (known !== undefined) return known;
    const child = createNode();
    node.literals.set(segment.text, child);
    return child;
  }
  const { prefix, suffix } = segment;
  if (prefix === "" && suffix === "") {
    node.param ??= createNode();
    return node.param;
  }
  const edge = node.mixed.find((each) => each.prefix === prefix && each.suffix === suffix);
  if (edge !== undefined) return edge.node;
  const child = createNode();
  node.mixed.push({ prefix, suffix, node: child });
  return child;
}
