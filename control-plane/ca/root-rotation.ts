// Carries a root rotation through its stages (rotation.ts decides, the authority stores): what `countersign ca` starts,
// shows, aborts and forces, and what the leading replica looks after until it is done.
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import type { ProxyStatus } from "../discovery/server.ts";
import type { MeshPod } from "../sources/store.ts";
import type { CertificateAuthority, RotationChange } from "./root.ts";
import {
  abortStep,
  forceStep,
  nextStep,
  type RotationLimits,
  type RotationRecord,
  type RotationSidecar,
  type RotationStage,
  type RotationStep,
  type RotationView,
} from "./rotation.ts";

/** A sidecar as its stream shows it. */
export type SeenSidecar = Omit<RotationSidecar, "hasBundle"> & {
  /** It has the table that it is expected to have, and with it the bundle as it is now. */
  readonly isSynced: boolean;
};

export interface RootRotationDeps {
  readonly ca: CertificateAuthority;
  /** Every sidecar of the mesh, of all replicas; those too that left and may come back. */
  readonly sidecars: () => readonly SeenSidecar[];
  readonly clock: Clock;
  readonly log: Logger;
  /** How often streams show a sign of life; sidecars that miss three look for another. */
  readonly heartbeatMs: number;
  readonly limits?: Pick<RotationLimits, "holdMs" | "overdueMs"> | undefined;
  /** Whether this replica carries rotations on; asked each time. Always, unless given. */
  readonly isLeader?: (() => boolean) | undefined;
}

/**
 * All sidecars as a rotation sees them: those that discovery knows, and those of pods that are up and that no replica knows
 * (cut off from the control plane, or connected to a replica that does not report).
 *
 * @param proxies held against the tables that this replica expects: another one may not know of the new bundle yet.
 * @param pods of the cluster; none in directory mode.
 */
export function seenSidecars(
  proxies: readonly ProxyStatus[],
  pods: Iterable<MeshPod>,
): readonly SeenSidecar[] {
  const known = new Set(proxies.map(({ pod }) => pod));
  const sidecars = proxies.map(({ workload, instance, pod, node, state, leaf }): SeenSidecar => {
    const where = [pod, node].find((one) => one !== "");
    return {
      id: instance,
      name: where === undefined ? workload : `${workload} on ${where}`,
      connected: state !== "disconnected",
      isSynced: state === "synced",
      issuerId: leaf.issuerKeyId,
      leafUntilMs: leaf.notAfterMs,
    };
  });
  for (const { uid, namespace, name, injected, ready } of pods) {
    if (!injected || !ready || known.has(uid)) continue;
    sidecars.push({
      id: uid,
      name: `pod ${namespace}/${name}`,
      connected: false,
      isSynced: false,
      issuerId: "",
      leafUntilMs: Number.POSITIVE_INFINITY,
    });
  }
  return sidecars;
}

const MINUTE_MS = 60_000;
const OVERDUE_MS = { distribute: 10 * MINUTE_MS, sign: 30 * MINUTE_MS, retire: 10 * MINUTE_MS };

/** One control plane, files: nobody else has to catch up. */
export const ALONE_LIMITS = {
  holdMs: { distribute: 1_000, sign: 1_000, retire: 1_000 },
  overdueMs: OVERDUE_MS,
};

/**
 * Replicas poll every 5 s. The kubelet takes up to two minutes to bring a changed ConfigMap into a pod that is starting, and
 * the control plane's certificate leaves the old root with `retire`.
 */
export const CLUSTER_LIMITS = {
  holdMs: { distribute: 20_000, sign: 2 * MINUTE_MS, retire: 20_000 },
  overdueMs: OVERDUE_MS,
};

/** A cut-off sidecar notices after three heartbeats, tries again within 10 s, and has a moment to be greeted. */
function settleMs(heartbeatMs: number): number {
  return 3 * heartbeatMs + 15_000;
}

const ACTIVE_MS = 500;
const IDLE_MS = 5_000;
/** Names in an answer and in a log line; the rest is counted. */
const MAX_NAMES = 20;

/** What `countersign ca status` shows. Times are RFC 3339. */
export interface RotationStatus {
  readonly stage: RotationStage;
  readonly aborting: boolean;
  readonly startedAt: string;
  readonly stageSince: string;
  /** The stage lasts longer than it should: force it, or abort. */
  readonly overdue: boolean;
  /** How many hold the stage up, and the first of them by name. */
  readonly waiting: number;
  readonly waitingFor: readonly string[];
  /** How many were given up by force so far. */
  readonly givenUp: number;
  /** SHA-256 fingerprint of the root that takes over. */
  readonly to: string;
}

export interface AuthorityStatus {
  readonly trustDomain: string;
  readonly bundleSequence: number;
  readonly roots: readonly {
    readonly fingerprint256: string;
    readonly notAfter: string;
    readonly signs: boolean;
  }[];
  readonly issuingNotAfter: string;
  readonly rotation: RotationStatus | null;
  /** Whether the replica that answers leads; one that does not knows its own sidecars only. */
  readonly leads: boolean;
}

export class RootRotation {
  readonly #deps: RootRotationDeps;
  readonly #limits: RotationLimits;
  /** Sidecars that had this bundle: they keep it, also while they wait for some other change. */
  #acknowledged = { sequence: -1, ids: new Set<string>() };
  #watchingSinceMs: number;
  #wasLeader = false;
  #warned = "";

  constructor(deps: RootRotationDeps) {
    this.#deps = deps;
    const limits = deps.limits ?? (deps.ca.polled ? CLUSTER_LIMITS : ALONE_LIMITS);
    this.#limits = { ...limits, settleMs: settleMs(deps.heartbeatMs) };
    this.#watchingSinceMs = deps.clock.nowMs();
  }

  /** Starts a rotation. @throws MeshError `conflict` when one is under way, `bad_config` for a mounted root, `io_failed`. */
  async start(): Promise<AuthorityStatus> {
    await this.#deps.ca.startRotation();
    this.#deps.log.warn("root rotation started", { sequence: this.#deps.ca.sequence });
    return this.status();
  }

  status(): AuthorityStatus {
    const { ca } = this.#deps;
    const { rotation, roots } = ca;
    const [signing] = rotation?.record.stage === "sign" ? roots : [ca.serverRoot];
    return {
      trustDomain: ca.trustDomain,
      bundleSequence: ca.sequence,
      roots: roots.map((root) => ({
        fingerprint256: root.fingerprint256,
        notAfter: new Date(root.validTo).toISOString(),
        signs: root.fingerprint256 === signing?.fingerprint256,
      })),
      issuingNotAfter: new Date(ca.issuing.notAfterMs).toISOString(),
      rotation: rotation === undefined ? null : this.#rotationStatus(rotation.record),
      leads: this.#leads(),
    };
  }

  /** Goes back to the old root by the way that is safe from here. @throws MeshError `not_found`, `conflict`, `io_failed`. */
  async abort(): Promise<AuthorityStatus> {
    const { ca, clock, log } = this.#deps;
    const before = this.#record();
    const step = abortStep(before, clock.nowMs());
    if (step.kind === "refused")
      throw new MeshError("conflict", `${step.why}; see \`countersign ca status\``);
    await ca.changeRotation(step, before);
    log.warn("root rotation aborted", { goesBackBy: step.kind === "cancel" ? "nothing" : step.record.stage });
    return this.status();
  }

  /**
   * Gives up the sidecars that the stage waits for: their calls may fail until they have renewed.
   *
   * @returns their names.
   * @throws MeshError `not_found`, `conflict` (also on a replica that does not lead: it does not know them all), `io_failed`.
   */
  async force(): Promise<{ readonly givenUp: readonly string[] } & AuthorityStatus> {
    const { ca, log } = this.#deps;
    const before = this.#record();
    if (!this.#leads())
      throw new MeshError(
        "conflict",
        "this replica does not lead and does not know all sidecars; ask the one that does",
      );
    const { record, givenUp } = forceStep(before, this.#view());
    const names = givenUp.map(({ name }) => name);
    if (names.length > 0) await ca.changeRotation({ kind: "record", record }, before);
    log.warn("root rotation forced", { stage: record.stage, count: names.length, sidecars: listed(names) });
    return { givenUp: names, ...this.status() };
  }

  /** Looks at the sidecars and takes the next step when it is due. @throws MeshError `conflict`, `io_failed`. */
  async tick(): Promise<void> {
    const { ca, clock, log } = this.#deps;
    const leads = this.#leads();
    // Who did not lead did not look: sidecars of other replicas are news to it.
    if (leads && !this.#wasLeader && this.#deps.isLeader !== undefined) this.#watchingSinceMs = clock.nowMs();
    this.#wasLeader = leads;
    const { rotation } = ca;
    if (!leads || rotation === undefined) return;
    const step = nextStep(rotation.record, this.#view());
    if (step.kind === "wait") return this.#warn(rotation.record, step);
    const change: RotationChange = step.kind === "finish" ? step : { kind: "record", record: step.record };
    await ca.changeRotation(change, rotation.record);
    log.warn(step.kind === "finish" ? "root rotation finished" : "root rotation goes on", {
      stage: step.kind === "finish" ? "done" : step.record.stage,
      sequence: ca.sequence,
    });
  }

  #leads(): boolean {
    return this.#deps.isLeader?.() ?? true;
  }

  #record(): RotationRecord {
    const { rotation } = this.#deps.ca;
    if (rotation === undefined) throw new MeshError("not_found", "no root rotation is under way");
    return rotation.record;
  }

  #rotationStatus(record: RotationRecord): RotationStatus {
    const step = nextStep(record, this.#view());
    const names = step.kind === "wait" ? step.waiting.map((one) => waitingText(one)) : [];
    return {
      stage: record.stage,
      aborting: record.aborting,
      startedAt: new Date(record.startedAtMs).toISOString(),
      stageSince: new Date(record.stageSinceMs).toISOString(),
      overdue: step.kind === "wait" && step.overdue,
      waiting: names.length,
      waitingFor: names.slice(0, MAX_NAMES),
      givenUp: record.forced.length,
      to: this.#deps.ca.rotation?.to.root.certificate.fingerprint256 ?? "",
    };
  }

  #view(): RotationView {
    const { ca, clock, sidecars } = this.#deps;
    if (this.#acknowledged.sequence !== ca.sequence)
      this.#acknowledged = { sequence: ca.sequence, ids: new Set() };
    const { ids } = this.#acknowledged;
    const seen = sidecars().map(({ isSynced, ...one }): RotationSidecar => {
      if (isSynced && one.connected) ids.add(one.id);
      return { ...one, hasBundle: ids.has(one.id) };
    });
    return {
      nowMs: clock.nowMs(),
      sidecars: seen,
      issuerIds: ca.rotation?.issuerIds ?? [],
      watchingSinceMs: this.#watchingSinceMs,
      limits: this.#limits,
    };
  }

  /** Once per stage. */
  #warn(record: RotationRecord, step: Extract<RotationStep, { kind: "wait" }>): void {
    const key = `${record.stageSinceMs}`;
    if (!step.overdue || this.#warned === key) return;
    this.#warned = key;
    this.#deps.log.warn("root rotation waits for sidecars", {
      stage: record.stage,
      count: step.waiting.length,
      sidecars: listed(step.waiting.map(({ name }) => name)),
      next: "countersign ca force, or countersign ca abort",
    });
  }
}

function listed(names: readonly string[]): string {
  const more = names.length - MAX_NAMES;
  return names.slice(0, MAX_NAMES).join(", ") + (more > 0 ? ` and ${more} more` : "");
}

function waitingText({ name, connected, leafUntilMs }: RotationSidecar): string {
  if (connected) return name;
  return Number.isFinite(leafUntilMs)
    ? `${name} (not connected; its certificate ends ${new Date(leafUntilMs).toISOString()})`
    : `${name} (its sidecar is not connected)`;
}

/** Carries on whatever rotation there is, until `signal` aborts. A failure is logged and tried again. */
export async function runRootRotation(
  rotation: Pick<RootRotation, "tick">,
  deps: Pick<RootRotationDeps, "ca" | "clock" | "log">,
  signal: AbortSignal,
): Promise<void> {
  const { ca, clock, log } = deps;
  let changed = new AbortController();
  const unsubscribe = ca.subscribe(() => changed.abort());
  let failure = "";
  while (!signal.aborted) {
    changed = new AbortController();
    const wake = AbortSignal.any([signal, changed.signal]);
    try {
      await rotation.tick();
      failure = "";
    } catch (error) {
      if (messageOf(error) !== failure)
        log.error("root rotation does not go on", { error: messageOf(error) });
      failure = messageOf(error);
    }
    await clock.sleep(ca.rotation === undefined ? IDLE_MS : ACTIVE_MS, wake);
  }
  unsubscribe();
}
