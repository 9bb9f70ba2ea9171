// The files of lines that a process writes: opened when it starts, flushed and closed together.
import { MeshError, messageOf } from "../core/runtime/errors.ts";
import type { Logger } from "../core/runtime/log.ts";
import { LineFile } from "./line-file.ts";

const MAX_HELD_BYTES = 8 * 1024 * 1024;
const DELAY_MS = 100;

export class LineFiles {
  readonly #log: Logger;
  readonly #files: LineFile[] = [];

  constructor(log: Logger) {
    this.#log = log;
  }

  /**
   * @param flag that names the file, for errors.
   * @param path `-` is standard output; undefined: nothing is to be written.
   * @throws MeshError `bad_config` when it cannot be opened.
   */
  open(flag: string, path: string | undefined): LineFile | undefined {
    if (path === undefined) return undefined;
    try {
      const file = new LineFile({ path, log: this.#log, maxHeldBytes: MAX_HELD_BYTES, delayMs: DELAY_MS });
      this.#files.push(file);
      return file;
    } catch (error) {
      throw new MeshError("bad_config", `${flag}: cannot open \`${path}\`: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }

  /** Writes the lines that wait. */
  async flush(): Promise<void> {
    for (const file of this.#files) await file.flush();
  }

  async close(): Promise<void> {
    for (const file of this.#files) await file.close();
  }
}
