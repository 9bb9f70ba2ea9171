// Who asked the token service for what, and got it or not: one JSON line each, written before the answer.
import { type FileHandle, mkdir, open, rename } from "node:fs/promises";
import { join } from "node:path";
import type { AuditNote } from "./token-service.ts";

export interface TokenRecord extends AuditNote {
  /** RFC 3339. */
  readonly time: string;
  /** `session.open`, `session.refresh`, `session.end`, `token`; of our own accord `roles.change`, `policies.change`, `roles.loss`. */
  readonly action: string;
  /** Of a changed object: who asked the API server for it, where this replica was asked about that. */
  readonly actor?: string | undefined;
  /** SPIFFE ID; empty: nobody that is known. */
  readonly caller: string;
  readonly address: string;
  readonly outcome: "granted" | "refused";
  /** A `TokenRefusalReason`; empty for what was granted. */
  readonly reason: string;
  /** Of refusals: so many like this one stand in this line; undefined: one. */
  readonly repeated?: number | undefined;
}

/** Resolves when the record is where it is kept; what cannot be kept is not answered. */
export type TokenAudit = (record: TokenRecord) => Promise<void>;

export interface OpenedAudit {
  readonly record: TokenAudit;
  close(): Promise<void>;
}

/**
 * Collects what comes in one turn of the event loop and while a write is under way: thousands of tokens a second are a few
 * writes, each of which costs a third of a signature.
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
      next = running.then(endOfTurn).then(() => {
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

const endOfTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

const MAX_FILE_BYTES = 64 * 1024 * 1024;
/** `tokens.jsonl.1` is the newest of them. */
const KEPT_FILES = 4;

/** Appends to `{stateDir}/audit/tokens.jsonl` (0600), and begins a new one at 64 MiB; four older ones are kept. */
export async function createTokenAuditFile(
  stateDir: string,
  maxFileBytes = MAX_FILE_BYTES,
): Promise<OpenedAudit> {
  const directory = join(stateDir, "audit");
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const path = join(directory, "tokens.jsonl");
  // Kept open: opening it for each write would cost as much as the tokens.
  let file: FileHandle | undefined;
  let bytes = 0;
  const writable = async (more: number): Promise<FileHandle> => {
    if (file !== undefined && bytes > 0 && bytes + more > maxFileBytes) {
      await file.close();
      // After a failure the next record begins here again.
      file = undefined;
      for (let at = KEPT_FILES - 1; at > 0; at--)
        await rename(`${path}.${at}`, `${path}.${at + 1}`).catch(() => {}); // not there yet
      await rename(path, `${path}.1`);
    }
    if (file === undefined) {
      file = await open(path, "a", 0o600);
      bytes = (await file.stat()).size;
    }
    return file;
  };
  await writable(0);
  return {
    record: batchedAudit(async (lines) => {
      await (await writable(lines.length)).appendFile(lines);
      bytes += Buffer.byteLength(lines);
    }),
    async close() {
      await file?.close();
      file = undefined;
    },
  };
}

/** Writes to the log stream whatever the log level. */
export function createTokenAuditStream(write: (lines: string) => unknown): OpenedAudit {
  const record = batchedAudit(async (lines) => {
    write(lines);
  });
  return { record, close: async () => {} };
}
