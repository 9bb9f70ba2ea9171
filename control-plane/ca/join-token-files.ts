// Join tokens in a directory: a file per token, and a second one, made exclusively, that marks it used. The mark comes
// before the answer, so no crash or race uses a token twice.
import { mkdir, open, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { MeshError, systemCodeOf } from "../../sidecar/core/runtime/errors.ts";
import { readPrivateFile, writePrivateFile } from "./files.ts";
import { type JoinTokenRecord, type JoinTokenStore, parseStored, type StoredToken } from "./join-tokens.ts";

const ID_FILE = /^([0-9a-f]{16})\.json$/;

function directory(stateDir: string): string {
  return join(stateDir, "join-tokens");
}

/** Takes the mark of a token; false when somebody has it. */
async function takeMark(path: string, nowMs: number): Promise<boolean> {
  try {
    const file = await open(path, "wx", 0o600);
    try {
      await file.writeFile(JSON.stringify({ usedAtMs: nowMs }));
      await file.sync();
    } finally {
      await file.close();
    }
    return true;
  } catch (error) {
    if (systemCodeOf(error) === "EEXIST") return false;
    throw new MeshError("io_failed", `cannot write \`${path}\``, { cause: error });
  }
}

/** Tokens below `{stateDir}/join-tokens`. */
export function fileJoinTokens(stateDir: string): JoinTokenStore {
  const read = async (id: string): Promise<StoredToken | undefined> => {
    const text = await readPrivateFile(join(directory(stateDir), `${id}.json`));
    return text === undefined ? undefined : parseStored(text);
  };
  return {
    async create(token) {
      await mkdir(directory(stateDir), { recursive: true, mode: 0o700 });
      await writePrivateFile(join(directory(stateDir), `${token.id}.json`), JSON.stringify(token));
    },
    read,
    take: (id, nowMs) => takeMark(join(directory(stateDir), `${id}.used`), nowMs),
  };
}

async function names(stateDir: string): Promise<readonly string[]> {
  try {
    return await readdir(directory(stateDir));
  } catch (error) {
    if (systemCodeOf(error) === "ENOENT") return [];
    throw new MeshError("io_failed", `cannot read \`${directory(stateDir)}\``, { cause: error });
  }
}

/** All tokens that are kept, used and expired ones too, oldest first. */
export async function listJoinTokens(
  stateDir: string,
): Promise<readonly (JoinTokenRecord & { readonly used: boolean })[]> {
  const found = new Set(await names(stateDir));
  const records: (JoinTokenRecord & { readonly used: boolean })[] = [];
  for (const name of found) {
    const id = ID_FILE.exec(name)?.[1];
    if (id === undefined) continue;
    const text = await readPrivateFile(join(directory(stateDir), name));
    const stored = text === undefined ? undefined : parseStored(text);
    if (stored === undefined) continue;
    const { secretSha256: _secret, ...record } = stored;
    records.push({ ...record, used: found.has(`${id}.used`) });
  }
  return records.sort((a, b) => a.createdAtMs - b.createdAtMs);
}

/**
 * Deletes expired tokens (used or not). A used token stays until it expires; its record goes before its mark, so a crash
 * between the two cannot revive it.
 *
 * @returns how many were deleted.
 */
export async function purgeJoinTokens(stateDir: string, nowMs: number): Promise<number> {
  let purged = 0;
  for (const record of await listJoinTokens(stateDir)) {
    if (nowMs < record.expiresAtMs) continue;
    await rm(join(directory(stateDir), `${record.id}.json`), { force: true });
    await rm(join(directory(stateDir), `${record.id}.used`), { force: true });
    purged++;
  }
  return purged;
}
