// The templates of a port's packs, for look-ups by mode and path: the first pack that has the path decides.
import type { Operation } from "./call.ts";
import type { Pack, Segment } from "./catalog.ts";
import { type Leaf, TemplateTrie } from "./template-trie.ts";

/** Tries by mode (HTTP method, `WS`, `GRPC`), in the order of the port's packs. */
export type Tries = ReadonlyMap<string, readonly TemplateTrie[]>;

/** @param prefix may stand before every path, beside the prefixes that packs define themselves. */
export function buildTries(packs: readonly Pack[], prefix: readonly Segment[] | undefined): Tries {
  const tries = new Map<string, TemplateTrie[]>();
  for (const pack of packs) {
    const own = new Map<string, TemplateTrie>();
    for (const row of pack.rows) {
      if (row.method === "MCP") continue;
      let trie = own.get(row.method);
      if (trie === undefined) {
        trie = new TemplateTrie();
        own.set(row.method, trie);
      }
      trie.add(row, row.segments);
      if (pack.prefix !== undefined) trie.add(row, [...pack.prefix, ...row.segments]);
      if (prefix !== undefined) trie.add(row, [...prefix, ...row.segments]);
    }
    for (const [method, trie] of own) tries.set(method, [...(tries.get(method) ?? []), trie]);
  }
  return tries;
}

/** Rows of the first MCP pack by JSON-RPC method; undefined: the port has none. */
export function mcpOperations(packs: readonly Pack[]): ReadonlyMap<string, Leaf> | undefined {
  const leaves = new Map<string, Leaf>();
  for (const row of packs.flatMap((pack) => pack.rows)) {
    if (row.method !== "MCP" || leaves.has(row.template)) continue;
    const operation: Operation = {
      kind: "known",
      name: row.operation,
      access: row.access,
      template: row.template,
    };
    leaves.set(row.template, {
      row,
      operation,
      resourceAt: -1,
      prefixLength: 0,
      suffixLength: 0,
      tailAt: -1,
      loose: false,
      rank: 0,
    });
  }
  return leaves.size === 0 ? undefined : leaves;
}

/** The template of the first pack that has these segments. */
export function find(
  tries: readonly TemplateTrie[] | undefined,
  segments: readonly string[],
): Leaf | undefined {
  if (tries === undefined) return undefined;
  for (const trie of tries) {
    const leaf = trie.find(segments);
    if (leaf !== undefined) return leaf;
  }
  return undefined;
}

/** Every template of the first pack that has these folded segments; they may differ in case only. */
export function findFolded(
  tries: readonly TemplateTrie[] | undefined,
  segments: readonly string[],
): readonly Leaf[] {
  for (const trie of tries ?? []) {
    const leaves = trie.findFolded(segments);
    if (leaves.length > 0) return leaves;
  }
  return [];
}

/** The resource that the path names where the template says so. */
export function pathResource(leaf: Leaf, segments: readonly string[]): string {
  if (leaf.resourceAt === leaf.tailAt) return segments.slice(leaf.tailAt).join("/");
  const segment = segments[leaf.resourceAt] ?? "";
  return segment.slice(leaf.prefixLength, segment.length - leaf.suffixLength);
}
