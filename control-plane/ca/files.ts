// Private files of the control plane: written whole or not at all, readable by their owner only.
import { randomBytes } from "node:crypto";
import { open, readFile, rename, rm, stat } from "node:fs/promises";
import { MeshError, systemCodeOf } from "../../sidecar/core/runtime/errors.ts";

/** Writes `path` (mode 0600) through a temporary file beside it, synced before it takes the name. */
export async function writePrivateFile(path: string, text: string): Promise<void> {
  const temporary = `${path}.${randomBytes(6).toString("hex")}.tmp`;
  try {
    const file = await open(temporary, "wx", 0o600);
    try {
      await file.writeFile(text);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (cause) {
    await rm(temporary, { force: true });
    throw new MeshError("io_failed", `cannot write \`${path}\``, { cause });
  }
}

/**
 * Reads a private file.
 *
 * @returns undefined when there is none.
 * @throws MeshError `bad_config` when others may read it, `io_failed` when it cannot be read.
 */
export async function readPrivateFile(path: string): Promise<string | undefined> {
  try {
    const { mode } = await stat(path);
    if ((mode & 0o077) !== 0) {
      throw new MeshError(
        "bad_config",
        `\`${path}\` holds a key and others may read it; set its mode to 0600`,
      );
    }
    return await readFile(path, "utf8");
  } catch (error) {
    if (error instanceof MeshError) throw error;
    if (systemCodeOf(error) === "ENOENT") return undefined;
    throw new MeshError("io_failed", `cannot read \`${path}\``, { cause: error });
  }
}
