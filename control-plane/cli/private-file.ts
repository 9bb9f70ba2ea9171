// Files with secrets: for their owner alone from the first byte on, and never half of one.
import { renameSync, rmSync, writeFileSync } from "node:fs";

/** Writes or replaces a file with mode 0600. Throws what the file system does. */
export function writePrivateFile(path: string, text: string): void {
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    writeFileSync(temporary, text, { mode: 0o600, flag: "wx" });
    renameSync(temporary, path);
  } finally {
    rmSync(temporary, { force: true });
  }
}
