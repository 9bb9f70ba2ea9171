// Writes the status of policies to `{stateDir}/status/{kind}/{namespace}/{name}.yaml` and a summary beside them: on
// change only, a policy at most every two seconds, each file whole or not at all.
import { mkdir, readdir, rename, rm, writeFile } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { stringify } from "yaml";
import type { Enforcement, PolicyAction } from "../../sidecar/core/policy/rule.ts";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { messageOf } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import type { ProxyStatus } from "../discovery/server.ts";
import type { Compiled } from "../policy/compile.ts";
import { buildStatus, type PolicyStatus, type Refusal } from "./conditions.ts";

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

class Writer implements StatusWriter {
  readonly #options: StatusWriterOptions;
  readonly #written = new Map<string, string>();
  readonly #last = new Map<string, PolicyStatus>();
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
    const { state } = this.#options.world.compiled() ?? {};
    return [...this.#statuses()]
      .filter(([object]) => /^(?:Cluster)?AccessPolicy\//.test(object))
      .map(([object, status]) => {
        const policy = state?.policies.get(object);
        return { object, action: policy?.action, enforcement: policy?.enforcement, status };
      })
      .sort((a, b) => (a.object < b.object ? -1 : 1));
  }

  async #run(signal: AbortSignal): Promise<void> {
    const { clock } = this.#options;
    while (!signal.aborted) {
      if (!this.#dirty) await clock.sleep(60_000, AbortSignal.any([signal, this.#wake.signal]));
      this.#wake = new AbortController();
      if (!this.#dirty || signal.aborted) continue;
      await clock.sleep(SETTLE_MS, signal);
      await this.#write();
      await clock.sleep(INTERVAL_MS, signal);
    }
    if (this.#dirty) await this.#write();
  }

  async #write(): Promise<void> {
    this.#dirty = false;
    try {
      const files = this.#render();
      const root = join(this.#options.stateDir, "status");
      for (const [name, text] of files) {
        if (this.#written.get(name) === text) continue;
        await writeWhole(join(root, name), text);
        this.#written.set(name, text);
      }
      await this.#removeOthers(root, files);
    } catch (error) {
      // Status is a report: the mesh works without it, but somebody should learn why it is out of date.
      this.#options.log.warn("status not written", { error: messageOf(error) });
    }
  }

  /** Status of every object that has one, as of now. */
  #statuses(): Map<string, PolicyStatus> {
    const { world, clock } = this.#options;
    const compiled = world.compiled();
    const statuses = new Map<string, PolicyStatus>();
    const byWorkload = new Map<string, ProxyStatus[]>();
    for (const proxy of world.proxies()) {
      if (proxy.state === "disconnected") continue;
      const list = byWorkload.get(proxy.workload);
      if (list) list.push(proxy);
      else byWorkload.set(proxy.workload, [proxy]);
    }
    const refused = new Map(world.refused().map((one) => [one.object, one.refusals]));
    const keys = new Set([...(compiled?.state.policies.keys() ?? []), ...refused.keys()]);
    for (const key of keys) {
      const policy = compiled?.state.policies.get(key);
      const report = compiled?.policies.get(key);
      const status = buildStatus({
        generation: policy?.generation ?? 0,
        policy,
        report,
        refusals: refused.get(key) ?? [],
        proxies: report?.targets.flatMap((target) => byWorkload.get(target) ?? []) ?? [],
        revision: world.revision(),
        nowMs: clock.nowMs(),
        previous: this.#last.get(key),
      });
      statuses.set(key, this.#steady(key, status));
    }
    return statuses;
  }

  #render(): Map<string, string> {
    const { world } = this.#options;
    const files = new Map<string, string>();
    const statuses = this.#statuses();
    for (const [key, status] of statuses) {
      this.#last.set(key, status);
      files.set(fileOf(key), stringify({ status }, { lineWidth: 0 }));
    }
    for (const key of [...this.#last.keys()]) if (!statuses.has(key)) this.#last.delete(key);
    files.set("summary.json", `${JSON.stringify(meshStatus(world), null, 2)}\n`);
    return files;
  }

  /** A revision that left a policy as it was is no reason to write its status again. */
  #steady(key: string, status: PolicyStatus): PolicyStatus {
    const before = this.#last.get(key);
    if (!before) return status;
    const same = { ...status, proxies: { ...status.proxies, revision: before.proxies.revision } };
    return JSON.stringify(same) === JSON.stringify(before) ? before : status;
  }

  /** Removes what belongs to objects that are gone, also from before a restart. */
  async #removeOthers(root: string, files: ReadonlyMap<string, string>): Promise<void> {
    for (const entry of await readdir(root, { recursive: true, withFileTypes: true })) {
      if (!entry.isFile()) continue;
      const name = relative(root, join(entry.parentPath, entry.name));
      if (files.has(name)) continue;
      await rm(join(root, name), { force: true });
      this.#written.delete(name);
    }
  }
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
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  await writeFile(`${path}.new`, text, { mode: 0o600 });
  await rename(`${path}.new`, path);
}

/** Writes status until `signal` aborts. */
export function runStatusWriter(options: StatusWriterOptions, signal: AbortSignal): StatusWriter {
  return new Writer(options, signal);
}
