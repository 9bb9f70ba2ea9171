// The revisions of the mesh under `{stateDir}/revisions`: what changed when, enough to publish an earlier one again, and
// which one the mesh is pinned to. Objects are kept once by their content; a revision is a list of names and hashes.
import { randomBytes } from "node:crypto";
import { mkdir, open, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { MeshError, messageOf, systemCodeOf } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import type { ClusterState } from "../sources/store.ts";
import { type FieldChange, fieldDiff, ObjectHasher, parseObject, stateObjects } from "./revision-content.ts";

export type RevisionReason = "start" | "edit" | "rollback" | "release";

export interface ObjectChange {
  /** `Kind/namespace/name` or `Kind/name`. */
  readonly object: string;
  readonly change: "added" | "changed" | "removed";
}

/** What `history` shows of one revision. */
export interface RevisionSummary {
  readonly sequence: number;
  /** Unix milliseconds. */
  readonly timeMs: number;
  readonly reason: RevisionReason;
  /** false: recorded while the mesh was pinned, not in force then. */
  readonly applied: boolean;
  /** Set for a rollback: the revision that is in force again. */
  readonly rollbackTo?: number | undefined;
  /** At most 50 of them; `changeCount` says how many there were. */
  readonly changes: readonly ObjectChange[];
  readonly changeCount: number;
}

export interface ObjectDiff extends ObjectChange {
  /** At most 200 fields. */
  readonly fields: readonly FieldChange[];
}

interface RevisionFile extends RevisionSummary {
  readonly version: 1;
  /** Names and content hashes. */
  readonly objects: readonly (readonly [string, string])[];
}

const SHOWN_CHANGES = 50;
const FILE = /^(\d{10})\.json$/;

const nameOf = (sequence: number): string => `${String(sequence).padStart(10, "0")}.json`;

async function writeAtomically(path: string, text: string): Promise<void> {
  const temporary = `${path}.${randomBytes(4).toString("hex")}.tmp`;
  const file = await open(temporary, "wx", 0o600);
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(temporary, path);
}

function changesBetween(
  before: ReadonlyMap<string, string>,
  after: ReadonlyMap<string, string>,
): ObjectChange[] {
  const changes: ObjectChange[] = [];
  for (const [object, hash] of after) {
    const old = before.get(object);
    if (old !== hash) changes.push({ object, change: old === undefined ? "added" : "changed" });
  }
  for (const object of before.keys()) if (!after.has(object)) changes.push({ object, change: "removed" });
  return changes.sort((a, b) => (a.object < b.object ? -1 : 1));
}

export interface RevisionFacts {
  readonly reason: RevisionReason;
  readonly rollbackTo?: number | undefined;
  readonly applied: boolean;
  /** The number that the source gives the revision, where it does. */
  readonly atLeast?: number;
  /** What the mesh runs on from now on, where that is not the recorded state: an edit while it is pinned. */
  readonly inForce?: ClusterState;
}

/** What publisher and management need of a history, wherever it is kept. */
export interface RevisionHistory {
  /** Sequence of the newest revision; 0: none yet. */
  readonly lastSequence: number;
  /** The revision the mesh is pinned to. */
  readonly pinned: number | undefined;
  /** Newest first. */
  list(): RevisionSummary[];
  /**
   * Records a state under the next sequence; it is stored in the background (`flush`). For a rollback that is the state
   * that is in force from now on, otherwise the state of the source.
   */
  record(state: ClusterState, facts: RevisionFacts, timeMs: number): RevisionSummary;
  /** True when the source says just what it said when the last revision was recorded (before a restart). */
  isUnchanged(state: ClusterState): boolean;
  /** Takes a state of the source for that of the newest revision, without recording anything; `inForce` as in `RevisionFacts`. */
  adopt(state: ClusterState, inForce?: ClusterState): void;
  /** Resolves when everything recorded so far is stored. */
  flush(): Promise<void>;
  /**
   * Objects of a revision as they were recorded, by name. Where `live` has the very same content its object is used, so
   * that a compiler that compares identities sees no change.
   *
   * @throws MeshError `not_found` for a revision that is not kept, `io_failed` when it cannot be read.
   */
  objects(sequence: number, live?: ClusterState): Promise<ReadonlyMap<string, unknown>>;
  /** Differences from one revision to another, objects first, then their fields. @throws MeshError as `objects`. */
  diff(from: number, to: number): Promise<ObjectDiff[]>;
  /** Pins the mesh, or releases it (undefined). Stored when it resolves. */
  pin(sequence: number | undefined): Promise<void>;
}

/** History in a directory; one per process. */
export class History implements RevisionHistory {
  readonly #dir: string;
  readonly #keep: number;
  readonly #log: Logger;
  readonly #hasher = new ObjectHasher();
  readonly #stored = new Set<string>();
  #summaries: RevisionSummary[] = [];
  /** Names and hashes of what the source last said, and of what is in force; they differ while the mesh is pinned. */
  #live: ReadonlyMap<string, string> = new Map();
  #inForce: ReadonlyMap<string, string> = new Map();
  #pinned: number | undefined;
  #writing: Promise<void> = Promise.resolve();

  /** Made by `openHistory` only. */
  constructor(dir: string, keep: number, log: Logger) {
    this.#dir = dir;
    this.#keep = keep;
    this.#log = log;
  }

  /** Sequence of the newest revision; 0: none yet. */
  get lastSequence(): number {
    return this.#summaries.at(-1)?.sequence ?? 0;
  }

  /** The revision the mesh is pinned to. */
  get pinned(): number | undefined {
    return this.#pinned;
  }

  /** Newest first. */
  list(): RevisionSummary[] {
    return [...this.#summaries].reverse();
  }

  record(state: ClusterState, facts: RevisionFacts, timeMs: number): RevisionSummary {
    const { atLeast = 0, inForce: _, ...kept } = facts;
    const objects = new Map<string, string>();
    const fresh: { hash: string; text: string }[] = [];
    for (const [name, value] of stateObjects(state)) {
      const hash = this.#hasher.hash(value);
      objects.set(name, hash);
      if (!this.#stored.has(hash)) {
        this.#stored.add(hash);
        fresh.push({ hash, text: this.#hasher.text(value) });
      }
    }
    const isEdit = facts.reason === "edit" || facts.reason === "start";
    const changes = changesBetween(isEdit ? this.#live : this.#inForce, objects);
    const summary: RevisionSummary = {
      sequence: Math.max(this.lastSequence + 1, atLeast),
      timeMs,
      ...kept,
      changes: changes.slice(0, SHOWN_CHANGES),
      changeCount: changes.length,
    };
    this.#advance(summary, objects);
    this.#summaries.push(summary);
    const dropped =
      this.#summaries.length > this.#keep
        ? this.#summaries.splice(0, this.#summaries.length - this.#keep)
        : [];
    const file: RevisionFile = { version: 1, ...summary, objects: [...objects] };
    this.#writing = this.#writing
      .then(() => this.#write(file, fresh, dropped))
      .catch((error: unknown) => {
        // What is in force is unaffected; but what is not on disk cannot be rolled back to, which somebody must know.
        this.#log.error("revision not saved", { sequence: summary.sequence, error: messageOf(error) });
        for (const { hash } of fresh) this.#stored.delete(hash);
      });
    return summary;
  }

  /** True when the source says just what it said when the last revision was recorded (before a restart). */
  isUnchanged(state: ClusterState): boolean {
    let count = 0;
    for (const [name, value] of stateObjects(state)) {
      count += 1;
      if (this.#live.get(name) !== this.#hasher.hash(value)) return false;
    }
    return count === this.#live.size;
  }

  /** What is on disk is what `isUnchanged` compares with. */
  adopt(): void {}

  #advance({ reason, applied }: RevisionSummary, objects: ReadonlyMap<string, string>): void {
    if (reason !== "rollback") this.#live = objects;
    if (applied) this.#inForce = objects;
  }

  /** Resolves when everything recorded so far is on disk. */
  flush(): Promise<void> {
    return this.#writing;
  }

  /**
   * Objects of a revision as they were recorded, by name. Where `live` has the very same content its object is used, so
   * that a compiler that compares identities sees no change.
   *
   * @throws MeshError `not_found` for a revision that is not kept, `io_failed` when it cannot be read.
   */
  async objects(sequence: number, live?: ClusterState): Promise<ReadonlyMap<string, unknown>> {
    await this.#writing;
    const file = await this.#read(sequence);
    const present = new Map<string, object>();
    if (live) for (const [name, value] of stateObjects(live)) present.set(name, value);
    const found = new Map<string, unknown>();
    for (const [name, hash] of file.objects) {
      const same = present.get(name);
      found.set(
        name,
        same !== undefined && this.#hasher.hash(same) === hash ? same : await this.#object(hash),
      );
    }
    return found;
  }

  /** Differences from one revision to another, objects first, then their fields. @throws MeshError as `objects`. */
  async diff(from: number, to: number): Promise<ObjectDiff[]> {
    await this.#writing;
    const before = new Map((await this.#read(from)).objects);
    const after = new Map((await this.#read(to)).objects);
    const diffs: ObjectDiff[] = [];
    for (const change of changesBetween(before, after)) {
      const [old, now] = [before.get(change.object), after.get(change.object)];
      const fields = fieldDiff(old && (await this.#object(old)), now && (await this.#object(now)));
      diffs.push({ ...change, fields });
    }
    return diffs;
  }

  /** Pins the mesh, or releases it (undefined). On disk when it resolves. */
  async pin(sequence: number | undefined): Promise<void> {
    const path = join(this.#dir, "pin.json");
    if (sequence === undefined) await rm(path, { force: true });
    else await writeAtomically(path, JSON.stringify({ revision: sequence }));
    this.#pinned = sequence;
  }

  async #object(hash: string): Promise<unknown> {
    try {
      return parseObject(await readFile(join(this.#dir, "objects", `${hash}.json`), "utf8"));
    } catch (cause) {
      throw new MeshError("io_failed", `an object of this revision cannot be read: ${messageOf(cause)}`, {
        cause,
      });
    }
  }

  async #read(sequence: number): Promise<RevisionFile> {
    const oldest = this.#summaries[0]?.sequence ?? 0;
    if (
      !Number.isSafeInteger(sequence) ||
      sequence < oldest ||
      sequence > this.lastSequence ||
      sequence < 1
    ) {
      throw new MeshError(
        "not_found",
        `revision \`${sequence}\` is not kept; there are ${oldest} to ${this.lastSequence}`,
      );
    }
    try {
      return parseRevision(await readFile(join(this.#dir, nameOf(sequence)), "utf8"));
    } catch (cause) {
      throw new MeshError("io_failed", `revision \`${sequence}\` cannot be read: ${messageOf(cause)}`, {
        cause,
      });
    }
  }

  async #write(
    file: RevisionFile,
    fresh: readonly { hash: string; text: string }[],
    dropped: readonly RevisionSummary[],
  ): Promise<void> {
    // What goes to sidecars leaves first: the list of 10 000 names takes longer to write down than a delta to send.
    await setImmediate();
    // Objects first: a revision never refers to what is not there. In small groups, so that a first start with
    // thousands of objects does not open thousands of files at once.
    for (let at = 0; at < fresh.length; at += 32) {
      const group = fresh.slice(at, at + 32);
      await Promise.all(
        group.map(({ hash, text }) =>
          writeFile(join(this.#dir, "objects", `${hash}.json`), text, { mode: 0o600 }),
        ),
      );
    }
    await writeAtomically(join(this.#dir, nameOf(file.sequence)), JSON.stringify(file));
    if (dropped.length === 0) return;
    for (const { sequence } of dropped) {
      // The revision that is in force is kept, however old.
      if (sequence !== this.#pinned) await rm(join(this.#dir, nameOf(sequence)), { force: true });
    }
    if (file.sequence % this.#keep === 0) await this.#collect();
  }

  /** Deletes objects that no kept revision refers to; once every `keep` revisions. */
  async #collect(): Promise<void> {
    const needed = new Set<string>([...this.#live.values(), ...this.#inForce.values()]);
    for (const name of await readdir(this.#dir)) {
      if (!FILE.test(name)) continue;
      for (const [, hash] of parseRevision(await readFile(join(this.#dir, name), "utf8")).objects)
        needed.add(hash);
    }
    for (const name of await readdir(join(this.#dir, "objects"))) {
      const hash = name.replace(/\.json$/, "");
      if (needed.has(hash) || this.#isRecent(hash)) continue;
      this.#stored.delete(hash);
      await rm(join(this.#dir, "objects", name), { force: true });
    }
  }

  /** A revision may have been recorded while files were being looked through. */
  #isRecent(hash: string): boolean {
    for (const one of this.#live.values()) if (one === hash) return true;
    return false;
  }

  /** Reads what is on disk; damaged files are skipped with a log line, their numbers are not given out again. */
  async load(): Promise<void> {
    await mkdir(join(this.#dir, "objects"), { recursive: true, mode: 0o700 });
    for (const name of await readdir(join(this.#dir, "objects")))
      this.#stored.add(name.replace(/\.json$/, ""));
    const names = (await readdir(this.#dir)).filter((name) => FILE.test(name)).sort();
    for (const name of names) {
      const sequence = Number(FILE.exec(name)?.[1]);
      try {
        const {
          objects,
          version: _version,
          ...summary
        } = parseRevision(await readFile(join(this.#dir, name), "utf8"));
        this.#summaries.push(summary);
        this.#advance(summary, new Map(objects));
      } catch (error) {
        this.#log.warn("revision ignored", { sequence, error: messageOf(error) });
        this.#summaries.push({
          sequence,
          timeMs: 0,
          reason: "edit",
          applied: false,
          changes: [],
          changeCount: 0,
        });
      }
    }
    this.#pinned = await this.#readPin();
  }

  /** @throws MeshError `bad_config`: a pin that cannot be read must not be taken for none. */
  async #readPin(): Promise<number | undefined> {
    const path = join(this.#dir, "pin.json");
    let text: string;
    try {
      text = await readFile(path, "utf8");
    } catch (error) {
      if (systemCodeOf(error) === "ENOENT") return undefined;
      throw new MeshError("io_failed", `cannot read \`${path}\``, { cause: error });
    }
    try {
      const value: unknown = JSON.parse(text);
      if (
        typeof value === "object" &&
        value !== null &&
        "revision" in value &&
        Number.isSafeInteger(value.revision)
      )
        return Number(value.revision);
    } catch {
      // Reported below, like any other content.
    }
    throw new MeshError("bad_config", `\`${path}\` is damaged; remove it to release the rollback`);
  }
}

function parseRevision(text: string): RevisionFile {
  const value = JSON.parse(text) as Partial<RevisionFile>;
  // Our own file; what is used of it is checked.
  if (
    value.version !== 1 ||
    !Number.isSafeInteger(value.sequence) ||
    !Array.isArray(value.objects) ||
    !Array.isArray(value.changes)
  ) {
    throw new Error("file has another format");
  }
  return value as RevisionFile;
}

/**
 * Opens the history, making it when there is none.
 *
 * @param keep how many revisions stay.
 * @throws MeshError `io_failed`, `bad_config`.
 */
export async function openHistory(stateDir: string, log: Logger, keep = 100): Promise<History> {
  const history = new History(join(stateDir, "revisions"), keep, log);
  await history.load();
  return history;
}
