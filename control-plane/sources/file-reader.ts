// Turns a listing of files into checked objects. Files that did not change are not read again, documents that did not
// change are not parsed again: one edit among ten thousand policies costs one document.
import { hash } from "node:crypto";
import type { ObjectParser } from "../policy/typed-object.ts";
import type { FieldProblem } from "./field-problem.ts";
import { type FileEntry, readFileText } from "./file-tree.ts";
import type { Candidate, DocumentReading, FileReading } from "./reconcile.ts";
import { KINDS, type SchemaSet } from "./schema.ts";
import { lineOfField, MAX_DOCUMENTS, parseYamlText, splitDocuments, type YamlProblem } from "./yaml-files.ts";

const MAX_OBJECTS = 50_000;
/** A file that was written this shortly before it was read may be written again without a newer time stamp. */
const RACY_MS = 100;

interface Reading {
  readonly files: readonly FileReading[];
  readonly changed: boolean;
  readonly stable: boolean;
}

type ParsedDocument =
  | { readonly ok: true; readonly candidates: readonly Candidate[] }
  | { readonly ok: false; readonly problems: readonly YamlProblem[] };

interface CachedFile {
  readonly entry: FileEntry;
  readonly readAtMs: number;
  readonly textDigest: string;
  readonly reading: FileReading;
}

const digestOf = (text: string): string => hash("sha256", text, "base64url");

type Fields = Readonly<Record<string, unknown>>;
const isFields = (value: unknown): value is Fields =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** `Kind/namespace/name` as far as the object says so itself, valid or not. */
export function keyOf(object: unknown): { key: string | undefined; title: string } {
  const kind = isFields(object) ? object["kind"] : undefined;
  const metadata = isFields(object) ? object["metadata"] : undefined;
  const name = isFields(metadata) ? metadata["name"] : undefined;
  const namespace = isFields(metadata) ? metadata["namespace"] : undefined;
  const parts = [kind, namespace, name].map((part) =>
    typeof part === "string" ? part.replace(/[^\w.-]/g, "?").slice(0, 80) : undefined,
  );
  const title = `${parts[0] ?? "object"} ${parts[1] === undefined ? "" : `${parts[1]}/`}${parts[2] ?? "without name"}`;
  const known = KINDS.some((candidate) => candidate === kind) && parts[2] !== undefined;
  return { key: known ? parts.filter((part) => part !== undefined).join("/") : undefined, title };
}

export class FileReader {
  readonly #schemas: SchemaSet;
  readonly #parse: ObjectParser;
  readonly #nowMs: () => number;
  #files = new Map<string, CachedFile>();
  #documents = new Map<string, ParsedDocument>();

  /** @param nowMs Unix milliseconds, to compare with times of files. */
  constructor(schemas: SchemaSet, parse: ObjectParser, nowMs: () => number) {
    this.#schemas = schemas;
    this.#parse = parse;
    this.#nowMs = nowMs;
  }

  /** Takes over an accepted object with the digest of the document it came from, so that it is not parsed again. */
  seed(digest: string, candidate: Candidate): void {
    this.#documents.set(digest, { ok: true, candidates: [candidate] });
  }

  /**
   * Reads every file that changed since the last call.
   *
   * @returns `changed`: whether anything differs from the last call; `stable`: false when a file changed or went away
   *   while it was read, so that the caller should read again shortly.
   */
  readAll(entries: readonly FileEntry[]): Reading {
    const steps = this.steps(entries);
    for (;;) {
      const step = steps.next();
      if (step.done) return step.value;
    }
  }

  /** The same in steps of one document, so that a long reading can let others work in between. */
  *steps(entries: readonly FileEntry[]): Generator<void, Reading> {
    const next = new Map<string, CachedFile>();
    const documents = new Map<string, ParsedDocument>();
    let changed = entries.length !== this.#files.size;
    let stable = true;
    let objects = 0;
    for (const entry of entries) {
      const before = this.#files.get(entry.path);
      if (!this.#isFresh(before, entry)) yield;
      const result = this.#isFresh(before, entry)
        ? { cached: before, stable: true }
        : yield* this.#readFile(entry, before, documents);
      stable &&= result.stable;
      if (result.cached === undefined) {
        changed = true;
        continue;
      }
      objects += result.cached.reading.documents.reduce(
        (sum, document) => sum + document.candidates.length,
        0,
      );
      const cached = objects > MAX_OBJECTS ? tooMany(result.cached) : result.cached;
      changed ||= cached.reading !== before?.reading;
      next.set(entry.path, cached);
      for (const { digest } of cached.reading.documents) {
        const known = documents.get(digest) ?? this.#documents.get(digest);
        if (known) documents.set(digest, known);
      }
    }
    this.#files = next;
    this.#documents = documents;
    return { files: [...next.values()].map((cached) => cached.reading), changed, stable };
  }

  #isFresh(before: CachedFile | undefined, entry: FileEntry): before is CachedFile {
    if (before === undefined) return false;
    const { entry: old, readAtMs } = before;
    const same =
      old.size === entry.size &&
      old.mtimeMs === entry.mtimeMs &&
      old.ctimeMs === entry.ctimeMs &&
      old.ino === entry.ino;
    return same && readAtMs - Math.max(entry.mtimeMs, entry.ctimeMs) > RACY_MS;
  }

  *#readFile(
    entry: FileEntry,
    before: CachedFile | undefined,
    documents: Map<string, ParsedDocument>,
  ): Generator<void, { cached: CachedFile | undefined; stable: boolean }> {
    const readAtMs = this.#nowMs();
    const file = readFileText(entry);
    if (!file.ok && file.error === "ENOENT") return { cached: undefined, stable: false };
    if (!file.ok) {
      const problem = {
        file: entry.path,
        path: "",
        message: file.error,
        hint: "what it held before stays in force",
      };
      return {
        cached: {
          entry,
          readAtMs,
          textDigest: "",
          reading: broken(entry.path, [problem], before, file.error),
        },
        stable: true,
      };
    }
    const { text, stable } = file.value;
    const textDigest = digestOf(text);
    if (before?.textDigest === textDigest) return { cached: { ...before, entry, readAtMs }, stable };
    const reading = yield* this.#readText(entry.path, text, documents);
    return { cached: { entry, readAtMs, textDigest, reading }, stable };
  }

  /** The objects of one text; used for single files too. */
  *#readText(
    file: string,
    text: string,
    documents: Map<string, ParsedDocument>,
  ): Generator<void, FileReading> {
    const readings: DocumentReading[] = [];
    const problems: FieldProblem[] = [];
    if (text.trim() === "") {
      return {
        file,
        broken: true,
        documents: [],
        problems: [
          {
            file,
            path: "",
            message: "is empty",
            hint: "what it held before stays in force; delete the file to remove that",
          },
        ],
      };
    }
    const parts = splitDocuments(text);
    if (parts.length > MAX_DOCUMENTS) {
      const message = `has more than ${MAX_DOCUMENTS} documents, which is the most that is read`;
      return {
        file,
        broken: true,
        documents: [],
        problems: [{ file, path: "", message, hint: "split the file" }],
      };
    }
    for (const { text: part, line } of parts) {
      const digest = digestOf(part);
      if (!documents.has(digest) && !this.#documents.has(digest)) yield;
      const parsed = documents.get(digest) ?? this.#documents.get(digest) ?? this.#parseDocument(part);
      documents.set(digest, parsed);
      if (parsed.ok) {
        readings.push({ digest, lineOffset: line - 1, candidates: parsed.candidates });
        continue;
      }
      for (const problem of parsed.problems) {
        const hint = [problem.hint, "nothing in this file changes what is in force until it is right"]
          .filter((part) => part !== undefined)
          .join("; ");
        problems.push({ file, line: line - 1 + problem.line, path: "", message: problem.message, hint });
      }
    }
    return problems.length > 0
      ? { file, broken: true, documents: [], problems }
      : { file, broken: false, documents: readings, problems };
  }

  #parseDocument(text: string): ParsedDocument {
    const parsed = parseYamlText(text);
    if (!parsed.ok) return { ok: false, problems: parsed.error };
    if (parsed.value === null || parsed.value === undefined) return { ok: true, candidates: [] };
    const { value } = parsed;
    const kind = isFields(value) ? value["kind"] : undefined;
    if (
      isFields(value) &&
      typeof kind === "string" &&
      kind.endsWith("List") &&
      Array.isArray(value["items"])
    ) {
      return {
        ok: true,
        candidates: value["items"].map((item: unknown, index) => this.#check(item, text, `items[${index}]`)),
      };
    }
    return { ok: true, candidates: [this.#check(value, text, "")] };
  }

  #check(raw: unknown, text: string, prefix: string): Candidate {
    const { key, title } = keyOf(raw);
    const lines = new Map<string, number>();
    // Asked again at every reading while the object is refused, and each answer parses the document anew.
    const lineOf = (path: string): number => {
      const line =
        lines.get(path) ??
        lineOfField(text, prefix === "" || path === "" ? prefix + path : `${prefix}.${path}`);
      lines.set(path, line);
      return line;
    };
    const valid = this.#schemas.validate(raw);
    if (!valid.ok) return { raw, key, title, checked: valid, lineOf };
    const typed = this.#parse(valid.value);
    const checked: Candidate["checked"] = typed.ok
      ? { ok: true, value: { valid: valid.value, typed: typed.value } }
      : typed;
    return { raw, key, title, checked, lineOf };
  }
}

/** A file that cannot be read keeps its earlier report when nothing about it is new. */
function broken(
  file: string,
  problems: readonly FieldProblem[],
  before: CachedFile | undefined,
  message: string,
): FileReading {
  const same =
    before?.reading.broken === true &&
    before.textDigest === "" &&
    before.reading.problems[0]?.message === message;
  return same && before ? before.reading : { file, broken: true, documents: [], problems };
}

function tooMany(cached: CachedFile): CachedFile {
  const { file } = cached.reading;
  const problem = {
    file,
    path: "",
    message: `there are more than ${MAX_OBJECTS} objects; those of this file are not read`,
  };
  return { ...cached, reading: { file, broken: true, documents: [], problems: [problem] } };
}
