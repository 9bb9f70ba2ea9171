// Looks for pods that should be in the mesh and are not: made before their namespace was labelled, or while injection was
// off. The leader tells each pod so by an event; everybody counts them.
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import type { ClusterState, MeshPod } from "../sources/store.ts";
import type { EventRecorder } from "../status/events.ts";
import { INJECT_LABEL } from "./own-names.ts";

/** What is known of the cluster that matters here. */
export type AuditedState = Pick<ClusterState, "pods" | "namespaces">;

export interface UnmeshedPods {
  /** Their own label, or else that of their namespace, puts them into the mesh, and they have no sidecar. */
  readonly missing: readonly MeshPod[];
  /** Their own label keeps them out of the mesh that their namespace is in. */
  readonly optedOut: readonly MeshPod[];
}

/**
 * Both are ordered by namespace and name.
 *
 * @param exempt namespaces that injection leaves alone: `kube-system` and the control plane's own.
 */
export function unmeshedPods(state: AuditedState, exempt: ReadonlySet<string>): UnmeshedPods {
  const missing: MeshPod[] = [];
  const optedOut: MeshPod[] = [];
  for (const pod of state.pods.values()) {
    if (pod.injected || exempt.has(pod.namespace)) continue;
    const isMeshed = state.namespaces.get(pod.namespace)?.get(INJECT_LABEL) === "enabled";
    if (pod.inject === "disabled") {
      if (isMeshed) optedOut.push(pod);
    } else if (isMeshed || pod.inject === "enabled") missing.push(pod);
  }
  return { missing: missing.sort(byName), optedOut: optedOut.sort(byName) };
}

const byName = (a: MeshPod, b: MeshPod): number => (keyOf(a) < keyOf(b) ? -1 : 1);
const keyOf = ({ namespace, name }: MeshPod): string => `${namespace}/${name}`;

export interface AuditorDeps {
  readonly state: () => AuditedState;
  readonly exempt: ReadonlySet<string>;
  /** Calls back whenever the state may have changed; returns how to end that. */
  readonly onChanged: (listener: () => void) => () => void;
  readonly events: Pick<EventRecorder, "record">;
  /** Numbers of pods; zero when the audit ends, since another replica counts then. */
  readonly observe: (missing: number, optedOut: number) => void;
  readonly clock: Clock;
  readonly log: Logger;
}

/** A namespace is labelled and its pods are made anew one by one: not each step is worth a look. */
const PAUSE_MS = 5_000;
/** A pod is told again after this time, since events are forgotten after an hour. */
const AGAIN_MS = 1_800_000;
/** Events a round; the rest have their turn in the next. */
const MAX_EVENTS = 50;
const SHOWN = 5;
const NOTE = `has no sidecar although its label or its namespace's says \`${INJECT_LABEL}: enabled\`: it was made before the label, or while injection was off; make it anew (for a Deployment: kubectl rollout restart), or label it \`${INJECT_LABEL}: disabled\``;

/** Runs until the signal aborts; never rejects. */
export async function runAuditor(deps: AuditorDeps, signal: AbortSignal): Promise<void> {
  const { clock, log } = deps;
  let wake = new AbortController();
  const end = deps.onChanged(() => wake.abort());
  const told = new Map<string, number>();
  let reported = 0;
  while (!signal.aborted) {
    wake = new AbortController();
    const { missing: pods, optedOut } = unmeshedPods(deps.state(), deps.exempt);
    deps.observe(pods.length, optedOut.length);
    tell(pods, told, deps);
    if (pods.length !== reported) {
      if (pods.length > 0)
        log.warn("pods that should be meshed have no sidecar", {
          count: pods.length,
          pods: pods.slice(0, SHOWN).map(keyOf),
        });
      else log.info("all pods that should be meshed have a sidecar");
      reported = pods.length;
    }
    await clock.sleep(PAUSE_MS, signal);
    if (!signal.aborted && told.size >= pods.length)
      await clock.sleep(AGAIN_MS, AbortSignal.any([signal, wake.signal]));
  }
  end();
  deps.observe(0, 0);
}

/** Marks in `told` when each pod was told; pods that are gone or meshed are forgotten. */
function tell(pods: readonly MeshPod[], told: Map<string, number>, { events, clock }: AuditorDeps): void {
  const nowMs = clock.monotonicMs();
  const present = new Set(pods.map(({ uid }) => uid));
  for (const uid of told.keys()) if (!present.has(uid)) told.delete(uid);
  let left = MAX_EVENTS;
  for (const { uid, namespace, name } of pods) {
    const lastMs = told.get(uid);
    if (lastMs !== undefined && nowMs - lastMs < AGAIN_MS) continue;
    if (left-- === 0) break;
    told.set(uid, nowMs);
    events.record(
      { apiVersion: "v1", kind: "Pod", namespace, name, uid },
      { type: "Warning", reason: "NotMeshed", note: NOTE },
    );
  }
}
