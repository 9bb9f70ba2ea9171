// Reads a configuration for the commands that answer without a control plane, with the reader of directory mode.
import { statSync } from "node:fs";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";
import { readDirectory } from "../sources/directory.ts";
import type { FileEntry } from "../sources/file-tree.ts";
import { loadSchemas, type SchemaSet } from "../sources/schema.ts";

/**
 * One reading of files and directories.
 *
 * @throws MeshError `io_failed` for a path that does not exist or cannot be read.
 */
export function readConfiguration(
  paths: readonly string[],
  schemas: SchemaSet = loadSchemas(),
): ReturnType<typeof readDirectory> {
  try {
    return readDirectory(paths, schemas);
  } catch (error) {
    throw new MeshError("io_failed", messageOf(error), { cause: error });
  }
}

/** What `readFileText` wants to know of one file. @throws MeshError `io_failed` when it is not there or no file. */
export function fileEntryOf(path: string): FileEntry {
  let stat: ReturnType<typeof statSync>;
  try {
    stat = statSync(path);
  } catch (error) {
    throw new MeshError("io_failed", `\`${path}\` cannot be read: ${messageOf(error)}`, { cause: error });
  }
  if (!stat.isFile()) throw new MeshError("io_failed", `\`${path}\` is not a file; name a decision table`);
  const { size, mtimeMs, ctimeMs, ino } = stat;
  return { path, absolute: path, size, mtimeMs, ctimeMs, ino };
}
