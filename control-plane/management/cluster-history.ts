// The revisions of the mesh in a cluster: one MeshRevision object per change, with what it changed before and after, so
// that an earlier state is the present one undone step by step. Every replica reads them; the leader writes them.
import { createHash } from "node:crypto";
import { promisify } from "node:util";
import { gunzip, gzip } from "node:zlib";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import type { ClusterState } from "../sources/store.ts";
import type { ObjectChange, ObjectDiff, RevisionFacts, RevisionHistory, RevisionSummary } from "./history.ts";
import { fieldDiff, ObjectHasher, objectText, parseObject, stateObjects } from "./revision-content.ts";

/** What is read and written of MeshRevision objects; implemented over the API in kubernetes-mode.ts. */
export interface RevisionStore {
  /** @throws when it cannot be stored now; a record of this name that is there already is no error. */
  create(name: string, spec: Readonly<Record<string, unknown>>): Promise<void>;
  /** Creates or replaces. */
  put(name: string, spec: Readonly<Record<string, unknown>>): Promise<void>;
  /** undefined: not there. */
  read(name: string): Promise<Readonly<Record<string, unknown>> | undefined>;
  delete(name: string): Promise<void>;
}

/** A stored record as the watch shows it; content is read when it is needed. */
interface Stored {
  readonly summary: RevisionSummary;
  readonly digest: string;
}

/** Texts of one object around a change; undefined: it was not there. */
type Step = readonly [name: string, before: string | undefined, after: string | undefined];

interface Unsaved {
  readonly summary: RevisionSummary;
  /** The whole configuration after it. */
  readonly objects: ReadonlyMap<string, object>;
  /** undefined: what it changed is not known any more. */
  readonly steps: readonly Step[] | undefined;
}

export const PIN_NAME = "pin";
const KEPT_REVISIONS = 100;
/** Revisions a replica remembers in case it becomes the leader before they are stored. */
const KEPT_UNSAVED = 50;
const SHOWN_CHANGES = 50;
/** Of the compressed content, in base64: an API server takes objects of 1.5 MiB. */
const MAX_CONTENT_CHARS = 1_000_000;

const zip = promisify(gzip);
const unzip = promisify(gunzip);

export const recordName = (sequence: number): string => `r-${String(sequence).padStart(16, "0")}`;

export class ClusterHistory implements RevisionHistory {
  readonly #store: RevisionStore;
  readonly #log: Logger;
  readonly #hasher = new ObjectHasher();
  readonly #stored = new Map<number, Stored>();
  #unsaved: Unsaved[] = [];
  /** What the source said last, by name. */
  #live: ReadonlyMap<string, object> = new Map();
  /** What the mesh ran on at the newest record; another than what the source says while it is pinned. */
  #inForce: ClusterState | undefined;
  #started = false;
  #isLeader = false;
  #pinned: number | undefined;
  #writing: Promise<void> = Promise.resolve();

  constructor(store: RevisionStore, log: Logger) {
    this.#store = store;
    this.#log = log;
  }

  get lastSequence(): number {
    let last = this.#unsaved.at(-1)?.summary.sequence ?? 0;
    for (const sequence of this.#stored.keys()) last = Math.max(last, sequence);
    return last;
  }

  get pinned(): number | undefined {
    return this.#pinned;
  }

  /** A record appeared, changed or went (undefined). @returns whether the pin is another one now. */
  noticed(name: string, spec: Readonly<Record<string, unknown>> | undefined): boolean {
    if (name === PIN_NAME) {
      const to = spec?.["pinnedTo"];
      const pinned = typeof to === "number" ? to : undefined;
      const isOther = pinned !== this.#pinned;
      this.#pinned = pinned;
      return isOther;
    }
    const sequence = Number(/^r-(\d{16})$/.exec(name)?.[1]);
    if (!Number.isSafeInteger(sequence)) return false;
    const stored = spec && readStored(spec);
    if (stored?.summary.sequence === sequence) {
      this.#stored.set(sequence, stored);
      this.#unsaved = this.#unsaved.filter((one) => one.summary.sequence > sequence);
    } else this.#stored.delete(sequence);
    return false;
  }

  /** Newest first. */
  list(): RevisionSummary[] {
    const all = new Map([...this.#stored].map(([sequence, { summary }]) => [sequence, summary]));
    for (const { summary } of this.#unsaved) all.set(summary.sequence, summary);
    return [...all.values()].sort((a, b) => b.sequence - a.sequence);
  }

  isUnchanged(state: ClusterState): boolean {
    const newest = [...this.#stored].sort(([a], [b]) => b - a)[0]?.[1];
    return newest !== undefined && newest.digest === digestOf(objectsOf(state), this.#hasher);
  }

  record(state: ClusterState, facts: RevisionFacts, timeMs: number): RevisionSummary {
    const { atLeast = 0, inForce = state, ...kept } = facts;
    const isContent = facts.reason === "edit" || facts.reason === "start";
    const objects = isContent ? objectsOf(state) : this.#live;
    const steps = this.#started && isContent ? stepsBetween(this.#live, objects, this.#hasher) : [];
    // A rollback and its end leave what the source says as it is: they change what the mesh runs on.
    const shown = isContent ? steps : this.#stepsInForce(inForce);
    const changes = shown.map(
      ([object, before, after]): ObjectChange => ({
        object,
        change: before === undefined ? "added" : after === undefined ? "removed" : "changed",
      }),
    );
    const summary: RevisionSummary = {
      sequence: Math.max(this.lastSequence + 1, atLeast),
      timeMs,
      ...kept,
      changes: changes.slice(0, SHOWN_CHANGES),
      changeCount: changes.length,
    };
    if (isContent) this.adopt(state, inForce);
    else this.#inForce = inForce;
    this.#unsaved.push({ summary, objects: this.#live, steps });
    this.#bound();
    if (this.#isLeader) this.#save();
    return summary;
  }

  #stepsInForce(next: ClusterState): readonly Step[] {
    const before = this.#inForce ? objectsOf(this.#inForce) : this.#live;
    return stepsBetween(before, objectsOf(next), this.#hasher);
  }

  /** Where one is dropped unsaved, the next does not lead back any more. */
  #bound(): void {
    const most = this.#isLeader ? KEPT_REVISIONS : KEPT_UNSAVED;
    if (this.#unsaved.length <= most) return;
    const [, next, ...rest] = this.#unsaved;
    this.#unsaved = next ? [{ ...next, steps: undefined }, ...rest] : [];
  }

  /** The state that the newest record is about, taken without recording anything. */
  adopt(state: ClusterState, inForce = state): void {
    this.#live = objectsOf(state);
    this.#inForce = inForce;
    this.#started = true;
  }

  /** Begins (or ends) to write what is recorded. */
  lead(isLeader: boolean): void {
    this.#isLeader = isLeader;
    if (isLeader) this.#save();
  }

  flush(): Promise<void> {
    return this.#writing;
  }

  async objects(sequence: number, live?: ClusterState): Promise<ReadonlyMap<string, unknown>> {
    await this.#writing;
    const found = new Map<string, unknown>(live ? objectsOf(live) : this.#live);
    for (const { summary } of this.#after(sequence)) {
      for (const [name, before] of await this.#steps(summary.sequence))
        if (before === undefined) found.delete(name);
        else found.set(name, parseObject(before));
    }
    return found;
  }

  async diff(from: number, to: number): Promise<ObjectDiff[]> {
    const before = await this.objects(from);
    const after = await this.objects(to);
    const diffs: ObjectDiff[] = [];
    for (const name of [...new Set([...before.keys(), ...after.keys()])].sort()) {
      const [old, now] = [before.get(name), after.get(name)];
      const change = old === undefined ? "added" : now === undefined ? "removed" : "changed";
      const fields = fieldDiff(old, now);
      if (old === undefined || now === undefined || fields.length > 0)
        diffs.push({ object: name, change, fields });
    }
    return diffs;
  }

  async pin(sequence: number | undefined): Promise<void> {
    if (sequence === undefined) await this.#store.delete(PIN_NAME);
    else await this.#store.put(PIN_NAME, { pinnedTo: sequence });
    this.#pinned = sequence;
  }

  /** Records after a revision, newest first. @throws MeshError `not_found`. */
  #after(sequence: number): { readonly summary: RevisionSummary }[] {
    const all = this.list();
    const at = all.findIndex((one) => one.sequence === sequence);
    const target = all[at];
    if (target === undefined) {
      const [newest, oldest] = [all[0]?.sequence, all.at(-1)?.sequence];
      throw new MeshError(
        "not_found",
        `revision \`${sequence}\` is not kept; ${newest === undefined ? "there is none" : `there are ${all.length} from ${oldest} to ${newest}, see \`countersign history\``}`,
      );
    }
    // A rollback put an earlier revision in force; what it means is that one.
    if (target.rollbackTo !== undefined) return this.#after(target.rollbackTo);
    return all.slice(0, at).map((summary) => ({ summary }));
  }

  async #steps(sequence: number): Promise<readonly Step[]> {
    const unsaved = this.#unsaved.find((one) => one.summary.sequence === sequence);
    if (unsaved?.steps) return unsaved.steps;
    const spec = await this.#store.read(recordName(sequence));
    const content = spec?.["content"];
    if (typeof content !== "string")
      throw new MeshError(
        "not_found",
        `what revision \`${sequence}\` changed is not kept, so the mesh cannot go back beyond it`,
      );
    try {
      const steps: unknown = JSON.parse((await unzip(Buffer.from(content, "base64"))).toString("utf8"));
      // Our own record; its integrity is that of the cluster. JSON has null for what is undefined.
      const texts = steps as readonly (readonly [string, string | null, string | null])[];
      return texts.map(([name, before, after]): Step => [name, before ?? undefined, after ?? undefined]);
    } catch (cause) {
      throw new MeshError("io_failed", `revision \`${sequence}\` cannot be read: ${messageOf(cause)}`, {
        cause,
      });
    }
  }

  #save(): void {
    this.#writing = this.#writing.then(() => this.#saveAll()).catch(() => {});
  }

  async #saveAll(): Promise<void> {
    for (const one of [...this.#unsaved]) {
      const { summary, objects, steps } = one;
      const digest = digestOf(objects, this.#hasher);
      if (!this.#isLeader) return;
      try {
        const isCut = summary.reason === "start" && this.#stored.size > 0;
        const content =
          isCut || steps === undefined ? undefined : (await zip(JSON.stringify(steps))).toString("base64");
        const fits = content !== undefined && content.length <= MAX_CONTENT_CHARS;
        if (content !== undefined && !fits)
          this.#log.warn("revision is too large to be kept whole; the mesh cannot be rolled back beyond it", {
            revision: summary.sequence,
            changes: summary.changeCount,
          });
        const { sequence, timeMs, reason, rollbackTo, changeCount } = summary;
        await this.#store.create(recordName(sequence), {
          sequence,
          timeMs,
          reason,
          ...(rollbackTo === undefined ? {} : { rollbackTo }),
          changeCount,
          summary: JSON.stringify(summary),
          digest,
          ...(fits ? { content } : {}),
        });
        this.#stored.set(sequence, { summary, digest });
        this.#unsaved = this.#unsaved.filter((other) => other !== one);
      } catch (error) {
        // In force all the same; written with the next one.
        this.#log.error("revision not saved", { revision: summary.sequence, error: messageOf(error) });
        return;
      }
    }
    await this.#forgetOld();
  }

  async #forgetOld(): Promise<void> {
    const sequences = [...this.#stored.keys()].sort((a, b) => a - b);
    for (const sequence of sequences.slice(0, Math.max(0, sequences.length - KEPT_REVISIONS))) {
      // What undoing back to the pin needs stays.
      if (this.#pinned !== undefined && sequence >= this.#pinned) return;
      try {
        await this.#store.delete(recordName(sequence));
        this.#stored.delete(sequence);
      } catch (error) {
        this.#log.warn("old revision not deleted", { revision: sequence, error: messageOf(error) });
        return;
      }
    }
  }
}

function objectsOf(state: ClusterState): Map<string, object> {
  return new Map(stateObjects(state));
}

function digestOf(objects: ReadonlyMap<string, object>, hasher: ObjectHasher): string {
  const hash = createHash("sha256");
  for (const name of [...objects.keys()].sort())
    hash.update(`${name} ${hasher.hash(objects.get(name) ?? {})}\n`);
  return hash.digest("hex");
}

function stepsBetween(
  before: ReadonlyMap<string, object>,
  after: ReadonlyMap<string, object>,
  hasher: ObjectHasher,
): Step[] {
  const steps: Step[] = [];
  for (const [name, now] of after) {
    const old = before.get(name);
    if (old === now || (old !== undefined && hasher.hash(old) === hasher.hash(now))) continue;
    steps.push([name, old && objectText(old), objectText(now)]);
  }
  for (const [name, old] of before) if (!after.has(name)) steps.push([name, objectText(old), undefined]);
  return steps.sort(([a], [b]) => (a < b ? -1 : 1));
}

function readStored(spec: Readonly<Record<string, unknown>>): Stored | undefined {
  const { summary, digest } = spec;
  if (typeof summary !== "string" || typeof digest !== "string") return undefined;
  try {
    // Our own record; its integrity is that of the cluster.
    return { summary: JSON.parse(summary) as RevisionSummary, digest };
  } catch {
    return undefined;
  }
}
