// Statuses as `status` of the objects themselves, written by the leader alone: what differs from what the API server has,
// by server-side apply, what people wait for first, a bounded number at a time.
import { setImmediate } from "node:timers/promises";
import { type BackoffLimits, backoffMs } from "../../sidecar/core/runtime/backoff.ts";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { messageOf } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import { ApiError, type KubernetesRest } from "../kubernetes/rest.ts";
import { APPLY_PATCH, FIELD_MANAGER, type KubernetesWriter } from "../kubernetes/writer.ts";
import {
  isSameStatus,
  isUrgent,
  judgedStatus,
  type OwnStatus,
  policyStatus,
  setAsideStatus,
  sorted,
} from "./api-status.ts";
import type { PolicyStatus, Refusal } from "./conditions.ts";
import { type StoredStatus, StoredStatuses, statusPath } from "./stored-statuses.ts";
import { HAS_TARGETS } from "./subjects.ts";
import type { StatusSink, StatusWorld } from "./world.ts";
import { type QueueLimits, WriteQueue } from "./write-queue.ts";

export type WriteResult = "ok" | "conflict" | "refused" | "failed";

export interface KubernetesSinkOptions {
  readonly rest: KubernetesRest;
  readonly writer: Pick<KubernetesWriter, "send">;
  readonly world: Pick<StatusWorld, "refused" | "generationOf" | "pinned">;
  readonly clock: Clock;
  /** In [0, 1). */
  readonly random: () => number;
  readonly log: Logger;
  /** What the object's status is to be, whether or not it is to be written; may come more than once. */
  readonly onWanted?: (object: StoredStatus, wanted: OwnStatus) => void;
  /** A write came through: what the object's status was, and is. */
  readonly onWritten?: (object: StoredStatus, before: OwnStatus, now: OwnStatus) => void;
  readonly observe?: (result: WriteResult) => void;
  /** Asks for another round of `put` and `flush`. */
  readonly refresh?: () => void;
  readonly limits?: Partial<SinkLimits>;
}

export interface SinkLimits extends QueueLimits {
  readonly concurrency: number;
  /** Before the first write: other replicas tell in that time how their sidecars stand. */
  readonly settleMs: number;
  readonly backoff: BackoffLimits;
}

const DEFAULT_LIMITS: SinkLimits = {
  ratePerSecond: 50,
  burst: 50,
  urgentEveryMs: 1_900,
  countsEveryMs: 10_000,
  concurrency: 8,
  settleMs: 3_000,
  backoff: { firstMs: 500, maxMs: 30_000 },
};

/** Objects compared between two turns of the event loop. */
const STEP_KEYS = 100;
/** Of these a version that was accepted earlier stays in force when the present one is refused. */
const KEEPS_EARLIER: ReadonlySet<string> = new Set(["MeshConfig", "OperationCatalog"]);
const NO_REFUSALS: readonly Refusal[] = [];
const IDLE_MS = 60_000;
const BEHIND_MS = 2_000;
/** After this long a stopping leader no longer waits for answers. */
const STOP_WITHIN_MS = 1_000;

export class KubernetesSink implements StatusSink {
  readonly #options: KubernetesSinkOptions;
  readonly #limits: SinkLimits;
  readonly #stored: StoredStatuses;
  readonly #queue: WriteQueue;
  readonly #policies = new Map<string, PolicyStatus>();
  /** To be compared with what is stored. */
  readonly #dirty = new Set<string>();
  /** Refusals of objects that are not policies, as JSON, as they were compared last. */
  #refused: ReadonlyMap<string, string> = new Map();
  /** Objects whose present generation the source, or the writer before us, has not told of yet. */
  readonly #behind = new Set<string>();
  /** What was written and what the API server made of it, where that is not the same (it drops what it does not know). */
  readonly #curtailed = new Map<string, { readonly wanted: string; readonly stored: string }>();
  readonly #writing = new Set<Promise<void>>();
  /** Generation of each object when it was compared last. */
  readonly #generations = new Map<string, number>();
  /** Written by somebody since this leader began, and not yet told how it stands. */
  readonly #edited = new Set<string>();
  #hasCompared = false;
  /** Whether every policy in force has been told: one that was not is not in force. */
  #hasAll = false;
  #failures = 0;
  #pausedUntilMs = 0;
  #isDown = false;
  #wake = new AbortController();

  constructor(options: KubernetesSinkOptions) {
    this.#options = options;
    this.#limits = { ...DEFAULT_LIMITS, ...options.limits };
    this.#queue = new WriteQueue(this.#limits);
    const { rest, clock, random, log } = options;
    this.#stored = new StoredStatuses({
      rest,
      clock,
      random,
      log,
      onChanges: (keys) => this.#touch(keys),
    });
  }

  put(object: string, status: PolicyStatus | undefined): void {
    if (!HAS_TARGETS.test(object)) return;
    if (status === undefined) this.#policies.delete(object);
    else this.#policies.set(object, status);
    this.#dirty.add(object);
  }

  async flush(): Promise<void> {
    const refused = new Map<string, string>();
    for (const { object, refusals } of this.#options.world.refused())
      if (!HAS_TARGETS.test(object)) refused.set(object, JSON.stringify(refusals));
    for (const [key, text] of refused) if (this.#refused.get(key) !== text) this.#dirty.add(key);
    for (const key of this.#refused.keys()) if (!refused.has(key)) this.#dirty.add(key);
    this.#refused = refused;
    const isFirst = !this.#hasAll;
    this.#hasAll = true;
    this.#touch(isFirst ? this.#stored.keys() : this.#behind);
  }

  /** As the API server has it; undefined for an object that is not there. */
  stored(key: string): StoredStatus | undefined {
    return this.#stored.get(key);
  }

  /** Writes until the signal aborts; never rejects. */
  async run(signal: AbortSignal): Promise<void> {
    const watching = this.#stored.run(signal);
    await this.#options.clock.sleep(this.#limits.settleMs, signal);
    while (!signal.aborted) {
      this.#wake = new AbortController();
      await this.#compareAll();
      const waitMs = Math.min(this.#dispatch(signal), this.#behind.size > 0 ? BEHIND_MS : IDLE_MS);
      await this.#options.clock.sleep(waitMs, AbortSignal.any([signal, this.#wake.signal]));
      // A version that is refused for the same reason as the one before is told by nobody.
      if (this.#behind.size > 0 && !this.#wake.signal.aborted) this.#options.refresh?.();
    }
    await Promise.race([Promise.all(this.#writing), this.#options.clock.sleep(STOP_WITHIN_MS)]);
    await watching;
  }

  #touch(keys: Iterable<string>): void {
    for (const key of keys) this.#dirty.add(key);
    this.#wake.abort();
  }

  async #compareAll(): Promise<void> {
    if (!this.#stored.isComplete) return;
    let compared = 0;
    for (const key of [...this.#dirty]) {
      this.#dirty.delete(key);
      this.#compare(key);
      if (++compared % STEP_KEYS === 0) await setImmediate();
    }
    this.#hasCompared = true;
  }

  #compare(key: string): void {
    const stored = this.#stored.get(key);
    if (!stored) {
      this.#behind.delete(key);
      this.#curtailed.delete(key);
      this.#generations.delete(key);
      this.#edited.delete(key);
    } else if (this.#generations.get(key) !== stored.generation) {
      this.#generations.set(key, stored.generation);
      if (this.#hasCompared) this.#edited.add(key);
    }
    const wanted = stored && this.#wanted(key, stored);
    if (stored && wanted) this.#options.onWanted?.(stored, wanted);
    if (!stored || !wanted) this.#queue.drop(key);
    else if (this.#isThere(key, wanted, stored.own)) {
      this.#queue.drop(key);
      if (isWhatEditorsWaitFor(wanted, stored.generation)) this.#edited.delete(key);
    } else if (!isUrgent(stored.own, wanted)) this.#queue.add(key, "counts");
    else this.#queue.add(key, this.#edited.has(key) ? "edited" : "urgent");
  }

  #isThere(key: string, wanted: OwnStatus, stored: OwnStatus): boolean {
    if (isSameStatus(wanted, stored)) return true;
    const curtailed = this.#curtailed.get(key);
    return (
      curtailed !== undefined && curtailed.wanted === sorted(wanted) && curtailed.stored === sorted(stored)
    );
  }

  /** @returns undefined when nothing is to be said of it now. */
  #wanted(key: string, stored: StoredStatus): OwnStatus | undefined {
    const { world, clock } = this.#options;
    if (HAS_TARGETS.test(key)) {
      const status = this.#policies.get(key);
      if ((status?.observedGeneration ?? 0) < stored.generation && world.pinned() === undefined)
        this.#behind.add(key);
      else this.#behind.delete(key);
      if (status === undefined) {
        const pinned = world.pinned();
        if (pinned === undefined || !this.#hasAll) return undefined;
        const { generation, own } = stored;
        return setAsideStatus({ generation, pinned, nowMs: clock.nowMs() }, own);
      }
      // A leader before us had seen a newer version: this replica will, too. A pinned mesh does go back.
      if (status.observedGeneration < stored.own.observedGeneration && world.pinned() === undefined)
        return undefined;
      return policyStatus(status, stored.own);
    }
    const judged = world.generationOf?.(key);
    if (judged === undefined || judged < stored.generation) {
      this.#behind.add(key);
      return undefined;
    }
    this.#behind.delete(key);
    const text = this.#refused.get(key);
    return judgedStatus(
      {
        generation: judged,
        // Holds because we wrote it.
        refusals: text === undefined ? NO_REFUSALS : (JSON.parse(text) as readonly Refusal[]),
        keepsEarlier: KEEPS_EARLIER.has(stored.kind),
        nowMs: clock.nowMs(),
      },
      stored.own,
    );
  }

  /** Starts what may start now. @returns how long there is nothing to do, milliseconds. */
  #dispatch(signal: AbortSignal): number {
    const { clock } = this.#options;
    for (;;) {
      const nowMs = clock.monotonicMs();
      if (nowMs < this.#pausedUntilMs) return this.#pausedUntilMs - nowMs;
      if (this.#writing.size >= this.#limits.concurrency) return this.#limits.backoff.maxMs;
      const next = this.#queue.next(nowMs);
      if (next.kind === "wait") return next.ms;
      const write = this.#write(next.key, signal).finally(() => {
        this.#writing.delete(write);
        this.#wake.abort();
      });
      this.#writing.add(write);
    }
  }

  async #write(key: string, signal: AbortSignal): Promise<void> {
    const { writer, onWritten } = this.#options;
    const stored = this.#stored.get(key);
    const wanted = stored && this.#wanted(key, stored);
    if (!stored || !wanted || this.#isThere(key, wanted, stored.own)) return;
    const { kind, namespace, name, uid } = stored;
    try {
      const answer = await writer.send(
        {
          method: "PATCH",
          path: statusPath(stored),
          query: { fieldManager: FIELD_MANAGER, force: "true" },
          contentType: APPLY_PATCH,
          body: {
            apiVersion: "countersign.dev/v1alpha1",
            kind,
            // The uid: an object of the same name that somebody made meanwhile is not meant.
            metadata: { name, ...(namespace === undefined ? {} : { namespace }), uid },
            status: wanted,
          },
        },
        signal,
      );
      this.#succeeded(key, wanted, answer);
      onWritten?.(stored, stored.own, wanted);
    } catch (error) {
      if (!signal.aborted) this.#failed(key, error);
    }
  }

  #succeeded(key: string, wanted: OwnStatus, answer: unknown): void {
    this.#stored.wrote(key, answer);
    const now = this.#stored.get(key)?.own;
    if (now && !isSameStatus(now, wanted))
      this.#curtailed.set(key, { wanted: sorted(wanted), stored: sorted(now) });
    else this.#curtailed.delete(key);
    this.#failures = 0;
    if (this.#isDown) this.#options.log.info("statuses are written again");
    this.#isDown = false;
    this.#options.observe?.("ok");
    // What it should be may have changed while it was under way.
    this.#dirty.add(key);
  }

  #failed(key: string, error: unknown): void {
    const { log, clock, random, observe } = this.#options;
    const status = error instanceof ApiError ? error.status : 0;
    if (status === 404 || status === 409) {
      // Gone, or another object by now: the watch tells which, and what it should have.
      observe?.("conflict");
      return;
    }
    if (status === 400 || status === 413 || status === 422) {
      observe?.("refused");
      log.error("the API server refuses a status; it is left as it is", {
        object: key,
        error: messageOf(error),
      });
      return;
    }
    observe?.("failed");
    const fields = { error: messageOf(error), waiting: this.#queue.size };
    if (this.#isDown) log.debug("statuses still cannot be written", fields);
    else if (status === 403)
      log.error("statuses may not be written; grant `patch` on the `status` of our kinds", fields);
    else log.warn("statuses cannot be written, trying again", fields);
    this.#isDown = true;
    this.#pausedUntilMs = clock.monotonicMs() + backoffMs(this.#failures++, this.#limits.backoff, random());
    this.#dirty.add(key);
  }
}

/** The last word on the present generation: not of the one before, not on its way to the sidecars. */
function isWhatEditorsWaitFor({ observedGeneration, conditions }: OwnStatus, generation: number): boolean {
  return observedGeneration >= generation && !conditions.some(({ reason }) => reason === "Propagating");
}
