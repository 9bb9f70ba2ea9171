// Says which operation a request is, on which resource: path and method against the packs of the port, then the query,
// a header, the body or a gRPC message for the resource (DOMAIN 1.4, 1.5). Decisions are made on this and nothing else.
import { foldCase, type NormalPath, normalizePath, splitTarget, withoutTrailingSlash } from "../http/path.ts";
import type { Result } from "../runtime/errors.ts";
import type { AccessClass, Call, Operation, RequestFacts, Resource } from "./call.ts";
import { type Pack, parsePrefix, type ResourceSpec, type Segment } from "./catalog.ts";
import { isIdentityEncoding, isJson, resourceText, scanJsonObject } from "./json-key.ts";
import { type BodyFacts, type HeaderLookup, readMcpMessage } from "./mcp.ts";
import { grpcStringField, isGrpcProtobuf } from "./protobuf-field.ts";
import { queryValue } from "./query-key.ts";
import { resourceOf } from "./resource-value.ts";
import { TargetCache } from "./target-cache.ts";
import { type Leaf, TemplateTrie } from "./template-trie.ts";

/** Most bytes of a body that are read to find a resource (DOMAIN M4, M5, M6). */
export const MAX_RESOURCE_BODY_BYTES = 65_536;

/** What is still to be read before the resource (for `mcp`: the operation too) is known. */
export type Pending =
  /** `from: "query"`: the query named it, and the body must not name it again. */
  | { readonly kind: "body"; readonly key: string; readonly type: string; readonly from: "body" | "query" }
  | { readonly kind: "protobuf"; readonly field: number; readonly type: string }
  | { readonly kind: "mcp" };

/** One request as policies see it. Immutable and shared: the same target gives the same object. */
export interface Classified {
  readonly operation: Operation;
  readonly resource: Resource;
  /** undefined unless the operation is known. */
  readonly access: AccessClass | undefined;
  /** Template for telemetry (low cardinality); `mcp` on an MCP endpoint; empty when no template matched. */
  readonly template: string;
  /** `method` is the one decided on: `GET` for HEAD and WebSocket, the asked one for a preflight. */
  readonly request: Omit<RequestFacts, "host">;
  readonly folded: Call["folded"];
  readonly pending: Pending | undefined;
  /** Raw query, which `withBody` compares with the body. */
  readonly query: string | undefined;
}

export interface ClassifyInput {
  readonly method: string;
  /** Path and query as received, Latin-1 characters. */
  readonly target: string;
  /** All values joined (`joinedField`), so that two content types are none that is known. */
  readonly contentType?: string | undefined;
  /** An upgrade to WebSocket (HTTP/1.1) or extended CONNECT. */
  readonly websocket?: boolean | undefined;
  /** The request has a body; then a resource of the query must not stand in the body too. */
  readonly hasBody?: boolean | undefined;
  /** `lookupField` of the request: a repeated field must come as a list. */
  readonly header: HeaderLookup;
  /** `Access-Control-Request-Method` of an OPTIONS request that also has `Origin`: a CORS preflight. */
  readonly corsMethod?: string | undefined;
}

export interface Classifier {
  /** @returns the classification, or why the request is malformed (`REQ_MALFORMED`). */
  classify(input: ClassifyInput): Result<Classified, string>;
  /**
   * Finishes a classification that is `pending`, with the buffered body (at most 64 KiB; longer: `truncated`).
   * For MCP problems `jsonRpcCodeOf` gives the JSON-RPC code.
   */
  withBody(classified: Classified, body: Buffer, facts: BodyFacts): Result<Classified, string>;
}

const NONE: Resource = { kind: "none" };
const UNKNOWN: Operation = { kind: "unknown" };
const UNDETERMINED: Operation = { kind: "undetermined" };
const MCP_UNKNOWN_RESOURCE: Resource = { kind: "unknown", type: "mcp" };
const NO_MCP = { method: undefined, name: undefined } as const;
const NO_VIEWS: Call["folded"] = [];

const CACHED_METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "WS", "GRPC"] as const;
const CACHE_GROUPS: ReadonlyMap<string, number> = new Map(CACHED_METHODS.map((method, at) => [method, at]));
const GET_GROUP = 0;
const POST_GROUP = 1;
const METHOD = /^[A-Z][A-Z0-9_-]{0,31}$/;

/** What a hit must still do: nothing (`plain`), or look at this request's headers or body. */
interface Entry {
  readonly result: Result<Classified, string>;
  readonly plain: boolean;
  readonly spec: ResourceSpec | undefined;
}

const malformed = (error: string): Result<never, string> => ({ ok: false, error });
const malformedEntry = (error: string): Entry => ({ result: malformed(error), plain: true, spec: undefined });

type View = Call["folded"][number];

/** The exact view, as the folded ones are compared with it. */
interface Exact {
  readonly operation: Operation;
  readonly resource: Resource;
  readonly leaf: Leaf | undefined;
}

/** Tries by mode (HTTP method, `WS`, `GRPC`), in the order of the port's packs. */
type Tries = ReadonlyMap<string, readonly TemplateTrie[]>;

function buildTries(packs: readonly Pack[], prefix: readonly Segment[] | undefined): Tries {
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

/** True for `application/grpc` and everything that begins with it. */
export function isGrpcContentType(contentType: string | undefined): boolean {
  if (contentType === undefined || contentType.length < 16) return false;
  // Cheap no for `application/json` before anything is allocated.
  if ((contentType.charCodeAt(12) | 0x20) !== 0x67) return false;
  return contentType.slice(0, 16).toLowerCase() === "application/grpc";
}

class PackClassifier implements Classifier {
  readonly #tries: Tries;
  readonly #mcp: ReadonlyMap<string, Leaf> | undefined;
  readonly #selfName: string;
  readonly #cache: TargetCache<Entry>;
  /** Modes with a template that folding changes; elsewhere a path that it leaves alone needs no folded look-up. */
  readonly #foldable: ReadonlySet<string>;

  constructor(packs: readonly Pack[], selfName: string, prefix: readonly Segment[] | undefined) {
    this.#tries = buildTries(packs, prefix);
    this.#mcp = mcpOperations(packs);
    this.#selfName = selfName;
    this.#foldable = new Set(
      [...this.#tries].flatMap(([mode, tries]) => (tries.some((trie) => trie.foldable) ? [mode] : [])),
    );
    this.#cache = new TargetCache(CACHED_METHODS.length);
  }

  classify(input: ClassifyInput): Result<Classified, string> {
    let mode = input.method;
    // Groups of the two frequent methods without a look-up: 15 ns less per request.
    let group: number | undefined;
    if (input.websocket === true) {
      if (mode !== "GET" && mode !== "CONNECT")
        return malformed("a websocket handshake must be GET or an extended CONNECT");
      mode = "WS";
    } else {
      switch (mode) {
        case "GET":
          group = GET_GROUP;
          break;
        case "POST":
          if (isGrpcContentType(input.contentType)) mode = "GRPC";
          else group = POST_GROUP;
          break;
        case "HEAD":
          mode = "GET";
          break;
        case "OPTIONS":
          if (input.corsMethod !== undefined) return this.#preflight(input, input.corsMethod);
          break;
        case "WS":
        case "GRPC":
          // Names of our modes, which no HTTP method may take.
          return malformed("the method is not known");
      }
    }
    const entry = this.#entry(group ?? CACHE_GROUPS.get(mode), mode, input.target);
    return entry.plain ? entry.result : this.#finish(entry, input);
  }

  #entry(group: number | undefined, mode: string, target: string): Entry {
    if (group === undefined)
      return METHOD.test(mode)
        ? this.#compute(mode, target)
        : malformedEntry("the method is not upper-case letters");
    const known = this.#cache.get(group, target);
    if (known !== undefined) return known;
    const made = this.#compute(mode, target);
    this.#cache.set(group, target, made);
    return made;
  }

  /** A preflight is decided as the request it announces; it has no body, so resources that need one stay unknown. */
  #preflight(input: ClassifyInput, corsMethod: string): Result<Classified, string> {
    if (input.target === "*") return malformed("a preflight needs a path");
    if (!METHOD.test(corsMethod) || corsMethod === "WS" || corsMethod === "GRPC")
      return malformed("the preflight asks for a method that is not upper-case letters");
    const mode = corsMethod === "HEAD" ? "GET" : corsMethod;
    const entry = this.#entry(CACHE_GROUPS.get(mode), mode, input.target);
    if (!entry.result.ok) return entry.result;
    const classified = entry.result.value;
    if (classified.pending === undefined && entry.plain) return entry.result;
    const resource: Resource =
      classified.resource.kind === "known"
        ? classified.resource
        : (unknownOf(entry.spec) ?? classified.resource);
    return { ok: true, value: { ...classified, resource, pending: undefined } };
  }

  /** Header sources, and query sources of a request with a body: what depends on more than the target. */
  #finish(entry: Entry, input: ClassifyInput): Result<Classified, string> {
    const { result, spec } = entry;
    if (!result.ok || spec === undefined) return result;
    const { source, type } = spec;
    if (source.kind === "query") {
      if (input.hasBody !== true) return result;
      return {
        ok: true,
        value: { ...result.value, pending: { kind: "body", key: source.key, type, from: "query" } },
      };
    }
    if (source.kind !== "header") return result;
    const value = input.header(source.name);
    if (value !== undefined && typeof value !== "string")
      return malformed(`header \`${source.name}\` names the resource and is sent more than once`);
    return { ok: true, value: withResource(result.value, resourceOf(type, value)) };
  }

  #compute(mode: string, target: string): Entry {
    if (target.includes("#")) return malformedEntry("target has a fragment (`#`)");
    const { path: rawPath, query } = splitTarget(target);
    const normal = normalizePath(rawPath, true);
    if (!normal.ok) return malformedEntry(normal.error);
    const path = normal.value;
    const method = mode === "WS" ? "GET" : mode === "GRPC" ? "POST" : mode;
    if (path.path === "*") {
      if (mode !== "OPTIONS") return malformedEntry("the target `*` is for OPTIONS only");
      return {
        result: { ok: true, value: unknownRequest(method, path, query, mode, NO_VIEWS) },
        plain: true,
        spec: undefined,
      };
    }
    const leaf = find(this.#tries.get(mode), path.segments);
    if (path.looseFrom >= 0 && !(leaf?.loose === true && path.looseFrom >= leaf.tailAt)) {
      return malformedEntry("path has an escaped `%`, `#` or `;` where this API has no file name");
    }
    if (leaf === undefined) {
      const mcp = this.#mcp !== undefined && (mode === "POST" || mode === "GRPC");
      const exact = {
        operation: mcp ? UNDETERMINED : UNKNOWN,
        resource: mcp ? MCP_UNKNOWN_RESOURCE : NONE,
        leaf,
      };
      const folded = this.#views(mode, path, exact, query);
      const value = mcp
        ? undeterminedMcp(path, query, folded)
        : unknownRequest(method, path, query, mode, folded);
      return { result: { ok: true, value }, plain: true, spec: undefined };
    }
    const resource = this.#resource(leaf, path.segments, query);
    if (!resource.ok) return malformedEntry(resource.error);
    const folded = this.#views(
      mode,
      path,
      { operation: leaf.operation, resource: resource.value, leaf },
      query,
    );
    const value = knownRequest(leaf, { method, path, query, resource: resource.value, mode, folded });
    const spec = leaf.row.resource;
    const plain = spec?.source.kind !== "header" && spec?.source.kind !== "query";
    return { result: { ok: true, value }, plain, spec };
  }

  #resource(leaf: Leaf, segments: readonly string[], query: string | undefined): Result<Resource, string> {
    const spec = leaf.row.resource;
    if (spec === undefined) return { ok: true, value: NONE };
    const { source, type } = spec;
    switch (source.kind) {
      case "path":
        return { ok: true, value: { kind: "known", type, value: pathResource(leaf, segments) } };
      case "self":
        return { ok: true, value: { kind: "known", type, value: this.#selfName } };
      case "query": {
        const value = queryValue(query, source.key);
        if (!value.ok) return value;
        return {
          ok: true,
          value: resourceOf(type, value.value.kind === "value" ? value.value.text : undefined),
        };
      }
      default:
        return { ok: true, value: { kind: "unknown", type } };
    }
  }

  /** The folded views for Deny rules, and what a server would see that ignores gRPC content types or upgrades. */
  #views(mode: string, path: NormalPath, exact: Exact, query: string | undefined): Call["folded"] {
    const foldedPath = foldCase(withoutTrailingSlash(path.path));
    const views: View[] = [];
    const own = this.#tries.get(mode);
    if (foldedPath !== path.path) this.#foldedViews(views, own, path, exact, query);
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
  #foldedViews(
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

  withBody(classified: Classified, body: Buffer, facts: BodyFacts): Result<Classified, string> {
    const { pending } = classified;
    if (pending === undefined) return { ok: true, value: classified };
    const bounded = body.length > MAX_RESOURCE_BODY_BYTES ? { ...facts, truncated: true } : facts;
    switch (pending.kind) {
      case "mcp":
        return this.#withMcp(classified, body, bounded);
      case "protobuf": {
        const usable = !bounded.truncated && isGrpcProtobuf(bounded.contentType);
        const text = usable ? grpcStringField(body, pending.field) : undefined;
        return { ok: true, value: withResource(classified, resourceOf(pending.type, text)) };
      }
      case "body":
        return withJson(classified, pending, body, bounded);
    }
  }

  #withMcp(classified: Classified, body: Buffer, facts: BodyFacts): Result<Classified, string> {
    const message = readMcpMessage(body, facts);
    if (!message.ok) return message;
    if (message.value.kind === "undetermined")
      return { ok: true, value: { ...classified, pending: undefined } };
    if (message.value.kind === "response") return { ok: true, value: withOutcome(classified, UNKNOWN, NONE) };
    const { method, name } = message.value;
    const leaf = this.#mcp?.get(method);
    const spec = leaf?.row.resource;
    let resource: Resource = NONE;
    if (spec?.source.kind === "self") resource = { kind: "known", type: spec.type, value: this.#selfName };
    else if (spec !== undefined) resource = resourceOf(spec.type, name);
    const outcome = withOutcome(classified, leaf?.operation ?? UNKNOWN, resource);
    // No name where the method has none; undefined where it should have one that cannot be told.
    const mcp = { method, name: name ?? (spec === undefined ? "" : undefined) };
    const request = { ...classified.request, mcp };
    return {
      ok: true,
      value: { ...outcome, access: leaf?.row.access, template: leaf?.row.template ?? "mcp", request },
    };
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

/** Rows of the first MCP pack by JSON-RPC method; undefined: the port has none. */
function mcpOperations(packs: readonly Pack[]): ReadonlyMap<string, Leaf> | undefined {
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

function find(tries: readonly TemplateTrie[] | undefined, segments: readonly string[]): Leaf | undefined {
  if (tries === undefined) return undefined;
  for (const trie of tries) {
    const leaf = trie.find(segments);
    if (leaf !== undefined) return leaf;
  }
  return undefined;
}

function findFolded(
  tries: readonly TemplateTrie[] | undefined,
  segments: readonly string[],
): readonly Leaf[] {
  for (const trie of tries ?? []) {
    const leaves = trie.findFolded(segments);
    if (leaves.length > 0) return leaves;
  }
  return [];
}

function pathResource(leaf: Leaf, segments: readonly string[]): string {
  if (leaf.resourceAt === leaf.tailAt) return segments.slice(leaf.tailAt).join("/");
  const segment = segments[leaf.resourceAt] ?? "";
  return segment.slice(leaf.prefixLength, segment.length - leaf.suffixLength);
}

function unknownOf(spec: ResourceSpec | undefined): Resource | undefined {
  return spec === undefined ? undefined : { kind: "unknown", type: spec.type };
}

function orUnknown(resource: Result<Resource, string> | undefined, leaf: Leaf): Resource {
  return resource?.ok === true ? resource.value : (unknownOf(leaf.row.resource) ?? NONE);
}

function grpcOf(mode: string | undefined, segments: readonly string[]): RequestFacts["grpc"] {
  const [service, method] = segments;
  if (mode !== "GRPC" || segments.length !== 2 || !service || !method) return undefined;
  return { service, method };
}

function unknownRequest(
  method: string,
  path: NormalPath,
  query: string | undefined,
  mode: string,
  folded: Call["folded"],
): Classified {
  const request = { method, path: path.path, grpc: grpcOf(mode, path.segments), mcp: undefined };
  return {
    operation: UNKNOWN,
    resource: NONE,
    access: undefined,
    template: "",
    request,
    folded,
    pending: undefined,
    query,
  };
}

function undeterminedMcp(path: NormalPath, query: string | undefined, folded: Call["folded"]): Classified {
  return {
    operation: UNDETERMINED,
    resource: MCP_UNKNOWN_RESOURCE,
    access: undefined,
    template: "mcp",
    request: { method: "POST", path: path.path, grpc: undefined, mcp: NO_MCP },
    folded,
    pending: { kind: "mcp" },
    query,
  };
}

interface KnownFacts {
  readonly method: string;
  readonly path: NormalPath;
  readonly query: string | undefined;
  readonly resource: Resource;
  readonly mode: string;
  readonly folded: Call["folded"];
}

function knownRequest(leaf: Leaf, facts: KnownFacts): Classified {
  const { row } = leaf;
  return {
    operation: leaf.operation,
    resource: facts.resource,
    access: row.access,
    template: row.template,
    request: {
      method: facts.method,
      path: facts.path.path,
      grpc: grpcOf(facts.mode, facts.path.segments),
      mcp: undefined,
    },
    folded: facts.folded,
    pending: pendingOf(row.resource),
    query: facts.query,
  };
}

function pendingOf(spec: ResourceSpec | undefined): Pending | undefined {
  if (spec?.source.kind === "body")
    return { kind: "body", key: spec.source.key, type: spec.type, from: "body" };
  if (spec?.source.kind === "protobuf" && !spec.source.each)
    return { kind: "protobuf", field: spec.source.field, type: spec.type };
  return undefined;
}

function withResource(classified: Classified, resource: Resource): Classified {
  return withOutcome(classified, classified.operation, resource);
}

/** Sets what was pending, also in the folded views that waited for the same body. */
function withOutcome(classified: Classified, operation: Operation, resource: Resource): Classified {
  const folded = classified.folded.map((view) =>
    view.operation === classified.operation ? { ...view, operation, resource } : view,
  );
  return {
    ...classified,
    operation,
    resource,
    folded: folded.length === 0 ? NO_VIEWS : folded,
    pending: undefined,
  };
}

function withJson(
  classified: Classified,
  pending: Extract<Pending, { kind: "body" }>,
  body: Buffer,
  facts: BodyFacts,
): Result<Classified, string> {
  const { key, type, from } = pending;
  const inQuery = queryValue(classified.query, key);
  if (!inQuery.ok) return inQuery;
  const unknown: Resource = { kind: "unknown", type };
  const keep = { ...classified, pending: undefined };
  if (body.length === 0 && !facts.truncated)
    return { ok: true, value: from === "query" ? keep : withResource(classified, unknown) };
  const readable = !facts.truncated && isIdentityEncoding(facts.contentEncoding);
  const scan = readable ? scanJsonObject(body) : undefined;
  if (scan?.kind === "duplicate")
    return malformed("json body has a key twice (also when only the case differs)");
  if (scan?.kind !== "object" || !isJson(facts.contentType))
    return { ok: true, value: withResource(classified, unknown) };
  const member = scan.members.get(key);
  const otherCase =
    member === undefined && [...scan.members.keys()].some((each) => foldCase(each) === foldCase(key));
  const inBody = member !== undefined || otherCase;
  if (inBody && inQuery.value.kind !== "absent")
    return malformed(`\`${key}\` is given in the query and in the body`);
  if (from === "query") return { ok: true, value: inBody ? withResource(classified, unknown) : keep };
  const text = inQuery.value.kind === "absent" ? resourceText(member) : undefined;
  return { ok: true, value: withResource(classified, resourceOf(type, text)) };
}

function sameView(a: Call["folded"][number], b: Call["folded"][number]): boolean {
  if (a.operation !== b.operation || a.path !== b.path || a.resource.kind !== b.resource.kind) return false;
  if (a.resource.kind === "none" || b.resource.kind === "none") return true;
  if (a.resource.type !== b.resource.type) return false;
  return (
    a.resource.kind === "unknown" || b.resource.kind === "unknown" || a.resource.value === b.resource.value
  );
}

/**
 * A classifier for one port.
 *
 * @param port its packs in order; `selfName` is the resource of `self` sources (the workload's name); `prefix` such as
 *   `/user/{name}` may stand before every path, beside the prefixes that packs define themselves.
 * @throws TypeError when `prefix` does not parse; it comes from code or configuration, never from a request.
 */
export function createClassifier(port: {
  packs: readonly Pack[];
  selfName: string;
  prefix?: string | undefined;
}): Classifier {
  const prefix = port.prefix === undefined ? undefined : parsePrefix(port.prefix);
  if (prefix !== undefined && !prefix.ok) throw new TypeError(prefix.error);
  return new PackClassifier(port.packs, port.selfName, prefix?.value);
}
