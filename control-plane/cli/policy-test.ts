// `countersign policy test`: runs decision tables (DOMAIN 3.7) and says which rows differ and why.
import { dirname, resolve } from "node:path";
import { MeshError, type Result } from "../../sidecar/core/runtime/errors.ts";
import type { AccessPolicy } from "../policy/access-policy.ts";
import { loadBuiltInPacks } from "../policy/packs.ts";
import { createObjectParser, type ObjectParser } from "../policy/typed-object.ts";
import {
  createBench,
  parseVectors,
  runVectors,
  type VectorResult,
  type VectorTable,
} from "../policy/vectors.ts";
import { closestName } from "../sources/closest-name.ts";
import { type FieldProblem, formatProblem } from "../sources/field-problem.ts";
import { readFileText } from "../sources/file-tree.ts";
import { API_VERSION, loadSchemas, type SchemaSet } from "../sources/schema.ts";
import { lineOfField, parseYamlText, splitDocuments } from "../sources/yaml-files.ts";
import { type Fields, fieldsOf } from "./answers.ts";
import { ruleText, shownExplanation } from "./explanation.ts";
import { counted, EXIT, type ExitStatus, type Output, printJson } from "./print.ts";
import { fileEntryOf, readConfiguration } from "./reading.ts";

const TABLE_FIELDS = ["world", "vectors", "policies"];
/** Lines that say why a row differs. */
const SHOWN_REASONS = 6;

interface Deps {
  readonly schemas: SchemaSet;
  readonly parse: ObjectParser;
  readonly packs: ReadonlyMap<string, string>;
  /** Instead of those of the table. */
  readonly live: readonly AccessPolicy[] | undefined;
}

/** A table that can be run. */
interface ReadTable {
  readonly table: VectorTable;
  readonly policies: readonly AccessPolicy[];
  /** Not wrong, but worth knowing. */
  readonly notes: readonly string[];
}

/**
 * Runs every table, each in its own world.
 *
 * @param options.policies to test instead of those of the tables.
 * @returns `EXIT.ok` when every row of every table is as it says, otherwise `EXIT.no`.
 * @throws MeshError `io_failed` for a file that cannot be read.
 */
export function testPolicies(
  files: readonly string[],
  options: { readonly json: boolean; readonly policies?: readonly AccessPolicy[] },
  output: Output,
): ExitStatus {
  const deps: Deps = {
    ...{ schemas: loadSchemas(), parse: createObjectParser(), packs: loadBuiltInPacks() },
    live: options.policies,
  };
  let status: ExitStatus = EXIT.ok;
  for (const file of files) {
    const read = readTable(file, deps);
    if (!read.ok) {
      status = EXIT.no;
      for (const problem of read.error) {
        if (options.json) printJson(output, { file, ok: false, problem });
        else output.out(`error: ${formatProblem(problem)}\n`);
      }
      if (!options.json) output.out(`${file}: not run: ${counted(read.error.length, "error")}\n`);
      continue;
    }
    if (!runTable(file, read.value, deps, options.json, output)) status = EXIT.no;
  }
  return status;
}

/** The table of a file, or everything that is wrong with it. */
function readTable(file: string, deps: Deps): Result<ReadTable, readonly FieldProblem[]> {
  const content = readFileText(fileEntryOf(file));
  if (!content.ok)
    throw new MeshError(
      "io_failed",
      `\`${file}\` ${content.error === "ENOENT" ? "does not exist" : content.error}`,
    );
  const [document, second] = splitDocuments(content.value.text);
  const { text, line } = document ?? { text: "", line: 1 };
  if (second !== undefined) {
    const message = "a decision table is one YAML document, remove `---`";
    return { ok: false, error: [{ file, line: second.line, path: "", message }] };
  }
  const parsed = parseYamlText(text);
  if (!parsed.ok) {
    const problems = parsed.error.map((one) => ({ file, path: "", ...one, line: line - 1 + one.line }));
    return { ok: false, error: problems };
  }
  const fields = fieldsOf(parsed.value);
  const at = (path: string) => line - 1 + lineOfField(text, path);
  const problems: FieldProblem[] = Object.keys(fields)
    .filter((key) => !TABLE_FIELDS.includes(key))
    .map((key) => {
      const closest = closestName(key, TABLE_FIELDS);
      const hint =
        closest === undefined ? `known are ${TABLE_FIELDS.join(", ")}` : `did you mean \`${closest}\`?`;
      return { file, line: at(key), path: key, message: "unknown field", hint };
    });
  const table = parseVectors(parsed.value);
  if (!table.ok)
    problems.push(
      ...table.error.map((message) => ({ file, line: at(pathOf(message, fields)), path: "", message })),
    );
  const {
    policies,
    problems: wrong,
    notes,
  } = deps.live === undefined
    ? readPolicies(file, fields, at, deps)
    : { policies: deps.live, problems: [], notes: ["tested with the policies in force in the running mesh"] };
  problems.push(...wrong);
  return table.ok && problems.length === 0
    ? { ok: true, value: { table: table.value, policies, notes } }
    : { ok: false, error: problems };
}

/** The field that a message of `parseVectors` is about: it names rows by id, and fields of the world by path. */
function pathOf(message: string, table: Fields): string {
  const [, field = ""] = /(?:field|:) `([^`]+)`/.exec(message) ?? [];
  const [world] = /^world[^\s:]*/.exec(message) ?? [];
  if (world !== undefined) return field === "" ? world : `${world}.${field}`;
  const [, index] = /^vectors\[(\d+)\]/.exec(message) ?? [];
  const [, id] = /^vector `([^`]+)`/.exec(message) ?? [];
  const rows: readonly unknown[] = Array.isArray(table["vectors"]) ? table["vectors"] : [];
  // Of two rows with the same id the later one is the mistake.
  const row = index === undefined ? rows.findLastIndex((one) => fieldsOf(one)["id"] === id) : Number(index);
  return row < 0 ? "vectors" : `vectors[${row}].${field}`;
}

/** What this build does not enforce of other kinds is no matter here: the table's world stands for them. */
function isAside({ reason, object }: FieldProblem): boolean {
  return reason === "Unsupported" && object !== undefined && !/^(?:Cluster)?AccessPolicy /.test(object);
}

interface ReadPolicies {
  readonly policies: readonly AccessPolicy[];
  readonly problems: readonly FieldProblem[];
  readonly notes: readonly string[];
}

/** The entries of `policies`: objects, or paths of files and directories from where the table is. */
function readPolicies(file: string, fields: Fields, at: (path: string) => number, deps: Deps): ReadPolicies {
  const found = new Map<string, AccessPolicy>();
  const problems: FieldProblem[] = [];
  const notes: string[] = [];
  const list: unknown = fields["policies"];
  const wrong = (path: string, message: string, more: Partial<FieldProblem> = {}) =>
    problems.push({ file, line: at(path), path, message, ...more });
  if (!Array.isArray(list) || list.length === 0) {
    wrong("policies", "must be a list of policies, or of paths from this file, such as `../policies`");
    return { policies: [], problems, notes };
  }
  const add = (policy: AccessPolicy, path: string): void => {
    const name = [policy.kind, policy.namespace, policy.name].filter((part) => part !== undefined).join("/");
    if (found.has(name)) wrong(path, `\`${name}\` is there twice`);
    found.set(name, policy);
  };
  for (const [index, entry] of list.entries()) {
    const path = `policies[${index}]`;
    if (typeof entry === "string") {
      const { state, report } = readConfiguration([resolve(dirname(file), entry)], deps.schemas);
      problems.push(...report.problems.filter((problem) => !isAside(problem)));
      for (const policy of state.policies.values()) add(policy, path);
      const others = [...report.accepted.values()]
        .flat()
        .filter(({ kind }) => !kind.endsWith("AccessPolicy"));
      if (others.length > 0)
        notes.push(
          `${entry}: ${counted(others.length, "object")} of other kinds not used; the table's \`world\` stands for them`,
        );
      if (state.policies.size === 0 && report.problems.length === 0)
        wrong(path, `\`${entry}\` holds no policy`);
      continue;
    }
    const object = { apiVersion: API_VERSION, ...fieldsOf(entry) };
    const valid = deps.schemas.validate(object);
    const typed = valid.ok ? deps.parse(valid.value) : valid;
    if (!typed.ok)
      problems.push(
        ...typed.error.map((problem) => ({
          ...problem,
          file,
          line: at(`${path}.${problem.path}`),
          path: [path, problem.path].filter((part) => part !== "").join("."),
        })),
      );
    else if (typed.value.kind === "AccessPolicy" || typed.value.kind === "ClusterAccessPolicy")
      add(typed.value.value, path);
    else wrong(path, `a ${typed.value.kind} is no policy; describe it in \`world\``);
  }
  return { policies: [...found.values()], problems, notes };
}

/** @returns whether every row is as it says. */
function runTable(file: string, read: ReadTable, deps: Deps, json: boolean, output: Output): boolean {
  const { table, policies } = read;
  const run = { policies, packs: deps.packs };
  const bench = createBench(table.world, run);
  const notes = [...read.notes];
  let excluded = 0;
  for (const [object, { problems }] of bench.compiled.policies) {
    for (const { severity, reason, path, message } of problems) {
      if (severity === "error") excluded++;
      notes.push(
        `${severity === "error" ? "error: not in force" : "warning"}: ${object.replace("/", " ")}: ${reason}: ${path}: ${message}`,
      );
    }
  }
  const why = (result: VectorResult): string[] => {
    if (result.explanation !== undefined) return reasonsOf(result);
    const vector = table.vectors.find(({ id }) => id === result.id);
    try {
      const call = vector && bench.callOf(vector);
      return call?.ok === false ? [`the request is malformed: ${call.error}`] : [];
    } catch (error) {
      // The row names what the world lacks; `got` says so already.
      if (error instanceof MeshError) return [];
      throw error;
    }
  };
  const results = runVectors(table, run);
  const differing = results.filter(({ ok }) => !ok);
  const width = Math.max(...results.map(({ id }) => id.length));
  if (json) {
    for (const result of results) {
      const { id, ok, expected, got } = result;
      printJson(output, { file, id, ok, expected, got, ...(ok ? {} : { why: why(result) }) });
    }
    for (const note of notes) output.err(`${file}: ${note}\n`);
    return differing.length === 0 && excluded === 0;
  }
  output.out(`${file}\n`);
  for (const note of notes) output.out(`  ${note}\n`);
  for (const result of results) {
    const { id, ok, expected, got } = result;
    output.out(
      `  ${ok ? "ok     " : "DIFFERS"}  ${id.padEnd(width)}  ${ok ? got : `expected ${expected}`}\n`,
    );
    if (ok) continue;
    const indent = " ".repeat(width + 13);
    output.out(`${indent}got      ${got}\n`);
    for (const [index, line] of why(result).entries())
      output.out(`${indent}${index === 0 ? "because" : "       "}  ${line}\n`);
  }
  const summary =
    differing.length === 0
      ? "all as they say"
      : `${differing.length} differ: ${differing.map(({ id }) => id).join(", ")}`;
  output.out(`${counted(results.length, "vector")}, ${summary}`);
  output.out(excluded > 0 ? `; ${counted(excluded, "policy error")}\n` : "\n");
  return differing.length === 0 && excluded === 0;
}

/** The decision itself, then what became of the rules: those expected to decide first, then those that came close. */
function reasonsOf({ expected, got, explanation }: VectorResult): string[] {
  const shown = shownExplanation(explanation);
  const lines: string[] = shown.by === "" || got.includes(" by ") ? [] : [`decided by ${shown.by}`];
  // Where a Deny decides, which Allow rules would have matched does not matter.
  const isOpen = shown.reason !== "DENIED_BY_POLICY";
  const ranked: { readonly rank: number; readonly text: string }[] = [];
  for (const { policy, action, rules } of shown.policies) {
    const short = policy.slice(policy.indexOf("/") + 1);
    for (const rule of rules) {
      const isWanted = expected.includes(` by ${short}/${rule.rule}`);
      const text = `${policy}/${ruleText(action, rule)}`;
      if (isWanted) ranked.push({ rank: 0, text });
      else if (rule.outcome === "error" || rule.outcome === "exempt") ranked.push({ rank: 1, text });
      else if (isOpen && rule.outcome === "failed" && (action === "Allow") === !shown.allowed)
        ranked.push({ rank: 2, text });
    }
  }
  ranked.sort((a, b) => a.rank - b.rank);
  lines.push(...ranked.slice(0, SHOWN_REASONS).map(({ text }) => text));
  if (ranked.length > SHOWN_REASONS)
    lines.push(`… and ${ranked.length - SHOWN_REASONS} more rules that do not match`);
  return lines;
}
