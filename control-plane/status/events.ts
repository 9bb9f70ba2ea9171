// Kubernetes events (`events.k8s.io/v1`) on our objects: one per object and reason in ten minutes, which counts what comes
// after it. Best effort: what the API server does not take is dropped, for status says the same.
import { createHash } from "node:crypto";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { messageOf } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import { FIELD_MANAGER, JSON_BODY, type KubernetesWriter, MERGE_PATCH } from "../kubernetes/writer.ts";
import type { EventNote } from "./event-notes.ts";
import { WriteQueue } from "./write-queue.ts";

/** The object that an event is about. */
export interface EventSubject {
  /** Absent: that of our kinds. */
  readonly apiVersion?: string;
  readonly kind: string;
  readonly namespace: string | undefined;
  readonly name: string;
  readonly uid: string;
}

export interface EventRecorderOptions {
  readonly writer: Pick<KubernetesWriter, "send">;
  /** Of this process among the replicas. */
  readonly identity: string;
  readonly clock: Clock;
  readonly log: Logger;
}

interface Series {
  readonly subject: EventSubject;
  readonly note: EventNote;
  /** Unix milliseconds. */
  readonly startedMs: number;
  lastMs: number;
  count: number;
  /** Whether the event is there, so that more of its kind are a patch. */
  isCreated: boolean;
}

const WINDOW_MS = 600_000;
/** Events that wait to be written; beyond, new ones are dropped. */
const MAX_WAITING = 1_000;
const MAX_NOTE = 1_000;
const RATE = { ratePerSecond: 5, burst: 25, urgentEveryMs: 0, countsEveryMs: 60_000 };

export class EventRecorder {
  readonly #options: EventRecorderOptions;
  readonly #series = new Map<string, Series>();
  readonly #queue = new WriteQueue(RATE);
  #wake = new AbortController();
  #isRefused = false;

  constructor(options: EventRecorderOptions) {
    this.#options = options;
  }

  record(subject: EventSubject, note: EventNote): void {
    const nowMs = this.#options.clock.nowMs();
    const key = `${subject.uid} ${note.reason}`;
    const before = this.#series.get(key);
    if (before && nowMs - before.startedMs < WINDOW_MS) {
      before.count += 1;
      before.lastMs = nowMs;
      if (before.isCreated) this.#queue.add(key, "counts");
      return;
    }
    if (this.#queue.size >= MAX_WAITING) return;
    this.#series.delete(key);
    this.#series.set(key, { subject, note, startedMs: nowMs, lastMs: nowMs, count: 1, isCreated: false });
    this.#queue.add(key, "urgent");
    this.#wake.abort();
  }

  /** Writes until the signal aborts; never rejects. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock } = this.#options;
    while (!signal.aborted) {
      this.#wake = new AbortController();
      const next = this.#queue.next(clock.monotonicMs());
      if (next.kind === "write") await this.#write(next.key, signal);
      else {
        this.#forget(clock.nowMs());
        await clock.sleep(next.ms, AbortSignal.any([signal, this.#wake.signal]));
      }
    }
  }

  async #write(key: string, signal: AbortSignal): Promise<void> {
    const series = this.#series.get(key);
    if (!series) return;
    try {
      if (series.isCreated) await this.#count(series, signal);
      else await this.#create(series, signal);
      if (this.#isRefused) this.#options.log.info("events are written again");
      this.#isRefused = false;
    } catch (error) {
      if (signal.aborted) return;
      const fields = { error: messageOf(error) };
      if (this.#isRefused) this.#options.log.debug("event dropped", fields);
      else this.#options.log.warn("events cannot be written and are dropped", fields);
      this.#isRefused = true;
    }
  }

  async #create(series: Series, signal: AbortSignal): Promise<void> {
    const { subject, note, startedMs } = series;
    const namespace = namespaceOf(subject);
    // Before the answer: an event that failed is not tried again, and what follows would be a patch of nothing.
    const counted = series.count;
    await this.#options.writer.send(
      {
        method: "POST",
        path: eventsPath(namespace),
        query: { fieldManager: FIELD_MANAGER },
        contentType: JSON_BODY,
        body: {
          apiVersion: "events.k8s.io/v1",
          kind: "Event",
          metadata: { name: nameOf(series), namespace },
          eventTime: microTime(startedMs),
          reportingController: "countersign.dev/control-plane",
          reportingInstance: this.#options.identity.slice(0, 128),
          action: ACTIONS[note.reason],
          reason: note.reason,
          regarding: { apiVersion: "countersign.dev/v1alpha1", ...subject },
          note: note.note.length <= MAX_NOTE ? note.note : `${note.note.slice(0, MAX_NOTE)}…`.toWellFormed(),
          type: note.type,
        },
      },
      signal,
    );
    series.isCreated = true;
    if (series.count > counted) this.#queue.add(`${subject.uid} ${note.reason}`, "counts");
  }

  async #count(series: Series, signal: AbortSignal): Promise<void> {
    await this.#options.writer.send(
      {
        method: "PATCH",
        path: `${eventsPath(namespaceOf(series.subject))}/${nameOf(series)}`,
        query: { fieldManager: FIELD_MANAGER },
        contentType: MERGE_PATCH,
        body: { series: { count: series.count, lastObservedTime: microTime(series.lastMs) } },
      },
      signal,
    );
  }

  /** Series whose time is over, once their last count is written. */
  #forget(nowMs: number): void {
    // Oldest first, so the first that still counts ends it.
    for (const [key, { startedMs }] of this.#series) {
      if (nowMs - startedMs < WINDOW_MS + RATE.countsEveryMs) return;
      this.#series.delete(key);
    }
  }
}

const ACTIONS: Readonly<Record<EventNote["reason"], string>> = {
  Refused: "Validate",
  Accepted: "Validate",
  ProxyRefused: "Distribute",
  NotProgrammed: "Distribute",
  Programmed: "Distribute",
  Pinned: "Rollback",
  Released: "Rollback",
  NotMeshed: "Inject",
};

/** Events on objects of the cluster live here. */
const namespaceOf = ({ namespace }: EventSubject): string => namespace ?? "default";

const eventsPath = (namespace: string): string =>
  `/apis/events.k8s.io/v1/namespaces/${encodeURIComponent(namespace)}/events`;

function nameOf({ subject, note, startedMs }: Series): string {
  const hash = createHash("sha256").update(`${subject.uid} ${note.reason} ${startedMs}`).digest("hex");
  return `${subject.name.slice(0, 200)}.${hash.slice(0, 16)}`;
}

const microTime = (ms: number): string => new Date(ms).toISOString().replace("Z", "000Z");
