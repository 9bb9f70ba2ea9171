// Writes the status of policies to `{stateDir}/status/{kind}/{namespace}/{name}.yaml` and a summary beside them: on
// change only, a policy at most every two seconds, each file whole or not at all.
import { mkdir, readdir, rename, rm, writeFile } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { setImmediate } from "node:timers/promises";
import type { Enforcement, PolicyAction } from "../../sidecar/core/policy/rule.ts";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { messageOf } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import type { ProxyStatus } from "../discovery/server.ts";
import type { AccessPolicy } from "../policy/access-policy.ts";
import type { Compiled } from "../policy/compile.ts";
import { expiredRules } from "../policy/conditions.ts";
import type { PolicyReport } from "../policy/policy-report.ts";
import { buildStatus, isProgrammedOn, type PolicyStatus, type Refusal } from "./conditions.ts";

/** An object whose present version was refused. */
export interface RefusedObject {
  /** `Kind/namespace/name` or `Kind/name`. */
  readonly object: string;
  readonly refusals: readonly Refusal[];
}

/** What status is made of; read at each writing. */
export interface StatusWorld {
  readonly compiled: () => Compiled | undefined;
  readonly proxies: () => readonly ProxyStatus[];
  readonly refused: () => readonly RefusedObject[];
  /** All problems of the source, formatted. */
  readonly problems: () => readonly string[];
  readonly revision: () => number;
  readonly pinned: () => number | undefined;
}

export interface StatusWriterOptions {
  readonly stateDir: string;
  readonly world: StatusWorld;
  readonly clock: Clock;
  readonly log: Logger;
}

/** A policy with its status as of now. */
export interface PolicyRow {
  /** `Kind/namespace/name` or `Kind/name`. */
  readonly object: string;
  /** undefined: no version of it was ever accepted. */
  readonly action: PolicyAction | undefined;
  readonly enforcement: Enforcement | undefined;
  readonly status: PolicyStatus;
}

export interface StatusWriter {
  /** Policies in force or refused, by name, computed now (files may be two seconds behind). */
  policies(): readonly PolicyRow[];
  /** Something may have changed. */
  changed(): void;
  /** Resolves when the writer has ended after its signal aborted (what changed last is written first). */
  readonly done: Promise<void>;
}

export interface MeshStatus {
  readonly revision: number;
  /** Set: the mesh is pinned to this revision until `rollback --release`. */
  readonly pinned: number | null;
  readonly proxies: {
    readonly total: number;
    readonly synced: number;
    readonly stale: number;
    readonly disconnected: number;
    readonly nacked: number;
  };
  readonly policies: { readonly total: number; readonly accepted: number };
  readonly workloads: number;
  readonly problems: readonly string[];
  readonly sidecars: readonly ProxyStatus[];
}

const INTERVAL_MS = 2_000;
/** Changes that come together (an edit and its acknowledgements) are written once. */
const SETTLE_MS = 50;
/** Objects looked at in one step, and how long steps may follow each other without a turn of the loop. */
const STEP_KEYS = 100;
const SLICE_MS = 10;
const KIND_DIR = /^[A-Za-z]+$/;

/** The whole mesh on one page; also what the management API answers. */
export function meshStatus(world: StatusWorld): MeshStatus {
  const sidecars = world.proxies();
  const count = (state: ProxyStatus["state"]): number =>
    sidecars.filter((proxy) => proxy.state === state).length;
  const compiled = world.compiled();
  let accepted = 0;
  for (const { problems } of compiled?.policies.values() ?? []) {
    if (!problems.some(({ severity, type }) => severity === "error" && type === "Accepted")) accepted += 1;
  }
  return {
    revision: world.revision(),
    pinned: world.pinned() ?? null,
    proxies: {
      total: sidecars.length,
      synced: count("synced"),
      stale: count("stale"),
      disconnected: count("disconnected"),
      nacked: sidecars.filter((proxy) => proxy.nack !== undefined).length,
    },
    policies: { total: compiled?.policies.size ?? 0, accepted },
    workloads: compiled?.state.workloads.size ?? 0,
    problems: world.problems(),
    sidecars,
  };
}

/** What is known of one object: its status is made anew when something in it changed. */
interface Entry {
  readonly policy: AccessPolicy | undefined;
  readonly report: PolicyReport | undefined;
  readonly refusals: readonly Refusal[];
  /** Revision from which policy and report are as they are. */
  readonly since: number;
  /** How its sidecars stand, as a text to compare. */
  readonly view: string;
  /** The next `notAfter` of a rule, Unix milliseconds. */
  readonly endsMs: number;
  readonly status: PolicyStatus;
}

const NO_REFUSALS: readonly Refusal[] = [];

type ByWorkload = ReadonlyMap<string, readonly ProxyStatus[]>;

class Writer implements StatusWriter {
  readonly #options: StatusWriterOptions;
  readonly #entries = new Map<string, Entry>();
  /** How the sidecars of each workload stood when statuses were last looked at. */
  #standing: ReadonlyMap<string, string> = new Map();
  /** Objects whose file is behind: to be written, or removed when they have no entry. */
  readonly #pending = new Set<string>();
  readonly #made = new Set<string>();
  #summary = "";
  #cleaned = false;
  #endsMs = Number.POSITIVE_INFINITY;
  #dirty = true;
  #wake: AbortController = new AbortController();
  readonly done: Promise<void>;

  constructor(options: StatusWriterOptions, signal: AbortSignal) {
    this.#options = options;
    this.done = this.#run(signal);
  }

  changed(): void {
    this.#dirty = true;
    this.#wake.abort();
  }

  policies(): readonly PolicyRow[] {
    for (const _ of this.#refresh());
    return [...this.#entries]
      .filter(([object]) => /^(?:Cluster)?AccessPolicy\//.test(object))
      .map(([object, { policy, status }]) => ({
        object,
        action: policy?.action,
        enforcement: policy?.enforcement,
        status,
      }))
      .sort((a, b) => (a.object < b.object ? -1 : 1));
  }

  async #run(signal: AbortSignal): Promise<void> {
    const { clock } = this.#options;
    while (!signal.aborted) {
      if (!this.#dirty) {
        const idleMs = Math.min(60_000, Math.max(0, this.#endsMs - clock.nowMs()));
        await clock.sleep(idleMs, AbortSignal.any([signal, this.#wake.signal]));
      }
      this.#wake = new AbortController();
      if (clock.nowMs() >= this.#endsMs) this.#dirty = true;
      if (!this.#dirty || signal.aborted) continue;
      await clock.sleep(SETTLE_MS, signal);
      await this.#write();
      await clock.sleep(INTERVAL_MS, signal);
    }
    if (this.#dirty) await this.#write();
  }

  async #write(): Promise<void> {
    this.#dirty = false;
    const root = join(this.#options.stateDir, "status");
    try {
      await this.#refreshInSlices();
      for (const key of [...this.#pending]) {
        const entry = this.#entries.get(key);
        if (entry) await this.#replace(root, fileOf(key), `status:\n${yamlOf(entry.status, "  ")}`);
        else await rm(join(root, fileOf(key)), { force: true });
        this.#pending.delete(key);
      }
      const summary = `${JSON.stringify(meshStatus(this.#options.world), null, 2)}\n`;
      if (summary !== this.#summary) await this.#replace(root, "summary.json", summary);
      this.#summary = summary;
      if (!this.#cleaned) await this.#removeOthers(root);
      this.#cleaned = true;
    } catch (error) {
      this.#dirty = true;
      // Status is a report: the mesh works without it, but somebody should learn why it is out of date.
      this.#options.log.warn("status not written", { error: messageOf(error) });
    }
  }

  async #refreshInSlices(): Promise<void> {
    const { clock } = this.#options;
    let sinceMs = clock.monotonicMs();
    for (const _ of this.#refresh()) {
      if (clock.monotonicMs() - sinceMs < SLICE_MS) continue;
      await setImmediate();
      sinceMs = clock.monotonicMs();
    }
  }

  /**
   * Brings the statuses up to date, in steps; what nothing happened to is only looked at (10 000 policies: 5 ms). What
   * changes between steps is seen by the next refresh, because it sets `#dirty`.
   */
  *#refresh(): Generator<void> {
    const { world, clock } = this.#options;
    const compiled = world.compiled();
    const nowMs = clock.nowMs();
    const { byWorkload, moved } = this.#look(world.proxies());
    const refused = new Map(world.refused().map((one) => [one.object, one.refusals]));
    this.#endsMs = Number.POSITIVE_INFINITY;
    const visit = (key: string): void => {
      const before = this.#entries.get(key);
      const facts: Facts = {
        policy: compiled?.state.policies.get(key),
        report: compiled?.policies.get(key),
        refusals: refused.get(key) ?? NO_REFUSALS,
      };
      const entry = this.#update(before, facts, { byWorkload, moved, nowMs });
      if (entry !== before) this.#entries.set(key, entry);
      if (entry.status !== before?.status) this.#pending.add(key);
      this.#endsMs = Math.min(this.#endsMs, entry.endsMs);
    };
    let visited = 0;
    for (const key of compiled?.state.policies.keys() ?? []) {
      visit(key);
      if (++visited % STEP_KEYS === 0) yield;
    }
    for (const key of refused.keys()) if (!compiled?.state.policies.has(key)) visit(key);
    if (this.#entries.size === (compiled?.state.policies.size ?? 0)) return;
    for (const key of [...this.#entries.keys()]) {
      if (compiled?.state.policies.has(key) || refused.has(key)) continue;
      this.#entries.delete(key);
      this.#pending.add(key);
    }
  }

  /** @returns connected sidecars by workload, and the workloads where one came, went, or stands differently. */
  #look(proxies: readonly ProxyStatus[]): { byWorkload: ByWorkload; moved: ReadonlySet<string> } {
    const byWorkload = new Map<string, ProxyStatus[]>();
    for (const proxy of proxies) {
      if (proxy.state === "disconnected") continue;
      const list = byWorkload.get(proxy.workload);
      if (list) list.push(proxy);
      else byWorkload.set(proxy.workload, [proxy]);
    }
    const standing = new Map<string, string>();
    const moved = new Set<string>();
    for (const [workload, list] of byWorkload) {
      const text = list
        .map(({ instance, node, state, nack, syncedRevision }) =>
          state === "synced"
            ? `${instance} ${node}`
            : `${instance} ${node} ${state} ${syncedRevision} ${nack ?? ""}`,
        )
        .join("\n");
      standing.set(workload, text);
      if (this.#standing.get(workload) !== text) moved.add(workload);
    }
    for (const workload of this.#standing.keys()) if (!standing.has(workload)) moved.add(workload);
    this.#standing = standing;
    return { byWorkload, moved };
  }

  #update(before: Entry | undefined, facts: Facts, look: Look): Entry {
    const { policy, report, refusals } = facts;
    const { byWorkload, moved, nowMs } = look;
    const same = before !== undefined && before.policy === policy && isSameReport(before.report, report);
    const isStill = same && nowMs < before.endsMs && isSameText(before.refusals, refusals);
    if (isStill && !(moved.size > 0 && report?.targets.some((target) => moved.has(target)))) return before;
    const since = same ? before.since : this.#options.world.revision();
    const proxies = report?.targets.flatMap((target) => byWorkload.get(target) ?? []) ?? [];
    const view = viewOf(proxies, since);
    if (isStill && view === before.view) return before;
    const expired = policy === undefined ? [] : expiredRules(policy, nowMs);
    const status = buildStatus({
      generation: policy?.generation ?? 0,
      policy,
      report: report && { ...report, problems: [...report.problems, ...expired] },
      refusals,
      proxies,
      revision: this.#options.world.revision(),
      since,
      nowMs,
      previous: before?.status,
    });
    return {
      ...facts,
      since,
      view,
      endsMs: nextEnd(policy, nowMs),
      status: view === before?.view ? steady(before.status, status) : status,
    };
  }

  async #replace(root: string, name: string, text: string): Promise<void> {
    const folder = dirname(join(root, name));
    if (!this.#made.has(folder)) await mkdir(folder, { recursive: true, mode: 0o700 });
    this.#made.add(folder);
    try {
      await writeWhole(join(root, name), text);
    } catch (error) {
      // Somebody may have removed the folder: made again at the next try.
      this.#made.delete(folder);
      throw error;
    }
  }

  /** Removes what a run before this one left of objects that are gone. */
  async #removeOthers(root: string): Promise<void> {
    const files = new Set(["summary.json", ...[...this.#entries.keys()].map(fileOf)]);
    for (const entry of await readdir(root, { recursive: true, withFileTypes: true })) {
      if (!entry.isFile()) continue;
      const name = relative(root, join(entry.parentPath, entry.name));
      if (!files.has(name)) await rm(join(root, name), { force: true });
    }
  }
}

type Facts = Pick<Entry, "policy" | "report" | "refusals">;

interface Look {
  readonly byWorkload: ByWorkload;
  readonly moved: ReadonlySet<string>;
  readonly nowMs: number;
}

const isSameText = (a: unknown, b: unknown): boolean => a === b || JSON.stringify(a) === JSON.stringify(b);

/** A full compile makes every report anew, most with the same content. */
function isSameReport(a: PolicyReport | undefined, b: PolicyReport | undefined): boolean {
  if (a === b) return true;
  if (a === undefined || b === undefined || a.targets.length !== b.targets.length) return false;
  return (
    a.targets.every((target, i) => target === b.targets[i]) &&
    (a.problems.length + b.problems.length === 0 || isSameText(a.problems, b.problems))
  );
}

function viewOf(proxies: readonly ProxyStatus[], since: number): string {
  let view = `${proxies.length}`;
  for (const proxy of proxies)
    if (!isProgrammedOn(proxy, since)) view += `\n${proxy.workload} ${proxy.node} ${proxy.nack ?? ""}`;
  return view;
}

/** A revision that left a policy as it was is no reason to write its status again. */
function steady(before: PolicyStatus | undefined, status: PolicyStatus): PolicyStatus {
  if (!before) return status;
  const same = { ...status, proxies: { ...status.proxies, revision: before.proxies.revision } };
  return isSameText(same, before) ? before : status;
}

function nextEnd(policy: AccessPolicy | undefined, nowMs: number): number {
  let endsMs = Number.POSITIVE_INFINITY;
  for (const { when } of policy?.rules ?? [])
    if (when?.notAfterMs !== undefined && when.notAfterMs > nowMs) endsMs = Math.min(endsMs, when.notAfterMs);
  return endsMs;
}

/** Block YAML of plain data, texts in double quotes: 50 times faster than the library, which takes 0.3 ms per status. */
function yamlOf(value: object, indent: string): string {
  const entries: readonly (readonly [string, unknown])[] = Array.isArray(value)
    ? value.map((item: unknown) => ["-", item] as const)
    : Object.entries(value).map(([key, item]) => [`${key}:`, item] as const);
  let text = "";
  for (const [head, item] of entries) {
    if (item === undefined) continue;
    if (typeof item !== "object" || item === null) text += `${indent}${head} ${JSON.stringify(item)}\n`;
    else if (Object.keys(item).length === 0)
      text += `${indent}${head} ${Array.isArray(item) ? "[]" : "{}"}\n`;
    else text += `${indent}${head}\n${yamlOf(item, `${indent}  `)}`;
  }
  return text;
}

/** Names come from validated objects: lower-case DNS names, no way out of the directory. */
function fileOf(key: string): string {
  const [kind = "", ...rest] = key.split("/");
  const safe = rest.map((part) =>
    part
      .replace(/[^A-Za-z0-9._-]/g, "_")
      .replace(/^\.+/, "_")
      .slice(0, 253),
  );
  return join(KIND_DIR.test(kind) ? kind : "Other", ...safe.slice(0, 2)).concat(".yaml");
}

async function writeWhole(path: string, text: string): Promise<void> {
  await writeFile(`${path}.new`, text, { mode: 0o600 });
  await rename(`${path}.new`, path);
}

/** Writes status until `signal` aborts. */
export function runStatusWriter(options: StatusWriterOptions, signal: AbortSignal): StatusWriter {
  return new Writer(options, signal);
}
