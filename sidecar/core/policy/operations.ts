// Says which operation a request is, on which resource: path and method against the packs of the port, then the query,
// a header, the body or a gRPC message for the resource (DOMAIN 1.4, 1.5). Decisions are made on this and nothing else.
import { normalizePath, splitTarget } from "../http/path.ts";
import type { Result } from "../runtime/errors.ts";
import type { Resource } from "./call.ts";
import { type Pack, parsePrefix, type ResourceSpec, type Segment } from "./catalog.ts";
import {
  type Classified,
  knownRequest,
  MCP_UNKNOWN_RESOURCE,
  NO_VIEWS,
  NONE,
  UNDETERMINED,
  UNKNOWN,
  undeterminedMcp,
  unknownOf,
  unknownRequest,
  withOutcome,
  withResource,
} from "./classified.ts";
import { FoldedViews } from "./folded-views.ts";
import { withJson } from "./json-resource.ts";
import { type BodyFacts, type HeaderLookup, readMcpMessage } from "./mcp.ts";
import { buildTries, find, mcpOperations, pathResource, type Tries } from "./pack-tries.ts";
import { grpcStringField, isGrpcProtobuf } from "./protobuf-field.ts";
import { queryValue } from "./query-key.ts";
import { resourceOf } from "./resource-value.ts";
import { TargetCache } from "./target-cache.ts";
import type { Leaf } from "./template-trie.ts";

/** Most bytes of a body that are read to find a resource (DOMAIN M4, M5, M6). */
export const MAX_RESOURCE_BODY_BYTES = 65_536;

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
  readonly #views: FoldedViews;

  constructor(packs: readonly Pack[], selfName: string, prefix: readonly Segment[] | undefined) {
    this.#tries = buildTries(packs, prefix);
    this.#mcp = mcpOperations(packs);
    this.#selfName = selfName;
    this.#views = new FoldedViews(this.#tries, (leaf, segments, query) =>
      this.#resource(leaf, segments, query),
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
      const folded = this.#views.of(mode, path, exact, query);
      const value = mcp
        ? undeterminedMcp(path, query, folded)
        : unknownRequest(method, path, query, mode, folded);
      return { result: { ok: true, value }, plain: true, spec: undefined };
    }
    const resource = this.#resource(leaf, path.segments, query);
    if (!resource.ok) return malformedEntry(resource.error);
    const folded = this.#views.of(
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
