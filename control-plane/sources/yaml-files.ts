// From the text of a file to objects: strict YAML 1.2 (what kubectl would read differently is refused), and the line
// of any field when something is wrong with it. PURE.
import { type Document, isMap, isScalar, isSeq, type Node, parseDocument, visit } from "yaml";
import type { Result } from "../../sidecar/core/runtime/errors.ts";

/** One document of a file, with the line (from 1) it begins on. */
export interface YamlText {
  readonly text: string;
  readonly line: number;
}

export interface YamlProblem {
  /** From 1, within the document. */
  readonly line: number;
  readonly message: string;
  readonly hint?: string;
}

/** Aliases multiply what they repeat: more than this many are an attack or a mistake. */
const MAX_ALIASES = 50;
/** Documents nested deeper than this are refused before the parser, which is recursive, sees them. */
const MAX_FLOW_DEPTH = 64;
const MAX_REFERENCES = 200;
/** Lines, quotes and separators of one document: 0.1 to 0.2 s of parsing. A policy of 20 rules has about 500. */
const MAX_TOKENS = 10_000;
/** Documents of one file. */
export const MAX_DOCUMENTS = 5_000;

const MAX_SYNTAX_PROBLEMS = 5;

const MARKER = /^(?:---|\.\.\.)(?=\s|$)/gm;

/**
 * Splits at document markers. A marker at the start of a line ends a document wherever it stands, even inside a block
 * scalar (YAML 1.2 section 9.1.2), so this needs no parser; an edit then costs one document, not the file.
 *
 * @returns at most one more than `MAX_DOCUMENTS`.
 */
export function splitDocuments(text: string): readonly YamlText[] {
  const source = text.charCodeAt(0) === 0xfeff ? text.slice(1) : text;
  const documents: YamlText[] = [];
  let start = 0;
  let line = 1;
  const push = (end: number): void => {
    const part = source.slice(start, end);
    if (hasContent(part)) documents.push({ text: part, line });
    line += countLines(part);
    start = end;
  };
  for (const match of source.matchAll(MARKER)) {
    if (match.index > start) push(match.index);
    if (documents.length > MAX_DOCUMENTS) return documents;
  }
  push(source.length);
  return documents;
}

/** Whether there is more than comments, blank lines and markers. */
function hasContent(text: string): boolean {
  for (const line of text.split("\n")) {
    const rest = line.replace(/^(?:---|\.\.\.)(?=\s|$)/, "").trim();
    if (rest !== "" && !rest.startsWith("#")) return true;
  }
  return false;
}

function countLines(text: string): number {
  let lines = 0;
  for (let at = text.indexOf("\n"); at >= 0; at = text.indexOf("\n", at + 1)) lines++;
  return lines;
}

const lineAt = (text: string, offset: number): number => 1 + countLines(text.slice(0, Math.max(0, offset)));

/** A quick look for what YAML 1.1 takes for booleans; only then are the scalars visited. */
const MAYBE_OLD_BOOLEAN = /(?:^|[\s[{,:])(?:y|n|yes|no|on|off)(?=$|[\s\]},:])/im;
const OLD_BOOLEAN = /^(?:y|Y|yes|Yes|YES|n|N|no|No|NO|on|On|ON|off|Off|OFF)$/;

function oldBooleans(text: string, document: Document): YamlProblem[] {
  const problems: YamlProblem[] = [];
  if (!MAYBE_OLD_BOOLEAN.test(text)) return problems;
  visit(document, {
    Scalar(_key, node) {
      if (node.type !== "PLAIN" || !OLD_BOOLEAN.test(node.source ?? "")) return undefined;
      const word = node.source ?? "";
      problems.push({
        line: lineAt(text, node.range?.[0] ?? 0),
        message: `\`${word}\` without quotes is a boolean for kubectl and a word here`,
        hint: `write \`"${word}"\`, \`true\` or \`false\``,
      });
      return problems.length >= MAX_SYNTAX_PROBLEMS ? visit.BREAK : undefined;
    },
  });
  return problems;
}

/** The parser's own check compares every pair of keys: 60 000 keys in one file took it 87 s. */
function repeatedKeys(text: string, document: Document): YamlProblem[] {
  const problems: YamlProblem[] = [];
  visit(document, {
    Map(_key, node) {
      const seen = new Set<string>();
      for (const { key } of node.items) {
        const name = isScalar(key) ? String(key.value) : "";
        if (seen.has(name))
          problems.push({ line: lineAt(text, rangeStart(key) ?? 0), message: "a field is given twice" });
        seen.add(name);
        if (problems.length >= MAX_SYNTAX_PROBLEMS) return visit.BREAK;
      }
      return undefined;
    },
  });
  return problems;
}

/**
 * What a document would cost the parser, counted without it: the parser takes 15 to 40 µs per value, so a megabyte of
 * commas would hold up everything else for seconds. Strings and comments that hold such characters are counted too.
 */
function tooMuch(text: string): { readonly message: string; readonly hint?: string } | undefined {
  let depth = 0;
  let tokens = 0;
  let references = 0;
  for (let i = 0; i < text.length; i++) {
    switch (text.charCodeAt(i)) {
      case 0x5b: // [
      case 0x7b: // {
        tokens++;
        if (++depth > MAX_FLOW_DEPTH) return { message: "is nested too deeply" };
        break;
      case 0x5d: // ]
      case 0x7d: // }
        tokens++;
        if (depth > 0) depth--;
        break;
      case 0x26: // &
      case 0x2a: // *
        if (isReference(text, i)) references++;
        break;
      case 0x2d: // -
      case 0x3f: // ?
        if (isBlank(text.charCodeAt(i + 1))) tokens++;
        break;
      case 0x21: // ! (a tag costs as much as two values)
        tokens += 3;
        break;
      case 0x0a:
      case 0x22: // "
      case 0x27: // '
      case 0x2c: // ,
      case 0x3a: // :
        tokens++;
        break;
    }
  }
  // Block collections nest by indentation, compact sequences (`- - - `) by dashes.
  if (/^ {512}/m.test(text) || /(?:- ){64}/.test(text) || /(?:\? ){64}/.test(text))
    return { message: "is nested too deeply" };
  if (references > MAX_REFERENCES)
    return { message: `has more than ${MAX_REFERENCES} anchors and aliases`, hint: "write the values out" };
  return tokens > MAX_TOKENS
    ? {
        message: `is too large: ${tokens} lines, quotes and separators, at most ${MAX_TOKENS} are read`,
        hint: "split it into documents with `---`",
      }
    : undefined;
}

/** A blank, a line break, or the end. */
const isBlank = (code: number): boolean =>
  code === 0x20 || code === 0x0a || code === 0x09 || Number.isNaN(code);

/** Whether `&` or `*` begins a token, and is not part of a word such as `/api/**`. */
function isReference(text: string, at: number): boolean {
  const before = text.charCodeAt(at - 1);
  return (
    !isBlank(text.charCodeAt(at + 1)) &&
    (isBlank(before) || before === 0x2c || before === 0x5b || before === 0x7b || before === 0x3a)
  );
}

function firstLine(message: string): string {
  const line = message.split("\n", 1)[0] ?? "";
  return line.charAt(0).toLowerCase() + line.slice(1).replace(/ at line \d+, column \d+:?$/, "");
}

function parseTree(text: string): Document.Parsed {
  return parseDocument(text, {
    version: "1.2",
    schema: "core",
    merge: false,
    uniqueKeys: false,
    prettyErrors: false,
    stringKeys: true,
    logLevel: "silent",
  });
}

/** @returns the plain value of the document, or everything that is wrong with its syntax. */
export function parseYamlText(text: string): Result<unknown, readonly YamlProblem[]> {
  const one = (message: string, hint?: string): Result<never, readonly YamlProblem[]> => ({
    ok: false,
    error: [{ line: 1, message, ...(hint === undefined ? {} : { hint }) }],
  });
  if (/^%/.test(text)) return one("directives such as `%YAML` are not supported", "remove the line");
  const excess = tooMuch(text);
  if (excess !== undefined) return one(excess.message, excess.hint);
  try {
    const document = parseTree(text);
    const found = [...document.errors, ...document.warnings];
    if (found.length > 0) {
      return {
        ok: false,
        error: found.slice(0, MAX_SYNTAX_PROBLEMS).map((error) => ({
          line: lineAt(text, error.pos[0]),
          message: `is not YAML: ${firstLine(error.message)}`,
        })),
      };
    }
    const strict = [...repeatedKeys(text, document), ...oldBooleans(text, document)];
    if (strict.length > 0) return { ok: false, error: strict.slice(0, MAX_SYNTAX_PROBLEMS) };
    return { ok: true, value: document.toJS({ maxAliasCount: MAX_ALIASES }) };
  } catch (error) {
    if (error instanceof ReferenceError)
      return one("uses aliases (`*name`) too often", "write the values out");
    // The parser is recursive; nothing else throws.
    return one("cannot be read as YAML: it is nested too deeply or broken");
  }
}

const STEP = /([^.[\]]+)|\[(\d+)\]/g;

/**
 * Line of a field within its document; of the closest one above it that is there, when it is not. Parses the text
 * again, so it is for messages only.
 *
 * @param path such as `spec.rules[0].from`.
 */
export function lineOfField(text: string, path: string): number {
  try {
    let node: unknown = parseTree(text).contents;
    let offset = rangeStart(node);
    for (const [, name, index] of path.matchAll(STEP)) {
      let next: unknown;
      if (isMap(node) && name !== undefined) {
        const pair = node.items.find((item) => isScalar(item.key) && String(item.key.value) === name);
        if (pair === undefined) break;
        offset = rangeStart(pair.key) ?? offset;
        next = pair.value;
      } else if (isSeq(node) && index !== undefined) {
        next = node.items[Number(index)];
        offset = rangeStart(next) ?? offset;
      }
      if (next === undefined) break;
      node = next;
    }
    return lineAt(text, offset ?? 0);
  } catch {
    // A message without an exact line is better than none.
    return 1;
  }
}

function rangeStart(node: unknown): number | undefined {
  // Every node that the parser makes has a range; anything else has no start.
  return typeof node === "object" && node !== null && "range" in node
    ? ((node as Node).range?.[0] ?? undefined)
    : undefined;
}
