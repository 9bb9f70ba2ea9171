// Who changed what through the management API: one JSON line per write, done or refused, written before it is answered.
import { appendFile, mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { Body } from "./routes.ts";

export interface ManagementRecord {
  /** RFC 3339. */
  readonly time: string;
  /** Kubernetes user, SPIFFE ID, or `management socket`. */
  readonly user: string;
  /** How many groups the user has; their names may be many and are in the API server's own audit. */
  readonly groups: number;
  /** The peer's address; empty for the Unix socket. */
  readonly address: string;
  readonly action: string;
  /** Known fields of the request only; see `Route.fields`. */
  readonly arguments: Body;
  /** `failed` may have changed something, the others have not. */
  readonly outcome: "done" | "forbidden" | "refused" | "failed";
  /** Why it was not done; empty when it was. */
  readonly detail: string;
}

/** Resolves when the record is where it is kept; a write whose record cannot be kept is answered with an error. */
export type ManagementAudit = (record: ManagementRecord) => Promise<void>;

const SHOWN_CHARS = 512;

/** What the audit repeats of a request: known fields, texts cut short. */
export function auditedArguments(body: Body, fields: readonly string[]): Body {
  const shown: Record<string, unknown> = {};
  for (const name of fields) {
    const value = body[name];
    if (value === undefined) continue;
    shown[name] =
      typeof value === "number" || typeof value === "boolean"
        ? value
        : (typeof value === "string" ? value : JSON.stringify(value)).slice(0, SHOWN_CHARS);
  }
  return shown;
}

/** Appends to `{stateDir}/audit/management.jsonl` (0600): directory mode, where one machine keeps everything. */
export async function createFileAudit(stateDir: string): Promise<ManagementAudit> {
  const directory = join(stateDir, "audit");
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const file = join(directory, "management.jsonl");
  return (record) => appendFile(file, `${JSON.stringify(record)}\n`, { mode: 0o600 });
}

/** Writes to the log stream whatever the log level: in a cluster, where what lasts is what is collected from pods. */
export function createStreamAudit(write: (line: string) => void): ManagementAudit {
  return async (record) => write(`${JSON.stringify({ audit: "management", ...record })}\n`);
}
