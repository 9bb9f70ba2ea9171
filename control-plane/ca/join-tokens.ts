// One-time join tokens, outside Kubernetes the way in: a file per token with the hash of its secret, and a second file,
// made exclusively, that marks it used. The mark comes before the answer, so no crash or race uses a token twice.
import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { mkdir, open, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { formatJoinToken, parseJoinToken } from "../../sidecar/core/identity/join-token.ts";
import { MeshError, type Result, systemCodeOf } from "../../sidecar/core/runtime/errors.ts";
import { readPrivateFile, writePrivateFile } from "./files.ts";

/** Longest life of a token. */
export const MAX_JOIN_TTL_SECONDS = 7 * 86_400;

export interface JoinTokenRecord {
  readonly id: string;
  /** `namespace/name` of the workload that it lets in. */
  readonly workload: string;
  readonly createdAtMs: number;
  readonly expiresAtMs: number;
  readonly used: boolean;
}

interface StoredToken extends Omit<JoinTokenRecord, "used"> {
  readonly secretSha256: string;
}

const WORKLOAD = /^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\/[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/;
const ID_FILE = /^([0-9a-f]{16})\.json$/;

function directory(stateDir: string): string {
  return join(stateDir, "join-tokens");
}

function digest(secret: string): Buffer {
  return createHash("sha256").update(secret).digest();
}

function parseStored(text: string): StoredToken | undefined {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value !== "object" || value === null) return undefined;
    const { id, workload, createdAtMs, expiresAtMs, secretSha256 } = value as Partial<
      Record<keyof StoredToken, unknown>
    >; // every member is checked below
    if (typeof id !== "string" || typeof workload !== "string" || typeof secretSha256 !== "string")
      return undefined;
    if (typeof createdAtMs !== "number" || typeof expiresAtMs !== "number") return undefined;
    return { id, workload, createdAtMs, expiresAtMs, secretSha256 };
  } catch {
    return undefined;
  }
}

/**
 * Makes a token for one workload.
 *
 * @param input `workload` as `namespace/name`; `ttlSeconds` above 0, at most 7 days.
 * @returns the token's text: shown once, only its hash is kept.
 * @throws MeshError `bad_config` for a bad workload or lifetime, `io_failed`.
 */
export async function createJoinToken(input: {
  readonly stateDir: string;
  readonly workload: string;
  readonly ttlSeconds: number;
  readonly rootSpkiSha256: string;
  readonly nowMs: number;
}): Promise<{ readonly token: string; readonly record: JoinTokenRecord }> {
  const { stateDir, workload, ttlSeconds, rootSpkiSha256, nowMs } = input;
  if (!WORKLOAD.test(workload))
    throw new MeshError("bad_config", `\`${workload}\` is not a workload; write \`namespace/name\``);
  if (!(ttlSeconds > 0 && ttlSeconds <= MAX_JOIN_TTL_SECONDS)) {
    throw new MeshError(
      "bad_config",
      `a join token cannot live \`${ttlSeconds}\` s; use 1 to ${MAX_JOIN_TTL_SECONDS}`,
    );
  }
  const id = randomBytes(8).toString("hex");
  const secret = randomBytes(32).toString("base64url");
  const times = { createdAtMs: nowMs, expiresAtMs: nowMs + ttlSeconds * 1000 };
  const stored: StoredToken = { id, workload, ...times, secretSha256: digest(secret).toString("hex") };
  await mkdir(directory(stateDir), { recursive: true, mode: 0o700 });
  await writePrivateFile(join(directory(stateDir), `${id}.json`), JSON.stringify(stored));
  return {
    token: formatJoinToken({ id, secret, rootSpkiSha256 }),
    record: { id, workload, ...times, used: false },
  };
}

function rejected(message: string): { ok: false; error: MeshError } {
  return { ok: false, error: new MeshError("join_rejected", message) };
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

/**
 * Redeems a token, once. The certificate request should be checked before, so that a broken one does not cost the token.
 *
 * @returns the workload it is bound to, or MeshError `join_rejected`.
 */
export async function redeemJoinToken(input: {
  readonly stateDir: string;
  readonly token: string;
  readonly nowMs: number;
}): Promise<Result<{ readonly id: string; readonly workload: string }, MeshError>> {
  const { stateDir, token, nowMs } = input;
  const parts = parseJoinToken(token);
  if (!parts.ok) return rejected(parts.error);
  const { id, secret } = parts.value;
  const unknown = "the join token is unknown; make a new one with `countersign join-token create`";
  // The ID becomes a file name: only our own form goes to the disk.
  if (!/^[0-9a-f]{16}$/.test(id)) return rejected(unknown);
  const text = await readPrivateFile(join(directory(stateDir), `${id}.json`));
  const stored = text === undefined ? undefined : parseStored(text);
  const expected = Buffer.from(stored?.secretSha256 ?? "", "hex");
  const given = digest(secret);
  if (stored === undefined || expected.length !== given.length || !timingSafeEqual(expected, given))
    return rejected(unknown);
  if (nowMs >= stored.expiresAtMs)
    return rejected(`the join token for \`${stored.workload}\` has expired; make a new one`);
  if (!(await takeMark(join(directory(stateDir), `${id}.used`), nowMs))) {
    return rejected(`the join token for \`${stored.workload}\` was used before; make a new one`);
  }
  return { ok: true, value: { id, workload: stored.workload } };
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
export async function listJoinTokens(stateDir: string): Promise<readonly JoinTokenRecord[]> {
  const found = new Set(await names(stateDir));
  const records: JoinTokenRecord[] = [];
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
