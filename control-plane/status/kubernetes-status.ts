// What the leader does about status: writes it into the objects, and events about what went wrong, until it leads no more.

import { type EventNote, notesOf, Overdue } from "./event-notes.ts";
import { EventRecorder } from "./events.ts";
import { GatewaySink } from "./gateway-sink.ts";
import { KubernetesSink, type KubernetesSinkOptions } from "./kubernetes-sink.ts";
import type { StoredStatus } from "./stored-statuses.ts";
import type { StatusWorld } from "./world.ts";
import type { StatusWriter } from "./writer.ts";

export interface KubernetesStatusOptions
  extends Omit<KubernetesSinkOptions, "onWritten" | "onWanted" | "refresh" | "world"> {
  readonly world: KubernetesSinkOptions["world"] & Pick<StatusWorld, "compiled">;
  readonly status: Pick<StatusWriter, "attach" | "changed">;
  /** Of this process among the replicas. */
  readonly identity: string;
}

const OVERDUE_EVERY_MS = 10_000;
/** Rollbacks are told of this object. */
const MESH = "MeshConfig/default";

/** Writes status and events until the signal aborts; never rejects. */
export async function runKubernetesStatus(
  options: KubernetesStatusOptions,
  signal: AbortSignal,
): Promise<void> {
  const { status, writer, identity, clock, log, world } = options;
  const events = new EventRecorder({ writer, identity, clock, log });
  const overdue = new Overdue();
  const tell = (object: StoredStatus | undefined, note: EventNote | undefined): void => {
    if (!object || !note) return;
    const { kind, namespace, name, uid } = object;
    events.record({ kind, namespace, name, uid }, note);
  };
  const sink = new KubernetesSink({
    ...options,
    refresh: () => status.changed(),
    onWritten: (object, before, now) => {
      for (const note of notesOf(before, now)) tell(object, note);
    },
    onWanted: (object, wanted) => tell(object, overdue.saw(keyOf(object), wanted)),
  });
  const gateways = new GatewaySink({ ...options, compiled: () => world.compiled() });
  let pinned = world.pinned();
  const detach = status.attach({
    put: (object, policy) => {
      if (policy === undefined) overdue.forget(object);
      sink.put(object, policy);
    },
    flush: () => {
      const now = world.pinned();
      if (now !== pinned) tell(sink.stored(MESH), pinNote(now));
      pinned = now;
      gateways.flush();
      return sink.flush();
    },
  });
  const watchOverdue = async (): Promise<void> => {
    while (!signal.aborted) {
      await clock.sleep(OVERDUE_EVERY_MS, signal);
      for (const [key, note] of overdue.due(clock.nowMs())) tell(sink.stored(key), note);
    }
  };
  try {
    await Promise.all([sink.run(signal), gateways.run(signal), events.run(signal), watchOverdue()]);
  } finally {
    detach();
  }
}

const keyOf = ({ kind, namespace, name }: StoredStatus): string =>
  namespace === undefined ? `${kind}/${name}` : `${kind}/${namespace}/${name}`;

function pinNote(pinned: number | undefined): EventNote {
  return pinned === undefined
    ? { type: "Normal", reason: "Released", note: "the mesh follows its configuration again" }
    : {
        type: "Warning",
        reason: "Pinned",
        note: `rolled back to revision ${pinned}; edits have no effect until \`countersign rollback --release\``,
      };
}
