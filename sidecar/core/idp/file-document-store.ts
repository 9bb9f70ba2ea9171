// Keeps a provider's last good documents in a file (0600), written whole or not at all.
import { randomBytes } from "node:crypto";
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { systemCodeOf } from "../runtime/errors.ts";
import type { DocumentStore } from "./issuer-documents.ts";

/** @param directory made with mode 0700 when missing; @param name of the provider, as Kubernetes names objects. */
export function fileDocumentStore(directory: string, name: string): DocumentStore {
  const path = join(directory, `${name}.json`);
  return {
    async load() {
      try {
        return await readFile(path, "utf8");
      } catch (error) {
        if (systemCodeOf(error) === "ENOENT") return undefined;
        throw error;
      }
    },
    async save(text) {
      await mkdir(directory, { recursive: true, mode: 0o700 });
      const temporary = `${path}.${randomBytes(6).toString("hex")}.tmp`;
      try {
        await writeFile(temporary, text, { mode: 0o600, flag: "wx" });
        await rename(temporary, path);
      } catch (error) {
        await rm(temporary, { force: true });
        throw error;
      }
    },
  };
}
