// Which templates of operation packs a clause of `operations` could be about: none means that it never matches. PURE.
import type { Pack, PackRow, Segment } from "../../sidecar/core/policy/catalog.ts";
import { parsePack } from "../../sidecar/core/policy/catalog.ts";
import type { OperationClause } from "../../sidecar/core/policy/rule.ts";
import { coversOperation } from "../../sidecar/core/policy/scope.ts";

/** A row of a pack, ready to be held against a clause. */
export interface Template {
  readonly row: PackRow;
  /** The method that such a request is decided as. */
  readonly method: string;
  /** Its path, and its path below the pack's optional prefix; none for MCP, which may stand on any. */
  readonly paths: readonly (readonly Segment[])[];
}

/** Method of the request by the method column of a pack. */
const DECIDED_AS: ReadonlyMap<string, string> = new Map([
  ["WS", "GET"],
  ["GRPC", "POST"],
  ["MCP", "POST"],
]);

function templatesOfPack({ rows, prefix }: Pack): Template[] {
  return rows.map((row) => ({
    row,
    method: DECIDED_AS.get(row.method) ?? row.method,
    paths:
      row.method === "MCP"
        ? []
        : prefix === undefined
          ? [row.segments]
          : [row.segments, [...prefix, ...row.segments]],
  }));
}

/** Templates by name of pack; one that does not parse was refused with its catalog. */
export function templatesOf(packs: Iterable<readonly [string, string]>): Map<string, readonly Template[]> {
  const out = new Map<string, readonly Template[]>();
  for (const [name, text] of packs) {
    const parsed = parsePack(name, text);
    if (parsed.ok) out.set(name, templatesOfPack(parsed.value));
  }
  return out;
}

/** Letter case and a trailing slash do not count: Deny rules see folded paths, and a doubt is no reason for a warning. */
const partsOf = (path: string): readonly string[] =>
  path.toLowerCase().replace(/\/$/, "").split("/").slice(1);

function segmentTakes(segment: Segment, text: string): boolean {
  if (segment.kind === "literal") return segment.text.toLowerCase() === text;
  if (segment.kind === "tail") return true;
  return text.startsWith(segment.prefix.toLowerCase()) && text.endsWith(segment.suffix.toLowerCase());
}

/** Whether some path of the template is the one asked for, or lies below it when that ends in `/**`. */
function pathMeets(template: readonly Segment[], wanted: string): boolean {
  const below = wanted.endsWith("/**");
  const parts = partsOf(below ? wanted.slice(0, -2) : wanted);
  const last = template[template.length - 1];
  const segments = last?.kind === "literal" && last.text === "" ? template.slice(0, -1) : template;
  for (const [at, part] of parts.entries()) {
    const segment = segments[at];
    if (segment === undefined) return false;
    if (segment.kind === "tail") return true;
    if (!segmentTakes(segment, part)) return false;
  }
  return below || segments.length === parts.length;
}

function grpcMeets({ row }: Template, grpc: NonNullable<OperationClause["grpc"]>): boolean {
  if (row.method !== "GRPC") return false;
  const [service, method] = row.segments;
  const takes = (segment: Segment | undefined, text: string): boolean =>
    segment === undefined || segmentTakes(segment, text.toLowerCase());
  return (
    (grpc.service === undefined || takes(service, grpc.service)) &&
    (grpc.methods === undefined || grpc.methods.some((one) => takes(method, one)))
  );
}

/** The clause is about operations of packs, not about raw requests alone. */
export const asksForOperation = ({ op, access, resources }: OperationClause): boolean =>
  (op ?? access ?? resources) !== undefined;

/** The field of a clause that no template has. */
export interface Misfit {
  /** Below the clause, such as `http.methods`. */
  readonly field: string;
  readonly message: string;
}

/** The packs that templates are from, as messages name them. */
export interface PackWords {
  /** `no operation pack`. */
  readonly none: string;
  /** `any operation pack`. */
  readonly all: string;
}

interface Step {
  readonly field: string;
  readonly keep: (template: Template) => boolean;
  readonly message: (left: readonly Template[]) => string;
}

const quoted = (texts: Iterable<string>): string =>
  [...new Set(texts)]
    .sort()
    .slice(0, 6)
    .map((text) => `\`${text}\``)
    .join(", ");

function stepsOf(clause: OperationClause, words: PackWords): Step[] {
  const { op, access, resources, http, grpc, mcp } = clause;
  const { methods, paths } = http ?? {};
  const subject = op === undefined ? "such an operation" : `\`${op}\``;
  const steps: Step[] = [];
  if (op !== undefined)
    steps.push({
      field: "op",
      keep: ({ row }) => coversOperation(op, row.operation),
      message: () => `${words.none} defines ${subject}`,
    });
  if (access !== undefined)
    steps.push({
      field: "access",
      keep: ({ row }) => access.includes(row.access),
      message: (left) =>
        `${subject} has no such class in ${words.all}, but ${quoted(left.map(({ row }) => row.access))}`,
    });
  if (resources !== undefined)
    steps.push({
      field: "resources",
      keep: ({ row }) => row.resource !== undefined,
      message: () => `${subject} has no resource in ${words.all}`,
    });
  if (methods !== undefined)
    steps.push({
      field: "http.methods",
      keep: ({ method }) => methods.includes(method),
      message: (left) =>
        `${subject} is never called so in ${words.all}, but by ${quoted(left.map(({ method }) => method))}`,
    });
  if (paths !== undefined)
    steps.push({
      field: "http.paths",
      keep: (one) =>
        one.paths.length === 0 || one.paths.some((own) => paths.some((at) => pathMeets(own, at))),
      message: (left) =>
        `${subject} has no such path in ${words.all}, but ${quoted(left.map(({ row }) => row.template))}`,
    });
  if (grpc !== undefined)
    steps.push({
      field: "grpc",
      keep: (one) => grpcMeets(one, grpc),
      message: () => `${subject} is no such gRPC method in ${words.all}`,
    });
  if (mcp !== undefined)
    steps.push({
      field: "mcp",
      keep: ({ row }) => row.method === "MCP" && (mcp.methods?.includes(row.template) ?? true),
      message: () => `${subject} is no such MCP method in ${words.all}`,
    });
  return steps;
}

/**
 * The first field for which no template is left that has the fields before it.
 *
 * @param templates of the packs that may be there. A clause on raw requests alone fits always.
 */
export function misfitOf(
  clause: OperationClause,
  templates: readonly Template[],
  words: PackWords,
): Misfit | undefined {
  if (clause.any || !asksForOperation(clause)) return undefined;
  let left = templates;
  for (const { field, keep, message } of stepsOf(clause, words)) {
    const kept = left.filter(keep);
    if (kept.length === 0) return { field, message: message(left) };
    left = kept;
  }
  return undefined;
}

/** Fields on raw requests that contradict each other. */
export function rawMisfitOf({ http, grpc, mcp }: OperationClause): Misfit | undefined {
  const methods = http?.methods;
  if (methods === undefined) return undefined;
  if ((grpc ?? mcp) !== undefined && !methods.includes("POST"))
    return { field: "http.methods", message: `${grpc ? "gRPC" : "MCP"} calls are POST requests` };
  if (methods.every((method) => method === "HEAD"))
    return { field: "http.methods", message: "HEAD is decided as GET: write `GET`" };
  return undefined;
}
