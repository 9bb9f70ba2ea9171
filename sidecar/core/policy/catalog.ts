// Operation packs: the text format that says which request is which operation, on which resource, with which access
// class (DOMAIN 1.4). Parsing expands alternatives and macros and proves that no two rows of a pack can tie (M3).
import { createHash } from "node:crypto";
import type { Result } from "../runtime/errors.ts";
import { ACCESS_CLASSES, type AccessClass } from "./call.ts";

export type Segment =
  | { readonly kind: "literal"; readonly text: string }
  /** One segment; `prefix` and `suffix` are literal text around it, as in `{model}:predict`. */
  | { readonly kind: "param"; readonly name: string; readonly prefix: string; readonly suffix: string }
  /** One or more segments; `loose` (`{x***}`): they may carry `%25`, `%23` and `%3B`, as file names do. */
  | { readonly kind: "tail"; readonly name: string; readonly loose: boolean };

export type ResourceSource =
  | { readonly kind: "path"; readonly name: string }
  | { readonly kind: "query"; readonly key: string }
  | { readonly kind: "body"; readonly key: string }
  /** `each`: the messages of a stream may name different ones. */
  | { readonly kind: "protobuf"; readonly field: number; readonly each: boolean }
  | { readonly kind: "header"; readonly name: string }
  | { readonly kind: "self" };

export interface ResourceSpec {
  readonly type: string;
  readonly source: ResourceSource;
}

/** One template of a pack, with all alternatives expanded. */
export interface PackRow {
  readonly operation: string;
  /** HTTP method, or `WS`, `GRPC`, `MCP`. */
  readonly method: string;
  /** Expanded path template; for `MCP` the JSON-RPC method. */
  readonly template: string;
  /** Empty for `MCP`. */
  readonly segments: readonly Segment[];
  /** undefined: the operation has no resource. */
  readonly resource: ResourceSpec | undefined;
  readonly access: AccessClass;
  /** Permission level of the platform, for documentation only. */
  readonly level: string | undefined;
  /** Line of the pack text, from 1. */
  readonly line: number;
}

export interface Pack {
  readonly name: string;
  readonly rows: readonly PackRow[];
  /** Segments that may stand before every path of the pack (`@optional-prefix`); undefined: none. */
  readonly prefix: readonly Segment[] | undefined;
}

/** Packs by name, and every operation name they define. */
export interface Catalog {
  readonly packs: ReadonlyMap<string, Pack>;
  readonly operations: ReadonlySet<string>;
}

const MAX_PACK_CHARS = 262_144;
const MAX_ROWS = 2000;
const MAX_EXPANSIONS = 256;
const MAX_SEGMENTS = 32;

const OPERATION = /^[a-z][A-Za-z0-9]*(?:\.[a-z][A-Za-z0-9]*)*$/;
const PACK_NAME = /^[a-z][a-z0-9-]{0,62}$/;
const TYPE_NAME = /^[a-z][a-z0-9-]*$/;
const VARIABLE = /^[A-Za-z_][A-Za-z0-9_]*$/;
const METHODS = new Set(["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WS", "GRPC", "MCP"]);
const MCP_METHOD = /^[A-Za-z][A-Za-z0-9_./-]*$/;
const LITERAL = /^[A-Za-z0-9._~!$&'+,:=@-]*$/;

/** A problem inside one line; translated to a `Result` at the border of this file. */
class LineProblem extends Error {}

type Part = { readonly alternatives: readonly string[]; readonly macro: boolean };

/** Cuts a text into groups: `(a,b)`, `{macro}` and literal text (one alternative). */
function partsOf(text: string, macros: ReadonlyMap<string, readonly string[]>): Part[] {
  const parts: Part[] = [];
  let rest = text;
  while (rest.length > 0) {
    const open = rest.search(/[({]/);
    if (open < 0) {
      parts.push({ alternatives: [rest], macro: true });
      break;
    }
    if (open > 0) parts.push({ alternatives: [rest.slice(0, open)], macro: true });
    const closing = rest[open] === "(" ? ")" : "}";
    const close = rest.indexOf(closing, open);
    if (close < 0) throw new LineProblem(`\`${text}\` lacks a \`${closing}\``);
    const inside = rest.slice(open + 1, close);
    if (closing === ")") {
      const alternatives = inside.split(",");
      if (inside.includes("(") || alternatives.some((each) => each === "")) {
        throw new LineProblem(`\`(${inside})\` has an empty or nested alternative`);
      }
      parts.push({ alternatives, macro: false });
    } else {
      parts.push({ alternatives: macros.get(inside) ?? [`{${inside}}`], macro: true });
    }
    rest = rest.slice(close + 1);
  }
  return parts;
}

/** All texts of the parts, those in `fixed` taken at one alternative only. */
function product(parts: readonly Part[], fixed: ReadonlyMap<Part, number>): string[] {
  let texts = [""];
  for (const part of parts) {
    const at = fixed.get(part);
    const choices = at === undefined ? part.alternatives : [part.alternatives[at] ?? ""];
    texts = texts.flatMap((text) => choices.map((choice) => text + choice));
    if (texts.length > MAX_EXPANSIONS)
      throw new LineProblem(`has more than ${MAX_EXPANSIONS} alternatives; split the row`);
  }
  return texts;
}

/** Pairs of operation and template; alternatives of the operation go with those of the one group of equal length. */
function expand(
  operation: string,
  template: string,
  macros: ReadonlyMap<string, readonly string[]>,
): { operation: string; template: string }[] {
  const operationParts = partsOf(operation, new Map());
  const templateParts = partsOf(template, macros);
  const [group, second] = operationParts.filter((part) => !part.macro);
  if (second !== undefined)
    throw new LineProblem(`operation \`${operation}\` has two groups of alternatives; use one`);
  if (group === undefined)
    return product(templateParts, new Map()).map((text) => ({ operation, template: text }));
  const count = group.alternatives.length;
  const partners = templateParts.filter((part) => !part.macro && part.alternatives.length === count);
  const [partner] = partners;
  if (partner === undefined || partners.length > 1) {
    throw new LineProblem(
      `operation \`${operation}\` has ${count} alternatives, so exactly one group of the template must have ${count}`,
    );
  }
  return group.alternatives.flatMap((_, at) =>
    product(templateParts, new Map([[partner, at]])).map((text) => ({
      operation: product(operationParts, new Map([[group, at]])).join(""),
      template: text,
    })),
  );
}

function parseSegment(text: string, last: boolean, template: string): Segment {
  const open = text.indexOf("{");
  if (open < 0) {
    if (text === "" && !last) throw new LineProblem(`template \`${template}\` has an empty segment`);
    if (text === "." || text === ".." || !LITERAL.test(text)) {
      throw new LineProblem(
        `template \`${template}\` has a segment that no accepted path can have: \`${text}\``,
      );
    }
    return { kind: "literal", text };
  }
  const close = text.indexOf("}");
  const inside = text.slice(open + 1, close);
  const name = inside.replace(/\*+$/, "");
  const prefix = text.slice(0, open);
  const suffix = text.slice(close + 1);
  if (close < open || !VARIABLE.test(name) || !LITERAL.test(prefix) || !LITERAL.test(suffix)) {
    throw new LineProblem(
      `template \`${template}\` has a malformed segment \`${text}\`; write \`{name}\` or \`{name**}\``,
    );
  }
  const stars = inside.length - name.length;
  if (stars === 0) return { kind: "param", name, prefix, suffix };
  if (!last || prefix !== "" || suffix !== "" || stars < 2 || stars > 3) {
    throw new LineProblem(
      `template \`${template}\`: \`{${name}**}\` or \`{${name}***}\` must be the whole last segment`,
    );
  }
  return { kind: "tail", name, loose: stars === 3 };
}

/** Parses an expanded template; throws `LineProblem`. */
function parseTemplate(template: string): Segment[] {
  if (!template.startsWith("/")) throw new LineProblem(`template \`${template}\` must begin with \`/\``);
  const texts = template.slice(1).split("/");
  if (texts.length > MAX_SEGMENTS)
    throw new LineProblem(`template \`${template}\` has more than ${MAX_SEGMENTS} segments`);
  return texts.map((text, at) => parseSegment(text, at === texts.length - 1, template));
}

/** Parses a path prefix such as `/user/{name}` for `createClassifier`. */
export function parsePrefix(text: string): Result<readonly Segment[], string> {
  try {
    const segments = parseTemplate(text);
    const plain = segments.every(
      (each) => each.kind !== "tail" && !(each.kind === "literal" && each.text === ""),
    );
    return plain
      ? { ok: true, value: segments }
      : { ok: false, error: `prefix \`${text}\` must be whole segments without a tail` };
  } catch (error) {
    if (error instanceof LineProblem) return { ok: false, error: error.message };
    throw error;
  }
}

function parseResource(text: string, method: string): ResourceSpec | undefined {
  if (text === "-") return undefined;
  const [type = "", from, extra] = text.split("<");
  if (!TYPE_NAME.test(type) || from === undefined || extra !== undefined) {
    throw new LineProblem(`resource \`${text}\` must be \`-\` or \`type<source\``);
  }
  const colon = from.indexOf(":");
  const kind = colon < 0 ? from : from.slice(0, colon);
  const value = colon < 0 ? "" : from.slice(colon + 1);
  const source = parseSource(kind, value);
  if (source === undefined) {
    throw new LineProblem(
      `resource source \`${from}\` is none of path:x, query:x, body:x, pb:N, pb-each:N, header:x, self`,
    );
  }
  const fits =
    method === "MCP"
      ? source.kind === "self" || (source.kind === "header" && source.name === "mcp-name")
      : method === "GRPC"
        ? source.kind !== "body" && source.kind !== "query"
        : source.kind !== "protobuf" && !(source.kind === "body" && (method === "WS" || method === "GET"));
  if (!fits) throw new LineProblem(`resource source \`${from}\` cannot be used with ${method}`);
  return { type, source };
}

function parseSource(kind: string, value: string): ResourceSource | undefined {
  switch (kind) {
    case "self":
      return value === "" ? { kind } : undefined;
    case "path":
      return VARIABLE.test(value) ? { kind, name: value } : undefined;
    case "query":
    case "body":
      return /^[A-Za-z_][A-Za-z0-9_-]*$/.test(value) ? { kind, key: value } : undefined;
    case "header":
      return /^[a-z][a-z0-9-]*$/.test(value) ? { kind, name: value } : undefined;
    case "pb":
    case "pb-each":
      return /^[1-9][0-9]{0,4}$/.test(value)
        ? { kind: "protobuf", field: Number(value), each: kind === "pb-each" }
        : undefined;
    default:
      return undefined;
  }
}

function parseRow(
  columns: readonly string[],
  macros: ReadonlyMap<string, readonly string[]>,
  line: number,
): PackRow[] {
  const [operation = "", methods = "", template = "", resourceText = "", access = "", level = ""] = columns;
  if (columns.length !== 6) {
    throw new LineProblem(
      `has ${columns.length} columns; write operation, method, template, resource, access and level`,
    );
  }
  const accessClass = ACCESS_CLASSES.find((each) => each === access);
  if (accessClass === undefined)
    throw new LineProblem(`access \`${access}\` is none of ${ACCESS_CLASSES.join(", ")}`);
  const rows: PackRow[] = [];
  const pairs = expand(operation, template, macros);
  for (const method of methods.split(",")) {
    if (!METHODS.has(method))
      throw new LineProblem(`method \`${method}\` is none of ${[...METHODS].join(", ")}`);
    const spec = parseResource(resourceText, method);
    const mine = pairs.map((pair) => expandedRow(pair, method, spec, { accessClass, level, line }));
    if (spec?.source.kind === "path" && mine.every((row) => row.resource === undefined)) {
      throw new LineProblem(
        `no template has the variable \`{${spec.source.name}}\` that the resource is taken from`,
      );
    }
    rows.push(...mine);
  }
  return rows;
}

function expandedRow(
  pair: { operation: string; template: string },
  method: string,
  spec: ResourceSpec | undefined,
  rest: { accessClass: AccessClass; level: string; line: number },
): PackRow {
  const { operation, template } = pair;
  if (!OPERATION.test(operation))
    throw new LineProblem(`operation \`${operation}\` must be lower-camel-case words joined by dots`);
  if (method === "MCP" && !MCP_METHOD.test(template))
    throw new LineProblem(`\`${template}\` is not a JSON-RPC method`);
  const segments = method === "MCP" ? [] : parseTemplate(template);
  const literal = segments.every((each) => each.kind === "literal");
  if (method === "GRPC" && !(literal && segments.length === 2))
    throw new LineProblem(`\`${template}\` is not \`/package.Service/Method\``);
  const names = segments.flatMap((each) => (each.kind === "literal" ? [] : [each.name]));
  if (new Set(names).size !== names.length)
    throw new LineProblem(`template \`${template}\` names a variable twice`);
  // An alternative without the variable, such as `/v2` beside `/v2/models/{model}`, has no resource.
  const without = spec?.source.kind === "path" && !names.includes(spec.source.name);
  return {
    operation,
    method,
    template,
    segments,
    resource: without ? undefined : spec,
    access: rest.accessClass,
    level: rest.level === "-" ? undefined : rest.level,
    line: rest.line,
  };
}

/** How specific a template is: whole literal segments first, then literal text around variables. */
export function templateRank(segments: readonly Segment[]): number {
  let rank = 0;
  for (const segment of segments) {
    if (segment.kind === "literal") rank += MAX_SEGMENTS * 2;
    else if (segment.kind === "param" && segment.prefix.length + segment.suffix.length > 0) rank += 1;
  }
  return rank;
}

function segmentsOverlap(a: Segment, b: Segment): boolean {
  if (a.kind === "tail" || b.kind === "tail") return true;
  if (a.kind === "literal") {
    if (b.kind === "literal") return a.text === b.text;
    return (
      a.text.length > b.prefix.length + b.suffix.length &&
      a.text.startsWith(b.prefix) &&
      a.text.endsWith(b.suffix)
    );
  }
  if (b.kind === "literal") return segmentsOverlap(b, a);
  const prefixes = a.prefix.startsWith(b.prefix) || b.prefix.startsWith(a.prefix);
  return prefixes && (a.suffix.endsWith(b.suffix) || b.suffix.endsWith(a.suffix));
}

/** True when some path matches both templates. */
export function templatesOverlap(a: readonly Segment[], b: readonly Segment[]): boolean {
  for (let at = 0; ; at++) {
    const left = a[at];
    const right = b[at];
    if (left === undefined || right === undefined) return left === right;
    if (left.kind === "tail" || right.kind === "tail") {
      const other = left.kind === "tail" ? b : a;
      const last = other[other.length - 1];
      return !(last?.kind === "literal" && last.text === "");
    }
    if (!segmentsOverlap(left, right)) return false;
  }
}

function findTie(rows: readonly PackRow[]): string | undefined {
  const byMethod = Map.groupBy(rows, (row) => row.method);
  for (const [method, group] of byMethod) {
    const ranks = group.map((row) => templateRank(row.segments));
    for (const [i, a] of group.entries()) {
      for (let j = i + 1; j < group.length; j++) {
        const b = group[j];
        if (b === undefined || ranks[i] !== ranks[j]) continue;
        if (method === "MCP" ? a.template !== b.template : !templatesOverlap(a.segments, b.segments))
          continue;
        return `line ${b.line}: \`${method} ${b.template}\` (${b.operation}) and \`${a.template}\` (${a.operation}, line ${a.line}) match the same path with equally many literal segments; make one more specific`;
      }
    }
  }
  return undefined;
}

/**
 * Parses a pack.
 *
 * Rows have six columns (operation, method, template, resource, access, level). `@let name = (a,b)` defines a macro for
 * `{name}`; `@optional-prefix /user/{name}` lets every path of the pack also stand below that prefix. `#` begins a
 * comment line.
 *
 * @param text at most 256 KiB, at most 2000 rows after expansion.
 * @returns the pack, or the first problem with its line number.
 */
export function parsePack(name: string, text: string): Result<Pack, string> {
  const fail = (error: string): Result<never, string> => ({ ok: false, error: `pack \`${name}\`: ${error}` });
  if (!PACK_NAME.test(name)) return fail("the name must be lower-case letters, digits and `-`");
  if (text.length > MAX_PACK_CHARS) return fail(`text has more than ${MAX_PACK_CHARS} characters`);
  const macros = new Map<string, readonly string[]>();
  const rows: PackRow[] = [];
  let prefix: readonly Segment[] | undefined;
  for (const [at, full] of text.split("\n").entries()) {
    const content = full.trim();
    if (content === "" || content.startsWith("#")) continue;
    try {
      const columns = content.split(/\s+/);
      if (columns[0] === "@let") defineMacro(content, macros);
      else if (columns[0] === "@optional-prefix") {
        const parsed = parsePrefix(columns[1] ?? "");
        if (!parsed.ok || columns.length !== 2 || prefix !== undefined)
          throw new LineProblem(parsed.ok ? "one `@optional-prefix /path` is allowed" : parsed.error);
        prefix = parsed.value;
      } else if (content.startsWith("@"))
        throw new LineProblem(`directive \`${columns[0]}\` is none of @let, @optional-prefix`);
      else rows.push(...parseRow(columns, macros, at + 1));
    } catch (error) {
      if (error instanceof LineProblem) return fail(`line ${at + 1}: ${error.message}`);
      throw error;
    }
    if (rows.length > MAX_ROWS)
      return fail(`line ${at + 1}: more than ${MAX_ROWS} templates after expansion; split the pack`);
  }
  if (rows.length === 0) return fail("has no rows");
  const before = prefix ?? [];
  const prefixed =
    prefix === undefined
      ? []
      : rows.map((row) => ({ ...row, segments: row.method === "MCP" ? [] : [...before, ...row.segments] }));
  const tie = findTie(rows) ?? findTie([...rows, ...prefixed.filter((row) => row.method !== "MCP")]);
  return tie === undefined ? { ok: true, value: { name, rows, prefix } } : fail(tie);
}

function defineMacro(content: string, macros: Map<string, readonly string[]>): void {
  const match = /^@let\s+([A-Za-z_][A-Za-z0-9_]*)\s*=\s*\(([^(){}\s]+)\)$/.exec(content);
  const [, name = "", list = ""] = match ?? [];
  if (match === null || list.split(",").includes(""))
    throw new LineProblem("write `@let name = (first,second)`");
  if (macros.has(name)) throw new LineProblem(`macro \`${name}\` is defined twice`);
  macros.set(name, list.split(","));
}

/** Puts packs together; a name given twice is a problem. */
export function buildCatalog(packs: readonly Pack[]): Result<Catalog, string> {
  const byName = new Map<string, Pack>();
  const operations = new Set<string>();
  for (const pack of packs) {
    if (byName.has(pack.name))
      return { ok: false, error: `pack \`${pack.name}\` is defined twice; rename one` };
    byName.set(pack.name, pack);
    for (const row of pack.rows) operations.add(row.operation);
  }
  return { ok: true, value: { packs: byName, operations } };
}

/** True when an operation pattern of a policy (itself and everything below it at a dot) matches an operation of the catalog. */
export function matchesAnyOperation(catalog: Catalog, pattern: string): boolean {
  if (catalog.operations.has(pattern)) return true;
  const below = `${pattern}.`;
  for (const operation of catalog.operations) if (operation.startsWith(below)) return true;
  return false;
}

/**
 * Digest of the texts of a port's packs in their order, base64url of the first 16 bytes of SHA-256. Caller and callee
 * compare it before they compare operations (DOMAIN V6).
 */
export function packsDigest(texts: readonly string[]): string {
  const hash = createHash("sha256");
  for (const text of texts) {
    const bytes = Buffer.from(text, "utf8");
    hash.update(`${bytes.length}:`).update(bytes);
  }
  return hash.digest().subarray(0, 16).toString("base64url");
}
