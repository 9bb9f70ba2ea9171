// Keeps statuses up to date and hands what changed to its sinks (files, the API server): on change only, a policy at most
// every two seconds.
import { setImmediate } from "node:timers/promises";
import type { Enforcement, PolicyAction } from "../../sidecar/core/policy/rule.ts";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { messageOf } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import type { ProxyStatus } from "../discovery/server.ts";
import type { PolicyStatus } from "./conditions.ts";
import { FileSink } from "./file-sink.ts";
import { PolicyStatuses } from "./policy-statuses.ts";
import { accessPolicyOf } from "./subjects.ts";
import type { StatusSink, StatusWorld } from "./world.ts";

export type { RefusedObject, StatusWorld } from "./world.ts";

export interface StatusWriterOptions {
  /** Where statuses are written as files; undefined: nowhere. */
  readonly stateDir?: string | undefined;
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
  /** Statuses go here too from now on, all of them first. @returns what ends that. */
  attach(sink: StatusSink): () => void;
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
/** How long steps may follow each other without a turn of the loop. */
const SLICE_MS = 10;

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
  readonly #statuses: PolicyStatuses;
  readonly #sinks = new Set<StatusSink>();
  #dirty = true;
  #wake: AbortController = new AbortController();
  readonly done: Promise<void>;

  constructor(options: StatusWriterOptions, signal: AbortSignal) {
    this.#options = options;
    const { world, stateDir } = options;
    this.#statuses = new PolicyStatuses(world);
    if (stateDir !== undefined) this.#sinks.add(new FileSink(stateDir, () => meshStatus(world)));
    this.done = this.#run(signal);
  }

  changed(): void {
    this.#dirty = true;
    this.#wake.abort();
  }

  attach(sink: StatusSink): () => void {
    for (const { object, status } of this.#statuses.entries()) sink.put(object, status);
    this.#sinks.add(sink);
    this.changed();
    return () => this.#sinks.delete(sink);
  }

  policies(): readonly PolicyRow[] {
    for (const _ of this.#refresh());
    return [...this.#statuses.entries()]
      .filter(({ object }) => /^(?:Cluster)?AccessPolicy\//.test(object))
      .map(({ object, policy, status }) => {
        const access = accessPolicyOf(policy);
        return { object, action: access?.action, enforcement: access?.enforcement, status };
      })
      .sort((a, b) => (a.object < b.object ? -1 : 1));
  }

  async #run(signal: AbortSignal): Promise<void> {
    const { clock } = this.#options;
    while (!signal.aborted) {
      if (!this.#dirty) {
        const idleMs = Math.min(60_000, Math.max(0, this.#statuses.endsMs - clock.nowMs()));
        await clock.sleep(idleMs, AbortSignal.any([signal, this.#wake.signal]));
      }
      this.#wake = new AbortController();
      if (clock.nowMs() >= this.#statuses.endsMs) this.#dirty = true;
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
      await this.#refreshInSlices();
      for (const sink of this.#sinks) await sink.flush();
    } catch (error) {
      this.#dirty = true;
      // Status is a report: the mesh works without it, but somebody should learn why it is out of date.
      this.#options.log.warn("status not written", { error: messageOf(error) });
    }
  }

  #refresh(): Generator<void> {
    return this.#statuses.refresh(this.#options.clock.nowMs(), (object, status) => {
      for (const sink of this.#sinks) sink.put(object, status);
    });
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
}

/** Writes status until `signal` aborts. */
export function runStatusWriter(options: StatusWriterOptions, signal: AbortSignal): StatusWriter {
  return new Writer(options, signal);
}
