// A request as policies see it, how one is made of what its path says, and how it is finished when more was read.
import type { NormalPath } from "../http/path.ts";
import type { AccessClass, Call, Operation, RequestFacts, Resource } from "./call.ts";
import type { ResourceSpec } from "./catalog.ts";
import type { Leaf } from "./template-trie.ts";

/** What is still to be read before the resource (for `mcp`: the operation too) is known. */
export type Pending =
  /** `from: "query"`: the query named it, and the body must not name it again. */
  | { readonly kind: "body"; readonly key: string; readonly type: string; readonly from: "body" | "query" }
  /** Every message of the call names one. */
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

/** Of operations without a resource. */
export const NONE: Resource = { kind: "none" };
/** No template has the path. */
export const UNKNOWN: Operation = { kind: "unknown" };
/** The path may be an operation, but what was read so far does not tell. */
export const UNDETERMINED: Operation = { kind: "undetermined" };
/** Of an MCP message that is not read yet, or not readable. */
export const MCP_UNKNOWN_RESOURCE: Resource = { kind: "unknown", type: "mcp" };
const NO_MCP = { method: undefined, name: undefined } as const;
/** One object for all requests that have no folded view. */
export const NO_VIEWS: Call["folded"] = [];

/** The resource of an operation that has one, as long as nobody has read which. */
export function unknownOf(spec: ResourceSpec | undefined): Resource | undefined {
  return spec === undefined ? undefined : { kind: "unknown", type: spec.type };
}

function grpcOf(mode: string | undefined, segments: readonly string[]): RequestFacts["grpc"] {
  const [service, method] = segments;
  if (mode !== "GRPC" || segments.length !== 2 || !service || !method) return undefined;
  return { service, method };
}

/** A path that no template of the port has. */
export function unknownRequest(
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

/** A POST to an MCP port: the body says what it is. */
export function undeterminedMcp(
  path: NormalPath,
  query: string | undefined,
  folded: Call["folded"],
): Classified {
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

/** A path that a template has. */
export function knownRequest(leaf: Leaf, facts: KnownFacts): Classified {
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
  if (spec?.source.kind === "protobuf")
    return { kind: "protobuf", field: spec.source.field, type: spec.type };
  return undefined;
}

/** Sets the resource that was pending. */
export function withResource(classified: Classified, resource: Resource): Classified {
  return withOutcome(classified, classified.operation, resource);
}

/** Sets what was pending, also in the folded views that waited for the same body. */
export function withOutcome(classified: Classified, operation: Operation, resource: Resource): Classified {
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
