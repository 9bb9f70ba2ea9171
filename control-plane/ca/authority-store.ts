// Where an authority keeps its files: one small interface, and the directory of a control plane that runs alone.
// secret-store.ts keeps the same files in Kubernetes, for any number of replicas.
import { createHash, randomBytes } from "node:crypto";
import { chmod, mkdir, readdir, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { MeshError, systemCodeOf } from "../../sidecar/core/runtime/errors.ts";
import { readPrivateFile, writePrivateFile } from "./files.ts";

/** The file that names all others: written after them, so that it never names one that is not there. */
export const MANIFEST_FILE = "authority.json";
/** Names that are an authority's; whatever else lies in its place is not read and not removed. */
const OWN_FILE = /^(?:authority\.json|(?:root|issuing|wit|tts)[a-z0-9-]*\.pem|session-[0-9a-f]+\.key)$/;

export interface StoredFiles {
  /** Text by file name; empty when there is no authority yet. */
  readonly files: ReadonlyMap<string, string>;
  /** To be given to `save`; undefined: nothing is there, `save` makes it. */
  readonly version: string | undefined;
}

export interface AuthorityStore {
  /** For messages, such as "`/var/lib/countersign/ca`". */
  readonly place: string;
  /** For messages: what to choose when this one belongs to another mesh. */
  readonly another: string;
  /** Whether other processes read and write it too. */
  readonly shared: boolean;
  /** @throws MeshError `bad_config` when others may read it, `io_failed` when it cannot be read. */
  load(): Promise<StoredFiles>;
  /**
   * Replaces everything that is stored.
   *
   * @param expectedVersion of the `load` or `save` that `files` was made from.
   * @returns the version now.
   * @throws MeshError `conflict` when somebody else wrote since; `io_failed`. What was stored then still is.
   */
  save(files: ReadonlyMap<string, string>, expectedVersion: string | undefined): Promise<string>;
}

export function isAuthorityFile(name: string): boolean {
  return OWN_FILE.test(name);
}

/** Nobody else may have written in between. */
export function writeConflict(place: string, cause?: unknown): MeshError {
  return new MeshError("conflict", `somebody else wrote the certificate authority in ${place}; try again`, {
    cause,
  });
}

function versionOf(files: ReadonlyMap<string, string>): string {
  const digest = createHash("sha256");
  for (const name of [...files.keys()].sort()) digest.update(`${name}\n${files.get(name)}\n`);
  return digest.digest("base64url");
}

/**
 * `{stateDir}/ca`: directory 0700, files 0600. One process at a time (the state directory has a lock).
 *
 * INVARIANT: a crash at any moment leaves the authority of before or of after: new files come first, then the manifest
 * that names them, then what it names no more is removed.
 */
export class FileAuthorityStore implements AuthorityStore {
  readonly place: string;
  readonly another = "use another state directory";
  readonly shared = false;
  readonly #dir: string;

  constructor(stateDir: string) {
    this.#dir = join(stateDir, "ca");
    this.place = `\`${this.#dir}\``;
  }

  async load(): Promise<StoredFiles> {
    const files = new Map<string, string>();
    const names = await this.#names();
    if (names.length > 0) await chmod(this.#dir, 0o700);
    for (const name of names.filter(isAuthorityFile)) {
      const text = await readPrivateFile(join(this.#dir, name));
      if (text !== undefined) files.set(name, text);
    }
    // A directory that somebody made empty holds no authority yet.
    return { files, version: names.length === 0 ? undefined : versionOf(files) };
  }

  async save(files: ReadonlyMap<string, string>, expectedVersion: string | undefined): Promise<string> {
    if (expectedVersion === undefined) await this.#create(files);
    else await this.#replace(files, expectedVersion);
    return versionOf(files);
  }

  async #names(): Promise<readonly string[]> {
    try {
      return await readdir(this.#dir);
    } catch (error) {
      if (systemCodeOf(error) === "ENOENT") return [];
      throw new MeshError("io_failed", `cannot read ${this.place}`, { cause: error });
    }
  }

  /** Makes it whole in a directory beside the final one, then gives it its name: there is never half of one. */
  async #create(files: ReadonlyMap<string, string>): Promise<void> {
    const temporary = `${this.#dir}.${randomBytes(6).toString("hex")}.tmp`;
    try {
      await mkdir(dirname(this.#dir), { recursive: true, mode: 0o700 });
      await mkdir(temporary, { mode: 0o700 });
      for (const [name, text] of files) await writePrivateFile(join(temporary, name), text);
      await rename(temporary, this.#dir);
    } catch (cause) {
      await rm(temporary, { recursive: true, force: true });
      const code = systemCodeOf(cause);
      if (code === "ENOTEMPTY" || code === "EEXIST") throw writeConflict(this.place, cause);
      throw new MeshError("io_failed", `cannot make the certificate authority in ${this.place}`, { cause });
    }
  }

  async #replace(files: ReadonlyMap<string, string>, expectedVersion: string): Promise<void> {
    const now = await this.load();
    if (now.version !== expectedVersion) throw writeConflict(this.place);
    const manifestLast = [...files.keys()].sort(
      (a, b) => Number(a === MANIFEST_FILE) - Number(b === MANIFEST_FILE),
    );
    for (const name of manifestLast) {
      const text = files.get(name) ?? "";
      if (now.files.get(name) !== text) await writePrivateFile(join(this.#dir, name), text);
    }
    for (const name of now.files.keys())
      if (!files.has(name)) await rm(join(this.#dir, name), { force: true });
  }
}
