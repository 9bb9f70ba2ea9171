// What was accepted, on disk: after a restart the last accepted version of an object stays in force even when its file
// is broken meanwhile (DOMAIN 3.6). A snapshot, replaced atomically, and a journal of changes since.
import {
  appendFileSync,
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";

/** One accepted object as it is kept; plain JSON. */
export interface AcceptedRecord {
  readonly key: string;
  readonly file: string;
  /** Digest of the document it came from. */
  readonly digest: string;
  readonly generation: number;
  readonly acceptedAtMs: number;
  /** The object as its author wrote it. */
  readonly object: unknown;
}

type Change = { readonly put: AcceptedRecord } | { readonly drop: string };

/** The journal is folded into the snapshot when it is longer than this and than the snapshot itself. */
const FOLD_BYTES = 1024 * 1024;

function isRecord(value: unknown): value is AcceptedRecord {
  if (typeof value !== "object" || value === null) return false;
  const record = value as Readonly<Record<string, unknown>>;
  return (
    typeof record["key"] === "string" &&
    typeof record["file"] === "string" &&
    typeof record["digest"] === "string" &&
    typeof record["generation"] === "number" &&
    typeof record["acceptedAtMs"] === "number"
  );
}

export class AcceptedStore {
  readonly #folder: string;
  readonly #records = new Map<string, AcceptedRecord>();
  #journalBytes = 0;
  #snapshotBytes = 0;
  /** What could not be read back, for the log; empty in any normal life. */
  readonly damage: string[] = [];

  /** @param stateDir the control plane's own directory. @throws MeshError `io_failed` when it cannot be used. */
  constructor(stateDir: string) {
    this.#folder = join(stateDir, "accepted");
    try {
      mkdirSync(this.#folder, { recursive: true, mode: 0o700 });
      this.#load();
    } catch (error) {
      throw new MeshError(
        "io_failed",
        `accepted objects in \`${this.#folder}\` cannot be read: ${messageOf(error)}`,
        { cause: error },
      );
    }
  }

  records(): Iterable<AcceptedRecord> {
    return this.#records.values();
  }

  /** Writes changes before they come into force; a crash after this call loses none of them. @throws MeshError `io_failed`. */
  write(puts: readonly AcceptedRecord[], drops: readonly string[]): void {
    if (puts.length + drops.length === 0) return;
    for (const record of puts) this.#records.set(record.key, record);
    for (const key of drops) this.#records.delete(key);
    const changes: Change[] = [...puts.map((put) => ({ put })), ...drops.map((drop) => ({ drop }))];
    const lines = changes.map((change) => `${JSON.stringify(change)}\n`).join("");
    try {
      // The journal first, also before a fold: replayed on the new snapshot it must end in the same state.
      appendFileSync(join(this.#folder, "changes.jsonl"), lines, { mode: 0o600 });
      this.#journalBytes += Buffer.byteLength(lines);
      if (this.#journalBytes > Math.max(FOLD_BYTES, this.#snapshotBytes)) this.#fold();
    } catch (error) {
      throw new MeshError(
        "io_failed",
        `accepted objects cannot be written to \`${this.#folder}\`: ${messageOf(error)}`,
        { cause: error },
      );
    }
  }

  #load(): void {
    const snapshot = readIfThere(join(this.#folder, "snapshot.jsonl"));
    const journal = readIfThere(join(this.#folder, "changes.jsonl"));
    this.#snapshotBytes = Buffer.byteLength(snapshot);
    this.#journalBytes = Buffer.byteLength(journal);
    this.#apply(snapshot, "snapshot.jsonl");
    this.#apply(journal, "changes.jsonl");
    // A half line at the end, left by a crash, must not swallow the line that is appended next.
    if (journal !== "" && !journal.endsWith("\n")) this.#fold();
  }

  #apply(text: string, name: string): void {
    for (const [index, line] of text.split("\n").entries()) {
      if (line === "") continue;
      try {
        const change: unknown = JSON.parse(line);
        if (typeof change === "object" && change !== null && "put" in change && isRecord(change.put))
          this.#records.set(change.put.key, change.put);
        else if (
          typeof change === "object" &&
          change !== null &&
          "drop" in change &&
          typeof change.drop === "string"
        )
          this.#records.delete(change.drop);
        else this.damage.push(`${name}:${index + 1}`);
      } catch {
        // Not JSON: the half line of a crash, or damage; reported by whoever opened the store.
        this.damage.push(`${name}:${index + 1}`);
      }
    }
  }

  /** Writes everything anew: the snapshot first, then an empty journal, each replaced atomically. */
  #fold(): void {
    const text = [...this.#records.values()].map((put) => `${JSON.stringify({ put })}\n`).join("");
    replaceFile(join(this.#folder, "snapshot.jsonl"), text);
    replaceFile(join(this.#folder, "changes.jsonl"), "");
    this.#snapshotBytes = Buffer.byteLength(text);
    this.#journalBytes = 0;
  }
}

function readIfThere(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (typeof error === "object" && error !== null && "code" in error && error.code === "ENOENT") return "";
    throw error;
  }
}

function replaceFile(path: string, text: string): void {
  const temporary = `${path}.new`;
  const handle = openSync(temporary, "w", 0o600);
  try {
    for (let rest = Buffer.from(text); rest.length > 0; ) rest = rest.subarray(writeSync(handle, rest));
    fsyncSync(handle);
  } finally {
    closeSync(handle);
  }
  renameSync(temporary, path);
}
