// Who asked the token service for what, and got it or not: one JSON line each, written before the answer.
import { appendFile, mkdir, rename, stat } from "node:fs/promises";
import { join } from "node:path";
import type { AuditNote } from "./token-service.ts";

export interface TokenRecord extends AuditNote {
  /** RFC 3339. */
  readonly time: string;
  /** `session.open`, `session.refresh`, `session.end`, `token`. */
  readonly action: string;
  /** SPIFFE ID; empty: nobody that is known. */
  readonly caller: string;
  readonly address: string;
  readonly outcome: "granted" | "refused";
  /** A `TokenRefusalReason`; empty for what was granted. */
  readonly reason: string;
}

/** Resolves when the record is where it is kept; what cannot be kept is not answered. */
export type TokenAudit = (record: TokenRecord) => Promise<void>;

/**
 * Collects what is written while a write is under way: thousands of tokens a second are a few writes.
 *
 * @param write whole lines.
 */
export function batchedAudit(write: (lines: string) => Promise<void>): TokenAudit {
  let waiting = "";
  let next: Promise<void> | undefined;
  let running: Promise<unknown> = Promise.resolve();
  return (record) => {
    waiting += `${JSON.stringify({ audit: "tokens", ...record })}\n`;
    if (next === undefined) {
      next = running.then(() => {
        const lines = waiting;
        waiting = "";
        next = undefined;
        return write(lines);
      });
      running = next.catch(() => {});
    }
    return next;
  };
}

const MAX_FILE_BYTES = 64 * 1024 * 1024;
/** `tokens.jsonl.1` is the newest of them. */
const KEPT_FILES = 4;

/** Appends to `{stateDir}/audit/tokens.jsonl` (0600), and begins a new one at 64 MiB; four older ones are kept. */
export async function createTokenAuditFile(
  stateDir: string,
  maxFileBytes = MAX_FILE_BYTES,
): Promise<TokenAudit> {
  const directory = join(stateDir, "audit");
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const file = join(directory, "tokens.jsonl");
  let bytes = await stat(file).then(
    ({ size }) => size,
    () => 0,
  );
  return batchedAudit(async (lines) => {
    if (bytes > 0 && bytes + lines.length > maxFileBytes) {
      for (let at = KEPT_FILES - 1; at > 0; at--)
        await rename(`${file}.${at}`, `${file}.${at + 1}`).catch(() => {}); // not there yet
      await rename(file, `${file}.1`);
      bytes = 0;
    }
    await appendFile(file, lines, { mode: 0o600 });
    bytes += Buffer.byteLength(lines);
  });
}

/** Writes to the log stream whatever the log level. */
export function createTokenAuditStream(write: (lines: string) => unknown): TokenAudit {
  return batchedAudit(async (lines) => {
    write(lines);
  });
}
