// The configuration directory as a source of cluster state: watch, wait for quiet, read everything, reconcile, remember,
// publish. It never writes into the directory.
import { type FSWatcher, statSync, watch } from "node:fs";
import { dirname, join } from "node:path";
import { setImmediate } from "node:timers/promises";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import { type Admitter, createAdmitter } from "../policy/admit.ts";
import { loadBuiltInPacks } from "../policy/packs.ts";
import { createObjectParser, type ObjectParser } from "../policy/typed-object.ts";
import { AcceptedStore } from "./accepted-store.ts";
import { closedDeny } from "./closed-deny.ts";
import { buildClusterState, EMPTY_STATE } from "./cluster-state.ts";
import { type FieldProblem, formatProblem, type SourceReport } from "./field-problem.ts";
import { FileReader, keyOf } from "./file-reader.ts";
import { isSkipped, listTree, listTreeSteps, type TreeReading } from "./file-tree.ts";
import { NO_CONFIG, noticesOf } from "./notices.ts";
import { type Accepted, catalogsOf, DENY_CONFIRM_MS, type FileReading, reconcile } from "./reconcile.ts";
import type { SchemaSet, ValidObject } from "./schema.ts";
import type { ClusterState } from "./store.ts";

export interface AcceptedObject {
  readonly kind: string;
  readonly namespace: string | undefined;
  readonly name: string;
  readonly generation: number;
  /** false: what is in force is an earlier version, because the present one was refused or is gone for now. */
  readonly current: boolean;
}

export interface DirectoryReport extends SourceReport {
  /** Accepted objects by file (path below the directory). */
  readonly accepted: ReadonlyMap<string, readonly AcceptedObject[]>;
}

export interface DirectorySourceOptions {
  readonly dir: string;
  readonly stateDir: string;
  readonly clock: Clock;
  readonly schemas: SchemaSet;
  readonly log: Logger;
  /** Text of the built-in operation packs by name; those of the build unless given. */
  readonly packs?: ReadonlyMap<string, string>;
  /** Called when state or report changed; the state is the very same value when only the report did. */
  readonly onState: (state: ClusterState, report: DirectoryReport) => void;
}

/** A reading begins after so much time without an event … */
const QUIET_MS = 50;
/** … but no later than this after the first one, however busy the directory is. */
const MAX_WAIT_MS = 2000;
/** Without events the files' times are looked at this often, or less often where looking is expensive. */
const POLL_MS = 2000;
const POLL_SHARE = 50;
const SLICE_MS = 20;
/** Problems logged per report; the report has them all. */
const MAX_LOGGED = 50;
/** Directories beyond these are polled only. */
const MAX_WATCHES = 1000;

/** Wakes the loop: an event that came while it was busy is not lost. */
class Wakeup {
  #pending = false;
  #wake: (() => void) | undefined;

  fire(): void {
    this.#pending = true;
    this.#wake?.();
  }

  /** @returns true for an event, false when `ms` passed or `signal` aborted. */
  async wait(clock: Clock, ms: number, signal: AbortSignal): Promise<boolean> {
    if (!this.#pending) {
      const stop = new AbortController();
      this.#wake = () => stop.abort();
      await clock.sleep(ms, AbortSignal.any([stop.signal, signal]));
      this.#wake = undefined;
    }
    const fired = this.#pending;
    this.#pending = false;
    return fired;
  }
}

/** One watch per directory: Node's recursive watch on Linux would hold one per file. */
class Watches {
  readonly #watchers = new Map<string, FSWatcher>();
  readonly #fire: () => void;
  readonly #log: Logger;

  constructor(fire: () => void, log: Logger) {
    this.#fire = fire;
    this.#log = log;
  }

  /** @returns whether a directory is watched now that was not before: then something may have been missed. */
  follow(directories: readonly string[]): boolean {
    const wanted = new Set(directories.slice(0, MAX_WATCHES));
    for (const [directory, watcher] of this.#watchers)
      if (!wanted.has(directory)) this.#drop(directory, watcher);
    let added = false;
    for (const directory of wanted) if (!this.#watchers.has(directory)) added = this.#add(directory) || added;
    return added;
  }

  #add(directory: string): boolean {
    try {
      const watcher = watch(directory, (_event, name) => {
        // `..data` is the link that a Kubernetes volume swaps; other hidden names are editors at work.
        if (name === null || name === "..data" || !isSkipped(name)) this.#fire();
      });
      watcher.on("error", () => this.#drop(directory, watcher));
      this.#watchers.set(directory, watcher);
      return true;
    } catch (error) {
      this.#log.warn("directory cannot be watched and is polled", { directory, error: messageOf(error) });
      return false;
    }
  }

  #drop(directory: string, watcher: FSWatcher): void {
    watcher.close();
    this.#watchers.delete(directory);
  }

  close(): void {
    for (const [directory, watcher] of this.#watchers) this.#drop(directory, watcher);
  }
}

interface ReportInput {
  readonly accepted: ReadonlyMap<string, Accepted>;
  readonly problems: readonly FieldProblem[];
  readonly notices: readonly FieldProblem[];
  readonly admitter: Admitter;
  readonly nowMs: number;
}

function buildReport({ accepted, problems, notices, admitter, nowMs }: ReportInput): DirectoryReport {
  const byFile = new Map<string, AcceptedObject[]>();
  const found: FieldProblem[] = [...notices];
  const catalogs = catalogsOf(accepted.values());
  let configured = false;
  for (const { valid, typed, file, current } of accepted.values()) {
    const { kind, namespace, name, generation } = valid;
    const list = byFile.get(file);
    const entry = { kind, namespace, name, generation, current };
    if (list === undefined) byFile.set(file, [entry]);
    else list.push(entry);
    configured ||= kind === "MeshConfig";
    for (const { path, message, hint } of noticesOf(typed, catalogs, admitter, nowMs))
      found.push({
        file,
        object: keyOf({ kind, metadata: valid }).title,
        path,
        message,
        ...(hint === undefined ? {} : { hint }),
      });
  }
  if (!configured) found.push(NO_CONFIG);
  return { accepted: byFile, problems, notices: found };
}

interface Changes {
  readonly put: readonly Accepted[];
  readonly dropped: readonly string[];
  readonly kinds: ReadonlySet<string>;
  /** Whether anything differs, even if only where an object is or whether it is current. */
  readonly any: boolean;
}

/** `kinds` names only those whose typed objects differ; a moved file changes records, not the state. */
function difference(before: ReadonlyMap<string, Accepted>, after: ReadonlyMap<string, Accepted>): Changes {
  const put: Accepted[] = [];
  const dropped: string[] = [];
  const kinds = new Set<string>();
  let any = false;
  for (const [key, accepted] of after) {
    const old = before.get(key);
    if (old === accepted) continue;
    any = true;
    if (old?.typed !== accepted.typed) kinds.add(accepted.valid.kind);
    if (
      old === undefined ||
      old.raw !== accepted.raw ||
      old.file !== accepted.file ||
      old.digest !== accepted.digest
    )
      put.push(accepted);
  }
  for (const [key, old] of before) {
    if (after.has(key)) continue;
    dropped.push(key);
    kinds.add(old.valid.kind);
  }
  return { put, dropped, kinds, any: any || dropped.length > 0 };
}

/** The state of one running source between readings. */
class Source {
  readonly #options: DirectorySourceOptions;
  readonly #parse: ObjectParser;
  readonly #admitter: Admitter;
  readonly #reader: FileReader;
  readonly #store: AcceptedStore;
  #accepted: ReadonlyMap<string, Accepted> = new Map();
  #missingSince: ReadonlyMap<string, number> = new Map();
  #state: ClusterState = EMPTY_STATE;
  /** Problems and notices of the last report; undefined: nothing was published yet. */
  #published: string | undefined;
  #unreadable = "";

  constructor(options: DirectorySourceOptions) {
    this.#options = options;
    this.#parse = createObjectParser();
    this.#admitter = createAdmitter(options.packs ?? loadBuiltInPacks());
    this.#reader = new FileReader(options.schemas, this.#parse, () => options.clock.nowMs());
    this.#store = new AcceptedStore(options.stateDir);
    if (this.#store.damage.length > 0)
      options.log.warn("accepted objects could not all be read back", {
        lines: this.#store.damage.slice(0, 20),
      });
    this.#accepted = this.#restore();
  }

  #restore(): Map<string, Accepted> {
    const accepted = new Map<string, Accepted>();
    for (const { key, file, digest, generation, acceptedAtMs, object } of this.#store.records()) {
      const checked = this.#options.schemas.validate(object);
      const valid: ValidObject | undefined = checked.ok ? { ...checked.value, generation } : undefined;
      const typed = valid && this.#parse(valid, acceptedAtMs);
      if (!valid || !typed?.ok) {
        // INVARIANT: schemas only grow within a version, so this is a downgrade or a damaged file.
        const stored = { key, object, generation, acceptedAtMs };
        const closed = closedDeny(stored, this.#options.schemas, this.#parse);
        const outcome = closed === undefined ? "is left out" : "denies all traffic to its targets";
        this.#options.log.error("an accepted object is not valid for this build", {
          object: key,
          file,
          outcome,
        });
        // The record keeps what its author wrote: the version that can read it takes it up again.
        if (closed !== undefined)
          accepted.set(key, {
            key,
            file,
            digest,
            raw: object,
            ...closed,
            acceptedAtMs,
            current: false,
            closed: true,
          });
        continue;
      }
      accepted.set(key, {
        key,
        file,
        digest,
        raw: object,
        valid,
        typed: typed.value,
        acceptedAtMs,
        current: false,
      });
      if (digest !== "")
        this.#reader.seed(digest, {
          raw: object,
          key,
          title: keyOf(object).title,
          checked: { ok: true, value: { valid, typed: typed.value } },
          lineOf: () => 1,
        });
    }
    return accepted;
  }

  /** Reads, reconciles and publishes. @returns when (milliseconds from now) another reading is due, if one is. */
  async update(tree: TreeReading): Promise<number | undefined> {
    const { clock, schemas, log, onState } = this.#options;
    const reading = await inSlices(this.#reader.steps(tree.files), clock);
    const unreadable = JSON.stringify([tree.unreadable, tree.problems, tree.notices]);
    const soon = reading.stable ? undefined : QUIET_MS;
    if (
      !reading.changed &&
      this.#missingSince.size === 0 &&
      this.#published !== undefined &&
      unreadable === this.#unreadable
    )
      return soon;
    this.#unreadable = unreadable;
    const monotonicMs = clock.monotonicMs();
    const result = reconcile({
      accepted: this.#accepted,
      files: reading.files,
      unreadable: tree.unreadable,
      missingSince: this.#missingSince,
      nowMs: clock.nowMs(),
      monotonicMs,
      schemas,
      parse: this.#parse,
      admitter: this.#admitter,
    });
    const changes = difference(this.#accepted, result.accepted);
    this.#store.write(changes.put.map(toRecord), changes.dropped);
    const first = this.#published === undefined;
    if (changes.kinds.size > 0 || first) {
      const kinds = first
        ? new Set([...result.accepted.values()].map((accepted) => accepted.valid.kind))
        : changes.kinds;
      this.#state = buildClusterState(this.#state, result.accepted.values(), kinds);
    }
    this.#accepted = result.accepted;
    this.#missingSince = result.missingSince;
    const report = buildReport({
      accepted: result.accepted,
      problems: [...tree.problems, ...result.problems],
      notices: tree.notices,
      admitter: this.#admitter,
      nowMs: clock.nowMs(),
    });
    const published = JSON.stringify([report.problems, report.notices]);
    if (changes.any || published !== this.#published) {
      this.#published = published;
      for (const problem of report.problems.slice(0, MAX_LOGGED))
        log.warn("object refused", { problem: formatProblem(problem) });
      for (const notice of report.notices.slice(0, MAX_LOGGED))
        log.info("configuration notice", { notice: formatProblem(notice) });
      onState(this.#state, report);
    }
    const dueMs = [...result.missingSince.values()].map((since) =>
      Math.max(1, since + DENY_CONFIRM_MS - monotonicMs),
    );
    return soon ?? (dueMs.length > 0 ? Math.min(...dueMs) : undefined);
  }
}

/** Runs `steps` to its end and lets the event loop turn every 20 ms: ten thousand new policies take seconds to parse. */
async function inSlices<T>(steps: Generator<void, T>, clock: Clock): Promise<T> {
  let sinceMs = clock.monotonicMs();
  for (;;) {
    const step = steps.next();
    if (step.done) return step.value;
    if (clock.monotonicMs() - sinceMs < SLICE_MS) continue;
    await setImmediate();
    sinceMs = clock.monotonicMs();
  }
}

function toRecord(accepted: Accepted): Parameters<AcceptedStore["write"]>[0][number] {
  const { key, file, digest, acceptedAtMs, raw, valid } = accepted;
  return { key, file, digest, generation: valid.generation, acceptedAtMs, object: raw };
}

/**
 * Watches the directory until `signal` aborts (DESIGN 2). The first state comes after the first reading; an edit is
 * published after 50 ms of quiet. A bad object or file changes nothing and is reported; a Deny that vanished is
 * dropped only when a reading 500 ms later misses it too.
 *
 * @throws MeshError `io_failed` when `stateDir` cannot be used; an unreadable `dir` is reported, not thrown.
 */
export async function runDirectorySource(
  options: DirectorySourceOptions,
  signal: AbortSignal,
): Promise<void> {
  const { clock, dir, log } = options;
  const source = new Source(options);
  const wakeup = new Wakeup();
  const watches = new Watches(() => wakeup.fire(), log);
  try {
    watches.follow([dir]);
    while (!signal.aborted) {
      const startMs = clock.monotonicMs();
      const tree = await inSlices(listTreeSteps(dir), clock);
      const listMs = clock.monotonicMs() - startMs;
      // Files may have appeared in a new directory before it was watched: look again.
      const again = watches.follow(tree.directories.length > 0 ? tree.directories : [dir])
        ? QUIET_MS
        : undefined;
      const dueMs = (await source.update(tree)) ?? again;
      const fired = await wakeup.wait(clock, dueMs ?? Math.max(POLL_MS, listMs * POLL_SHARE), signal);
      if (fired) await quiet(clock, wakeup, signal);
    }
  } finally {
    watches.close();
  }
}

/** Waits until nothing happened for 50 ms, but not for ever. */
async function quiet(clock: Clock, wakeup: Wakeup, signal: AbortSignal): Promise<void> {
  const endMs = clock.monotonicMs() + MAX_WAIT_MS;
  while (clock.monotonicMs() < endMs && !signal.aborted && (await wakeup.wait(clock, QUIET_MS, signal)));
}

/**
 * One reading of files and directories, for commands that check and explain. Nothing is remembered: what is refused
 * is not in the state.
 *
 * @param paths files or directories.
 * @param nowMs Unix milliseconds, from which grants without approval are active.
 * @throws MeshError `not_found` for a path that does not exist.
 */
export function readDirectory(
  paths: string | readonly string[],
  schemas: SchemaSet,
  nowMs: number = Date.now(),
): { readonly state: ClusterState; readonly report: DirectoryReport } {
  const parse = createObjectParser();
  const admitter = createAdmitter(loadBuiltInPacks());
  const files: FileReading[] = [];
  const problems: FieldProblem[] = [];
  const notices: FieldProblem[] = [];
  for (const path of typeof paths === "string" ? [paths] : paths) {
    const tree = listPath(path);
    problems.push(...tree.problems);
    notices.push(...tree.notices);
    files.push(...new FileReader(schemas, parse, () => nowMs).readAll(tree.files).files);
  }
  const result = reconcile({
    accepted: new Map(),
    files,
    unreadable: [],
    missingSince: new Map(),
    nowMs,
    monotonicMs: 0,
    schemas,
    parse,
    admitter,
  });
  const kinds = new Set([...result.accepted.values()].map((accepted) => accepted.valid.kind));
  const state = buildClusterState(EMPTY_STATE, result.accepted.values(), kinds);
  const found = [...problems, ...result.problems.map(({ standing: _, ...problem }) => problem)];
  return {
    state,
    report: buildReport({ accepted: result.accepted, problems: found, notices, admitter, nowMs }),
  };
}

/** The tree of a path, with file names as the user would write them. */
function listPath(path: string): TreeReading {
  let isDirectory: boolean;
  try {
    isDirectory = statSync(path).isDirectory();
  } catch (error) {
    throw new MeshError("not_found", `\`${path}\` cannot be read: ${messageOf(error)}`, { cause: error });
  }
  if (!isDirectory) {
    const { size, mtimeMs, ctimeMs, ino } = statSync(path);
    return {
      files: [{ path, absolute: path, size, mtimeMs, ctimeMs, ino }],
      directories: [dirname(path)],
      unreadable: [],
      problems: [],
      notices: [],
    };
  }
  const tree = listTree(path);
  const rename = <T extends { readonly file?: string }>(problem: T): T =>
    problem.file === undefined ? { ...problem, file: path } : { ...problem, file: join(path, problem.file) };
  return {
    ...tree,
    files: tree.files.map((file) => ({ ...file, path: join(path, file.path) })),
    problems: tree.problems.map(rename),
    notices: tree.notices.map(rename),
  };
}
