// One-time join tokens, outside pods the way in: only the hash of a token's secret is kept, and a token is taken before
// the answer, so that no crash, race or second replica uses one twice. Where they are kept is the store's business.
import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { formatJoinToken, parseJoinToken } from "../../sidecar/core/identity/join-token.ts";
import { MeshError, type Result } from "../../sidecar/core/runtime/errors.ts";

/** Longest life of a token. */
export const MAX_JOIN_TTL_SECONDS = 7 * 86_400;

/** What is kept of a token. */
export interface StoredToken {
  /** 16 hex digits. */
  readonly id: string;
  /** `namespace/name` of the workload that it lets in. */
  readonly workload: string;
  readonly createdAtMs: number;
  readonly expiresAtMs: number;
  /** Hex. */
  readonly secretSha256: string;
}

export type JoinTokenRecord = Omit<StoredToken, "secretSha256">;

export interface JoinTokenStore {
  /** @throws MeshError `io_failed`. */
  create(token: StoredToken): Promise<void>;
  /** undefined: unknown. @throws MeshError `io_failed`. */
  read(id: string): Promise<StoredToken | undefined>;
  /** @returns whether this call took it; false when it was taken before. @throws MeshError `io_failed`. */
  take(id: string, nowMs: number): Promise<boolean>;
}

const WORKLOAD = /^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\/[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/;

function digest(secret: string): Buffer {
  return createHash("sha256").update(secret).digest();
}

export function parseStored(text: string): StoredToken | undefined {
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
  readonly store: JoinTokenStore;
  readonly workload: string;
  readonly ttlSeconds: number;
  readonly rootSpkiSha256: string;
  readonly nowMs: number;
}): Promise<{ readonly token: string; readonly record: JoinTokenRecord }> {
  const { store, workload, ttlSeconds, rootSpkiSha256, nowMs } = input;
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
  await store.create(stored);
  return {
    token: formatJoinToken({ id, secret, rootSpkiSha256 }),
    record: { id, workload, ...times },
  };
}

function rejected(message: string): { ok: false; error: MeshError } {
  return { ok: false, error: new MeshError("join_rejected", message) };
}

/**
 * Redeems a token, once. The certificate request should be checked before, so that a broken one does not cost the token.
 *
 * @returns the workload it is bound to, or MeshError `join_rejected`.
 */
export async function redeemJoinToken(input: {
  readonly store: JoinTokenStore;
  readonly token: string;
  readonly nowMs: number;
}): Promise<Result<{ readonly id: string; readonly workload: string }, MeshError>> {
  const { store, token, nowMs } = input;
  const parts = parseJoinToken(token);
  if (!parts.ok) return rejected(parts.error);
  const { id, secret } = parts.value;
  const unknown = "the join token is unknown; make a new one with `countersign join-token create`";
  // The ID becomes a name in the store: only our own form goes there.
  if (!/^[0-9a-f]{16}$/.test(id)) return rejected(unknown);
  const stored = await store.read(id);
  const expected = Buffer.from(stored?.secretSha256 ?? "", "hex");
  const given = digest(secret);
  if (stored === undefined || expected.length !== given.length || !timingSafeEqual(expected, given))
    return rejected(unknown);
  if (nowMs >= stored.expiresAtMs)
    return rejected(`the join token for \`${stored.workload}\` has expired; make a new one`);
  if (!(await store.take(id, nowMs))) {
    return rejected(`the join token for \`${stored.workload}\` was used before; make a new one`);
  }
  return { ok: true, value: { id, workload: stored.workload } };
}
