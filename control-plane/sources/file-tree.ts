// Finds the YAML files of a directory and reads them, within limits and never outside of the directory.
import { closeSync, fstatSync, openSync, readdirSync, readSync, realpathSync, statSync } from "node:fs";
import { join, sep } from "node:path";
import { messageOf, type Result } from "../../sidecar/core/runtime/errors.ts";
import type { FieldProblem } from "./field-problem.ts";

const MAX_FILE_BYTES = 1024 * 1024;
const MAX_FILES = 10_000;
const MAX_DIRECTORY_DEPTH = 16;
/** Files looked at in one step. */
const STEP_FILES = 32;

export interface FileEntry {
  /** Below the directory, with `/`. */
  readonly path: string;
  readonly absolute: string;
  readonly size: number;
  readonly mtimeMs: number;
  readonly ctimeMs: number;
  readonly ino: number;
}

export interface TreeReading {
  readonly files: readonly FileEntry[];
  /** Directories to watch, absolute. */
  readonly directories: readonly string[];
  /** Paths (below the directory) that could not be listed or read; `` for the directory itself. */
  readonly unreadable: readonly string[];
  readonly problems: readonly FieldProblem[];
  readonly notices: readonly FieldProblem[];
}

/** Names that editors, Git and Kubernetes volumes use for themselves; everything without a YAML suffix is skipped too. */
export function isSkipped(name: string): boolean {
  return (
    name.startsWith(".") ||
    name.startsWith("#") ||
    name.endsWith("~") ||
    name.endsWith("___jb_tmp___") ||
    name.endsWith("___jb_old___")
  );
}

const isYaml = (name: string): boolean => /\.ya?ml$/.test(name);

interface Walk {
  readonly realRoot: string;
  readonly files: FileEntry[];
  readonly directories: string[];
  readonly unreadable: string[];
  readonly problems: FieldProblem[];
  readonly notices: FieldProblem[];
}

function codeOf(error: unknown): string {
  return typeof error === "object" && error !== null && "code" in error ? String(error.code) : "";
}

/** Every YAML file below `root`, sorted by path. Hidden files, editor files and links that lead outside are left out. */
export function listTree(root: string): TreeReading {
  const steps = listTreeSteps(root);
  for (;;) {
    const step = steps.next();
    if (step.done) return step.value;
  }
}

/** The same in steps of a few files: ten thousand of them take 100 ms and more. */
export function* listTreeSteps(root: string): Generator<void, TreeReading> {
  const walk: Walk = { realRoot: "", files: [], directories: [], unreadable: [], problems: [], notices: [] };
  try {
    yield* walkDirectory({ ...walk, realRoot: realpathSync(root) }, root, "", 0);
  } catch (error) {
    walk.unreadable.push("");
    walk.problems.push({ path: "", message: `the directory cannot be read: ${messageOf(error)}` });
  }
  walk.files.sort((a, b) => (a.path < b.path ? -1 : 1));
  return walk;
}

function* walkDirectory(walk: Walk, directory: string, relative: string, depth: number): Generator<void> {
  // The root's own error goes to the caller; further down it is noted and the rest is read.
  const entries = readdirSync(directory, { withFileTypes: true });
  walk.directories.push(directory);
  for (const entry of entries) {
    if (isSkipped(entry.name)) continue;
    const path = relative === "" ? entry.name : `${relative}/${entry.name}`;
    const absolute = join(directory, entry.name);
    try {
      if (entry.isDirectory()) {
        if (depth >= MAX_DIRECTORY_DEPTH)
          walk.problems.push({
            file: path,
            path: "",
            message: `directories are at most ${MAX_DIRECTORY_DEPTH} levels deep`,
          });
        else yield* walkDirectory(walk, absolute, path, depth + 1);
      } else if (isYaml(entry.name)) {
        addFile(walk, entry.isSymbolicLink(), path, absolute);
        if (walk.files.length % STEP_FILES === 0) yield;
      } else if (entry.isSymbolicLink() && statSync(absolute).isDirectory()) {
        walk.notices.push({ file: path, path: "", message: "a link to a directory is not followed" });
      }
    } catch (error) {
      // Gone between the listing and now: as if it had never been listed.
      if (codeOf(error) === "ENOENT" && !entry.isSymbolicLink()) continue;
      walk.unreadable.push(path);
      walk.problems.push({ file: path, path: "", message: `cannot be read: ${messageOf(error)}` });
    }
  }
}

function addFile(walk: Walk, isLink: boolean, path: string, absolute: string): void {
  if (isLink && !realpathSync(absolute).startsWith(walk.realRoot + sep)) {
    walk.unreadable.push(path);
    walk.problems.push({
      file: path,
      path: "",
      message: "is a link that leads out of the directory",
      hint: "put the file itself here",
    });
    return;
  }
  const stat = statSync(absolute);
  if (!stat.isFile()) return;
  if (walk.files.length >= MAX_FILES) {
    walk.unreadable.push(path);
    if (walk.files.length === MAX_FILES)
      walk.problems.push({
        file: path,
        path: "",
        message: `there are more than ${MAX_FILES} files; this one and those after it are not read`,
      });
    return;
  }
  walk.files.push({
    path,
    absolute,
    size: stat.size,
    mtimeMs: stat.mtimeMs,
    ctimeMs: stat.ctimeMs,
    ino: stat.ino,
  });
}

interface FileText {
  readonly text: string;
  /** false: the file changed while it was read, so it should be read again. */
  readonly stable: boolean;
}

/** Reads a file of at most 1 MiB as UTF-8. @returns what is wrong, in words; `ENOENT` when it is gone. */
export function readFileText(entry: FileEntry): Result<FileText, string> {
  if (entry.size > MAX_FILE_BYTES)
    return { ok: false, error: `is larger than ${MAX_FILE_BYTES} bytes; split it` };
  let handle: number | undefined;
  try {
    handle = openSync(entry.absolute, "r");
    const buffer = Buffer.allocUnsafe(entry.size + 1);
    let length = 0;
    for (let read = 1; read > 0 && length < buffer.length; length += read)
      read = readSync(handle, buffer, length, buffer.length - length, null);
    const after = fstatSync(handle);
    const stable =
      length === entry.size &&
      after.size === entry.size &&
      after.mtimeMs === entry.mtimeMs &&
      after.ino === entry.ino;
    return {
      ok: true,
      value: {
        text: new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(buffer.subarray(0, length)),
        stable,
      },
    };
  } catch (error) {
    if (codeOf(error) === "ENOENT") return { ok: false, error: "ENOENT" };
    if (codeOf(error) === "ERR_ENCODING_INVALID_ENCODED_DATA")
      return { ok: false, error: "is not UTF-8 text" };
    return { ok: false, error: `cannot be read: ${messageOf(error)}` };
  } finally {
    if (handle !== undefined) closeSync(handle);
  }
}
