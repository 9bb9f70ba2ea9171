// What servers that ignore case, a trailing slash or a content type may take a request for. Deny rules look at these
// views too (DOMAIN 1.5), so that another spelling does not get around them.
import { foldCase, type NormalPath, withoutTrailingSlash } from "../http/path.ts";
import type { Result } from "../runtime/errors.ts";
import type { Call, Operation, Resource } from "./call.ts";
import { NO_VIEWS, NONE, unknownOf } from "./classified.ts";
import { findFolded, type Tries } from "./pack-tries.ts";
import type { Leaf, TemplateTrie } from "./template-trie.ts";

type View = Call["folded"][number];

/** The exact view, as the folded ones are compared with it. */
interface Exact {
  readonly operation: Operation;
  readonly resource: Resource;
  readonly leaf: Leaf | undefined;
}

/** The resource that a path or query names below a template. */
type ResourceOf = (
  leaf: Leaf,
  segments: readonly string[],
  query: string | undefined,
) => Result<Resource, string>;

/** Finds the folded views of requests to one port. */
export class FoldedViews {
  readonly #tries: Tries;
  readonly #resource: ResourceOf;
  /** Modes with a template that folding changes; elsewhere a path that it leaves alone needs no folded look-up. */
  readonly #foldable: ReadonlySet<string>;

  constructor(tries: Tries, resource: ResourceOf) {
    this.#tries = tries;
    this.#resource = resource;
    this.#foldable = new Set(
      [...tries].flatMap(([mode, each]) => (each.some((trie) => trie.foldable) ? [mode] : [])),
    );
  }

  /** The folded views of a request for Deny rules, and what a server would see that ignores gRPC content types or upgrades. */
  of(mode: string, path: NormalPath, exact: Exact, query: string | undefined): Call["folded"] {
    const foldedPath = foldCase(withoutTrailingSlash(path.path));
    const views: View[] = [];
    const own = this.#tries.get(mode);
    if (foldedPath !== path.path) this.#spelled(views, own, path, exact, query);
    else if (this.#foldable.has(mode)) {
      for (const leaf of findFolded(own, path.segments)) {
        if (leaf === exact.leaf) continue;
        views.push({
          operation: leaf.operation,
          resource: orUnknown(this.#resource(leaf, path.segments, query), leaf),
          path: foldedPath,
        });
      }
    }
    const other = mode === "GRPC" ? "POST" : mode === "POST" ? "GRPC" : mode === "WS" ? "GET" : undefined;
    const others = other === undefined ? undefined : this.#tries.get(other);
    if (others !== undefined) {
      for (const leaf of findFolded(others, withoutLastEmpty(path.segments).map(foldCase))) {
        for (const text of pathSpellings(path.path))
          views.push({ operation: leaf.operation, resource: orUnknown(undefined, leaf), path: text });
      }
    }
    return views.length === 0 ? NO_VIEWS : views;
  }

  /** The views of a path that folding changes: each spelling of the path, with the resource in that spelling. */
  #spelled(
    views: View[],
    tries: readonly TemplateTrie[] | undefined,
    path: NormalPath,
    exact: Exact,
    query: string | undefined,
  ): void {
    const here: View = { operation: exact.operation, resource: exact.resource, path: path.path };
    const offer = (operation: Operation, resource: Resource, text: string): void => {
      const view = { operation, resource, path: text };
      if (!sameView(view, here) && !views.some((each) => sameView(each, view))) views.push(view);
    };
    const kept = withoutLastEmpty(path.segments);
    const folded = kept.map(foldCase);
    const leaves = findFolded(tries, folded);
    const [keptPath, ...foldedPaths] = pathSpellings(path.path);
    for (const leaf of leaves) {
      offer(leaf.operation, orUnknown(this.#resource(leaf, kept, query), leaf), keptPath);
      const resource = orUnknown(this.#resource(leaf, folded, query), leaf);
      for (const text of foldedPaths) offer(leaf.operation, resource, text);
    }
    if (leaves.length === 0)
      for (const text of [keptPath, ...foldedPaths]) offer(exact.operation, exact.resource, text);
  }
}

/** Without trailing slash; that, folded; only folded. */
function pathSpellings(path: string): [string, string, string] {
  const kept = withoutTrailingSlash(path);
  return [kept, foldCase(kept), foldCase(path)];
}

function withoutLastEmpty(segments: readonly string[]): readonly string[] {
  return segments.length > 1 && segments[segments.length - 1] === "" ? segments.slice(0, -1) : segments;
}

function orUnknown(resource: Result<Resource, string> | undefined, leaf: Leaf): Resource {
  return resource?.ok === true ? resource.value : (unknownOf(leaf.row.resource) ?? NONE);
}

function sameView(a: Call["folded"][number], b: Call["folded"][number]): boolean {
  if (a.operation !== b.operation || a.path !== b.path || a.resource.kind !== b.resource.kind) return false;
  if (a.resource.kind === "none" || b.resource.kind === "none") return true;
  if (a.resource.type !== b.resource.type) return false;
  return (
    a.resource.kind === "unknown" || b.resource.kind === "unknown" || a.resource.value === b.resource.value
  );
}
