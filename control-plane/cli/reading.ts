// Reads a configuration for the commands that answer without a control plane, with the reader of directory mode.
import { type Stats, statSync } from "node:fs";
import { MeshError, messageOf, systemCodeOf } from "../../sidecar/core/runtime/errors.ts";
import { readDirectory } from "../sources/directory.ts";
import { type FileEntry, readFileText } from "../sources/file-tree.ts";
import { loadSchemas, type SchemaSet } from "../sources/schema.ts";
import { lineOfField, parseYamlText, splitDocuments } from "../sources/yaml-files.ts";
import { fieldsOf, listOf, textOf } from "./answers.ts";

/**
 * One reading of files and directories.
 *
 * @throws MeshError `io_failed` for a path that does not exist or cannot be read.
 */
export function readConfiguration(
  paths: readonly string[],
  schemas: SchemaSet = loadSchemas(),
): ReturnType<typeof readDirectory> {
  for (const path of paths) statOf(path);
  try {
    return readDirectory(paths, schemas);
  } catch (error) {
    throw new MeshError("io_failed", messageOf(error), { cause: error });
  }
}

function statOf(path: string): Stats {
  try {
    return statSync(path);
  } catch (error) {
    const why = systemCodeOf(error) === "ENOENT" ? "does not exist" : `cannot be read: ${messageOf(error)}`;
    throw new MeshError("io_failed", `\`${path}\` ${why}`, { cause: error });
  }
}

/** What `readFileText` wants to know of one file. @throws MeshError `io_failed` when it is not there or no file. */
export function fileEntryOf(path: string): FileEntry {
  const stat = statOf(path);
  if (!stat.isFile()) throw new MeshError("io_failed", `\`${path}\` is not a file`);
  const { size, mtimeMs, ctimeMs, ino } = stat;
  return { path, absolute: path, size, mtimeMs, ctimeMs, ino };
}

/**
 * Finds lines of fields by reading the file again, each once: for messages about objects that were accepted.
 *
 * @returns the line of a field of an object, undefined when the file does not hold it (any more).
 */
export function createLineFinder(): (
  file: string,
  object: { readonly kind: string; readonly namespace: string | undefined; readonly name: string },
  path: string,
) => number | undefined {
  const files = new Map<string, readonly Located[]>();
  return (file, { kind, namespace, name }, path) => {
    let objects = files.get(file);
    if (objects === undefined) {
      objects = objectsOf(file);
      files.set(file, objects);
    }
    const found = objects.find(
      (one) =>
        one.kind === kind && one.name === name && (namespace === undefined || one.namespace === namespace),
    );
    if (found === undefined) return undefined;
    const inner = found.prefix === "" || path === "" ? found.prefix + path : `${found.prefix}.${path}`;
    return found.line - 1 + lineOfField(found.text, inner);
  };
}

interface Located {
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
  readonly text: string;
  readonly line: number;
  /** Path of the object in its document, for a list. */
  readonly prefix: string;
}

function objectsOf(file: string): readonly Located[] {
  const content = readFileText(fileEntryOf(file));
  if (!content.ok) return [];
  return splitDocuments(content.value.text).flatMap(({ text, line }) => {
    const parsed = parseYamlText(text);
    if (!parsed.ok) return [];
    const fields = fieldsOf(parsed.value);
    const items = Array.isArray(fields["items"]) ? listOf(fields["items"]) : [fields];
    return items.map((one, index) => {
      const metadata = fieldsOf(one["metadata"]);
      const prefix = items[0] === fields ? "" : `items[${index}]`;
      const [kind, name, namespace] = [one["kind"], metadata["name"], metadata["namespace"]].map(textOf);
      return { kind: kind ?? "", name: name ?? "", namespace: namespace ?? "", text, line, prefix };
    });
  });
}
