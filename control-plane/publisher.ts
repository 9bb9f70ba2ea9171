// The one place where a state of the source becomes what the mesh runs on: takes states, lays a pinned revision over
// them, gives them their number, compiles, builds resources, and tells discovery whose table changed.
import type { Clock } from "../sidecar/core/runtime/clock.ts";
import { MeshError } from "../sidecar/core/runtime/errors.ts";
import type { Logger } from "../sidecar/core/runtime/log.ts";
import { trustBundleJson } from "./ca/jwks.ts";
import type { CertificateAuthority } from "./ca/root.ts";
import type { DiscoveryServer, ProxyEvent, ProxyStatus } from "./discovery/server.ts";
import type { RevisionHistory, RevisionReason, RevisionSummary } from "./management/history.ts";
import { Overlay, restoredContent } from "./management/revision-content.ts";
import { type Compiled, compile, recompile } from "./policy/compile.ts";
import { isDeclared } from "./policy/declared-services.ts";
import { ResourceCache } from "./resources/cache.ts";
import type { Revocation } from "./revocations/revocation.ts";
import { formatProblem, type SourceReport, type StandIn } from "./sources/field-problem.ts";
import type { ClusterState, MeshConfig } from "./sources/store.ts";
import type { RefusedObject } from "./status/writer.ts";

export interface PublisherOptions {
  readonly history: RevisionHistory;
  /** Revisions take the number of the source's state (a resource version); otherwise they are counted. */
  readonly numberedBySource: boolean;
  /** Text of the built-in operation packs by name. */
  readonly packs: ReadonlyMap<string, string>;
  readonly cluster: string;
  /** In force; the same list until it changes. */
  readonly revocations: () => readonly Revocation[];
  readonly clock: Clock;
  readonly log: Logger;
}

interface Push {
  readonly startedMs: number;
  readonly waiting: Set<string>;
}

/** Pushes whose duration is measured at a time; older ones are given up. */
const MAX_PUSHES = 100;

export class Publisher {
  readonly cache = new ResourceCache();
  /** Trust domain of the first state. */
  readonly firstState: Promise<string>;
  onPushed: (seconds: number) => void = () => {};
  onCompiled: (seconds: number) => void = () => {};
  onPublished: () => void = () => {};
  readonly #options: PublisherOptions;
  readonly #first = Promise.withResolvers<string>();
  #live: ClusterState | undefined;
  #report: SourceReport | undefined;
  /** Of the report: the same list until the next one. */
  #refused:
    | { readonly report: SourceReport | undefined; readonly objects: readonly RefusedObject[] }
    | undefined;
  #ca: CertificateAuthority | undefined;
  #overlay: Overlay | undefined;
  /** The revision that `#overlay` restores. */
  #overlaid: number | undefined;
  #compiled: Compiled | undefined;
  #discovery: DiscoveryServer | undefined;
  #packs:
    | { readonly catalogs: ClusterState["catalogs"]; readonly all: ReadonlyMap<string, string> }
    | undefined;
  #config: { readonly from: MeshConfig; readonly to: MeshConfig } | undefined;
  /** The state of the last record. */
  #recorded: ClusterState | undefined;
  #pushes: Push[] = [];
  readonly #listeners = new Set<() => void>();
  /** Rollback and release one after the other. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(options: PublisherOptions) {
    this.#options = options;
    this.firstState = this.#first.promise;
  }

  get revision(): number {
    return this.#compiled?.state.revision ?? 0;
  }

  /** State in force. @throws MeshError `not_ready` before the first. */
  get state(): ClusterState {
    return this.compiled().state;
  }

  /** State of the source, whatever is pinned. @throws MeshError `not_ready` before the first. */
  get live(): ClusterState {
    if (!this.#live) throw new MeshError("not_ready", "no configuration yet");
    return this.#live;
  }

  /** Calls the listener after each state or report of the source, rollback and release. @returns how to end that. */
  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  get compiledNow(): Compiled | undefined {
    return this.#compiled;
  }

  readonly compiled = (): Compiled => {
    if (!this.#compiled) throw new MeshError("not_ready", "no configuration yet");
    return this.#compiled;
  };

  /** A state from the source. Before `begin` it is only kept. */
  take(state: ClusterState, report: SourceReport): void {
    const isSame = this.#live === state;
    this.#live = state;
    this.#report = report;
    // A report alone is for status to tell.
    if (isSame) this.onPublished();
    else if (this.#ca) this.#publish("edit");
    this.#first.resolve(state.config.trustDomain);
    this.#tell();
  }

  #tell(): void {
    for (const listener of this.#listeners) listener();
  }

  /** Publishes the first state, under the pinned revision if there is one. @throws MeshError when that cannot be read. */
  async begin(ca: CertificateAuthority): Promise<void> {
    const { history, log } = this.#options;
    if (history.pinned !== undefined) {
      this.#overlay = new Overlay(restoredContent(await history.objects(history.pinned, this.#live)));
      this.#overlaid = history.pinned;
      log.warn("mesh is pinned to an earlier revision", {
        revision: history.pinned,
        release: "countersign rollback --release",
      });
    }
    this.#ca = ca;
    this.#publish("start");
  }

  attach(discovery: DiscoveryServer): void {
    this.#discovery = discovery;
  }

  proxies(): readonly ProxyStatus[] {
    return this.#discovery?.proxies() ?? [];
  }

  problems(): readonly string[] {
    const domain = this.#live?.config.trustDomain;
    const moved =
      this.#ca && domain !== this.#ca.trustDomain
        ? [
            `MeshConfig default: trustDomain: \`${domain}\` is not that of this state directory (\`${this.#ca.trustDomain}\`); it stays as it was`,
          ]
        : [];
    return [...moved, ...(this.#report?.problems.map(formatProblem) ?? [])];
  }

  refused(): readonly RefusedObject[] {
    const cached = this.#refused;
    if (cached && cached.report === this.#report) return cached.objects;
    const found = new Map<string, { reason: string; message: string }[]>();
    for (const problem of this.#report?.problems ?? []) {
      if (problem.object === undefined) continue;
      const key = problem.object.replace(" ", "/");
      const { path, message, hint, reason = "Invalid" } = problem;
      const text = formatProblem({ path, message, ...(hint === undefined ? {} : { hint }) });
      const list = found.get(key);
      if (list) list.push({ reason, message: text });
      else found.set(key, [{ reason, message: text }]);
    }
    const objects = [...found].map(([object, refusals]) => ({ object, refusals }));
    this.#refused = { report: this.#report, objects };
    return objects;
  }

  /** Generation of an object that the source has judged last; undefined where it numbers none, or has not seen it. */
  generationOf(object: string): number | undefined {
    return this.#report?.generations?.get(object);
  }

  /** Refused Denies whose last accepted version stays in force. */
  standIns(): readonly StandIn[] {
    return this.#report?.standIns ?? [];
  }

  counts(): { policies: number; workloads: number; problems: number } {
    const state = this.#compiled?.state;
    return {
      policies: state?.policies.size ?? 0,
      workloads: state?.workloads.size ?? 0,
      problems: this.problems().length,
    };
  }

  /**
   * Publishes an earlier revision again and pins the mesh to it.
   *
   * @throws MeshError `not_found`, `io_failed`.
   */
  rollback(revision: number): Promise<RevisionSummary> {
    return this.#inTurn(async () => {
      const { history, log } = this.#options;
      const overlay = new Overlay(restoredContent(await history.objects(revision, this.#live)));
      // On disk before it is in force: a crash in between leaves the mesh as the operator asked.
      await history.pin(revision);
      this.#overlay = overlay;
      this.#overlaid = revision;
      const summary = this.#publish("rollback", revision);
      this.#tell();
      await history.flush();
      log.warn("rolled back", { to: revision, revision: summary.sequence });
      return summary;
    });
  }

  /** Ends a rollback: the source is in force again. @throws MeshError `bad_config` when the mesh is not pinned. */
  release(): Promise<RevisionSummary> {
    return this.#inTurn(async () => {
      const { history, log } = this.#options;
      if (history.pinned === undefined)
        throw new MeshError("bad_config", "the mesh is not pinned, there is nothing to release");
      await history.pin(undefined);
      this.#overlay = undefined;
      this.#overlaid = undefined;
      const summary = this.#publish("release");
      this.#tell();
      await history.flush();
      log.info("rollback released", { revision: summary.sequence });
      return summary;
    });
  }

  /** Another replica pinned the mesh or released it: does the same here. @throws MeshError as `rollback`. */
  follow(): Promise<void> {
    return this.#inTurn(async () => {
      const { history, log } = this.#options;
      const { pinned } = history;
      if (pinned === this.#overlaid || !this.#ca) return;
      this.#overlay =
        pinned === undefined
          ? undefined
          : new Overlay(restoredContent(await history.objects(pinned, this.#live)));
      this.#overlaid = pinned;
      this.#publish(pinned === undefined ? "release" : "rollback", pinned);
      this.#tell();
      log.warn(pinned === undefined ? "rollback released" : "rolled back", {
        to: pinned,
        by: "another replica",
      });
    });
  }

  /** A sidecar did something: how long did the push take? */
  proxyEvent(workload: string, event: ProxyEvent): void {
    if (event === "connected" || event === "renewed") return;
    const nowMs = this.#options.clock.monotonicMs();
    this.#pushes = this.#pushes.filter((push) => {
      if (!push.waiting.delete(workload) || push.waiting.size > 0) return true;
      if (event === "acknowledged") this.onPushed((nowMs - push.startedMs) / 1000);
      return false;
    });
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const run = this.#turn.then(work, work);
    this.#turn = run.catch(() => {});
    return run;
  }

  #publish(reason: RevisionReason, rollbackTo?: number): RevisionSummary {
    const { history, clock, log, numberedBySource } = this.#options;
    const startedMs = clock.monotonicMs();
    const [live, ca] = [this.#live, this.#ca];
    if (!live || !ca) throw new MeshError("not_ready", "no configuration yet");
    const own = this.#ownDomain(live, ca);
    const state = this.#overlay ? this.#overlay.apply(own) : own;
    const applied = reason !== "edit" && reason !== "start" ? true : this.#overlay === undefined;
    const last = history.list()[0];
    // Started again with what was there before: the same revision, so that nobody has to learn anything.
    const isSame = reason === "start" && last !== undefined && history.isUnchanged(own);
    if (isSame) history.adopt(own, state);
    // What is no configuration (pods and their addresses, in a cluster) gives a number and no record.
    const isNetwork =
      reason === "edit" &&
      numberedBySource &&
      this.#recorded !== undefined &&
      sameContent(this.#recorded, own);
    const sequence = Math.max(this.#compiled?.state.revision ?? 0, own.revision);
    const summary: RevisionSummary = isSame
      ? last
      : isNetwork
        ? { sequence, timeMs: clock.nowMs(), reason, applied, changes: [], changeCount: 0 }
        : history.record(
            reason === "rollback" ? state : own,
            { reason, rollbackTo, applied, inForce: state, atLeast: numberedBySource ? live.revision : 0 },
            clock.nowMs(),
          );
    if (!isNetwork) this.#recorded = own;
    const revision = numberedBySource ? Math.max(summary.sequence, own.revision) : summary.sequence;
    const numbered: ClusterState = { ...state, revision };
    this.#compiled = this.#compiled
      ? recompile(this.#compiled, numbered)
      : compile(numbered, this.#options.packs);
    const tables = this.#distribute(this.#compiled, ca, startedMs);
    this.onCompiled((clock.monotonicMs() - startedMs) / 1000);
    log.info("revision published", {
      revision,
      reason,
      changes: summary.changeCount,
      tables,
    });
    return summary;
  }

  /** The trust bundle changed: no revision (bundles are never rolled back), but new tables for every sidecar. */
  bundleChanged(): void {
    const tables = this.#distributeAgain();
    this.#options.log.info("trust bundle published", { sequence: this.#ca?.sequence, tables });
  }

  /** Revocations changed: no revision (they are never rolled back), but new tables for every sidecar. */
  revocationsChanged(): void {
    const tables = this.#distributeAgain();
    this.#options.log.info("revocations published", { count: this.#options.revocations().length, tables });
  }

  /** @returns the number of tables that changed. */
  #distributeAgain(): number {
    const [compiled, ca] = [this.#compiled, this.#ca];
    return compiled && ca ? this.#distribute(compiled, ca, this.#options.clock.monotonicMs()) : 0;
  }

  /** Builds resources and lets discovery send what changed. @returns the number of tables that did. */
  #distribute(compiled: Compiled, ca: CertificateAuthority, startedMs: number): number {
    const { cluster, log } = this.#options;
    const update = this.cache.update({
      compiled,
      packs: this.#allPacks(compiled.state),
      trustBundle: trustBundleJson(ca),
      revocations: this.#options.revocations(),
      cluster,
    });
    for (const problem of update.problems) log.error("resource not published", { problem });
    this.#measure(update.changed, startedMs);
    this.#discovery?.changed(update.changed);
    this.onPublished();
    return update.changed.size;
  }

  #measure(changed: ReadonlySet<string>, startedMs: number): void {
    const connected = new Set(
      this.proxies()
        .filter(({ state }) => state !== "disconnected")
        .map(({ workload }) => workload),
    );
    const waiting = new Set([...changed].filter((workload) => connected.has(workload)));
    if (waiting.size > 0) this.#pushes = [...this.#pushes.slice(1 - MAX_PUSHES), { startedMs, waiting }];
  }

  /** The trust domain is that of the certificate authority: changing it means another mesh, not another revision. */
  #ownDomain(live: ClusterState, ca: CertificateAuthority): ClusterState {
    if (live.config.trustDomain === ca.trustDomain) return live;
    if (this.#config?.from !== live.config)
      this.#config = { from: live.config, to: { ...live.config, trustDomain: ca.trustDomain } };
    return { ...live, config: this.#config.to };
  }

  #allPacks(state: ClusterState): ReadonlyMap<string, string> {
    if (this.#packs?.catalogs === state.catalogs) return this.#packs.all;
    const all = new Map(this.#options.packs);
    for (const catalog of state.catalogs.values())
      for (const pack of catalog.packs) if (!all.has(pack.name)) all.set(pack.name, pack.text);
    this.#packs = { catalogs: state.catalogs, all };
    return all;
  }
}

/** Whether two states hold the same configuration; of the workloads only the declared ones are. */
function sameContent(a: ClusterState, b: ClusterState): boolean {
  const maps = [
    "config",
    "policies",
    "roles",
    "bindings",
    "grants",
    "externalServices",
    "catalogs",
    "identityProviders",
    "meshGateways",
    "routePolicies",
    "trafficPolicies",
    "gatewayRoutes",
  ] as const;
  if (maps.some((name) => a[name] !== b[name])) return false;
  if (a.workloads === b.workloads) return true;
  const declared = (state: ClusterState): number => {
    let count = 0;
    for (const key of state.workloads.keys()) if (isDeclared(key)) count += 1;
    return count;
  };
  if (declared(a) !== declared(b)) return false;
  for (const [key, workload] of b.workloads)
    if (isDeclared(key) && a.workloads.get(key) !== workload) return false;
  return true;
}
