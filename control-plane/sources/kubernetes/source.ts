// A cluster as a source of its state: everything that matters is listed and watched, a little quiet awaited, and one new
// state made of what changed. The same parser, admission rules and state as the directory's.
import { setImmediate } from "node:timers/promises";
import type { Clock } from "../../../sidecar/core/runtime/clock.ts";
import { messageOf } from "../../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../../sidecar/core/runtime/log.ts";
import { type GatewayKind, GatewayKinds, gatewayPath, storedRoute } from "../../kubernetes/gateway-kinds.ts";
import { type ApiObject, runListWatch } from "../../kubernetes/list-watch.ts";
import { ApiError, type KubernetesRest } from "../../kubernetes/rest.ts";
import type { Admitter } from "../../policy/admit.ts";
import { readGatewayRoute } from "../../policy/gateway-route.ts";
import { createObjectParser } from "../../policy/typed-object.ts";
import { buildClusterState, EMPTY_STATE } from "../cluster-state.ts";
import { type FieldProblem, formatProblem, type SourceReport, type StandIn } from "../field-problem.ts";
import { NO_CONFIG, noticesOf } from "../notices.ts";
import { catalogsOf } from "../reconcile.ts";
import { API_VERSION, type Kind, type SchemaSet } from "../schema.ts";
import type { ClusterState, GatewayRoute } from "../store.ts";
import {
  cronJobOf,
  namespaceLabels,
  type PodFacts,
  podFacts,
  type ServiceFacts,
  type SliceFacts,
  serviceFacts,
  sliceFacts,
} from "./facts.ts";
import { KubernetesObjects, type StoredObject } from "./objects.ts";
import { meshPods, type PodState } from "./pods.ts";
import { meshServices, targetPortsOf, zonesOfNodes } from "./services.ts";

/** Our kinds and where they are read. */
const RESOURCES: Readonly<Record<Exclude<Kind, "Namespace">, string>> = {
  AccessPolicy: "accesspolicies",
  ClusterAccessPolicy: "clusteraccesspolicies",
  AccessGrant: "accessgrants",
  MeshRole: "meshroles",
  MeshRoleBinding: "meshrolebindings",
  Workload: "workloads",
  ExternalService: "externalservices",
  OperationCatalog: "operationcatalogs",
  IdentityProvider: "identityproviders",
  MeshGateway: "meshgateways",
  RoutePolicy: "routepolicies",
  TrafficPolicy: "trafficpolicies",
  MeshConfig: "meshconfigs",
};

export interface KubernetesReport extends SourceReport {
  readonly standIns: readonly StandIn[];
  readonly generations: ReadonlyMap<string, number>;
}

export interface KubernetesSourceOptions {
  readonly rest: KubernetesRest;
  readonly schemas: SchemaSet;
  readonly admitter: Admitter;
  readonly clock: Clock;
  /** In [0, 1). */
  readonly random: () => number;
  readonly log: Logger;
  /** The state is the very same value when only the report changed; its revision is the newest resource version in it. */
  readonly onState: (state: ClusterState, report: KubernetesReport) => void;
}

export interface KubernetesSource {
  /** Rejects never; ends when the signal aborts. */
  readonly done: Promise<void>;
  /** Whether every watch has been whole for the last `ms`: then what another replica knew that long ago is known here. */
  isCurrent(ms: number): boolean;
}

/** A state is made after so much time without an event … */
const QUIET_MS = 30;
/** … but no later than this after the first one, however busy the cluster is. */
const MAX_WAIT_MS = 150;
const SLICE_MS = 20;
const MAX_LOGGED = 50;
const CRDS_RETRY_MS = 2_000;
/** How often the cluster is asked for kinds of routes that it did not have. */
const GATEWAY_EVERY_MS = 60_000;

/** What is watched of one collection. */
interface Collection<T> {
  readonly path: string;
  readonly project: (object: ApiObject) => T | undefined;
  readonly isSame?: (before: T, after: T) => boolean;
  readonly set: (key: string, value: T | undefined) => void;
  /** Whether this state of the cluster is only current while it is watched. */
  readonly isVital?: boolean;
}

const sameText = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b);
const samePod = (a: PodFacts, b: PodFacts): boolean =>
  sameText(
    { ...a, labels: [...a.labels], annotations: [...a.annotations] },
    { ...b, labels: [...b.labels], annotations: [...b.annotations] },
  );

class Source {
  readonly #options: KubernetesSourceOptions;
  readonly #objects: KubernetesObjects;
  readonly #pods = new Map<string, PodFacts>();
  readonly #services = new Map<string, ServiceFacts>();
  readonly #slices = new Map<string, SliceFacts>();
  readonly #cronJobs = new Map<string, string>();
  readonly #namespaces = new Map<string, ReadonlyMap<string, string>>();
  readonly #gatewayRoutes = new Map<string, GatewayRoute>();
  readonly #gatewayKinds: GatewayKinds;
  /** What changed since the last state. */
  readonly #dirty = new Set<"network" | "namespaces" | "gateways">();
  #declared: ClusterState = EMPTY_STATE;
  #podState: PodState = { workloads: new Map(), pods: new Map(), problems: [] };
  #clusterServices: ClusterState["services"] = new Map();
  #state: ClusterState = EMPTY_STATE;
  #published: string | undefined;
  #revision = 0;
  #unlisted = 0;
  readonly #unhealthy = new Set<string>();
  #healthySinceMs = 0;
  #wake: (() => void) | undefined;
  #firstEventMs: number | undefined;
  #lastEventMs = 0;

  constructor(options: KubernetesSourceOptions) {
    this.#options = options;
    this.#gatewayKinds = new GatewayKinds(options);
    this.#objects = new KubernetesObjects({
      schemas: options.schemas,
      parse: createObjectParser(),
      admitter: options.admitter,
    });
  }

  isCurrent(ms: number): boolean {
    return (
      this.#published !== undefined &&
      this.#unhealthy.size === 0 &&
      this.#firstEventMs === undefined &&
      this.#options.clock.monotonicMs() - this.#healthySinceMs >= ms
    );
  }

  async run(signal: AbortSignal): Promise<void> {
    await this.#crds(signal);
    // Before the first state, or every call would leave its route for a moment whenever a control plane starts.
    const kinds = await this.#gatewayKinds.find(signal);
    await Promise.all([
      ...this.#watchAll(signal),
      this.#watchGateways(kinds, signal),
      this.#publishLoop(signal),
    ]);
  }

  /** Routes of the Gateway API: those kinds that there are, and those that come later. */
  async #watchGateways(first: readonly GatewayKind[], signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#options;
    const watches = new Map<GatewayKind, Promise<void>>();
    let kinds = first;
    for (;;) {
      for (const kind of kinds) {
        if (watches.has(kind)) continue;
        log.info("routes of the Gateway API are followed", { kind });
        watches.set(kind, this.#watchGateway(kind, signal));
      }
      await clock.sleep(GATEWAY_EVERY_MS, signal);
      if (signal.aborted) break;
      kinds = watches.size === 2 ? [] : await this.#gatewayKinds.find(signal);
    }
    await Promise.all(watches.values());
  }

  #watchGateway(kind: GatewayKind, signal: AbortSignal): Promise<void> {
    return this.#watch<GatewayRoute>(
      {
        path: gatewayPath(kind),
        project: (object) => readGatewayRoute(storedRoute(kind, object)).route,
        isSame: sameText,
        set: (key, value) => {
          if (value === undefined) this.#gatewayRoutes.delete(`${kind}/${key}`);
          else this.#gatewayRoutes.set(`${kind}/${key}`, value);
          this.#dirty.add("gateways");
        },
        // Whoever removes the kind must not stop the mesh.
        isVital: false,
      },
      signal,
    );
  }

  /** Waits for our kinds: both charts may be installed at once, in any order. */
  async #crds(signal: AbortSignal): Promise<void> {
    const { rest, clock, log } = this.#options;
    let told = false;
    while (!signal.aborted) {
      try {
        await rest.get(`/apis/${API_VERSION}`, {}, signal);
        return;
      } catch (error) {
        if (signal.aborted) return;
        const isMissing = error instanceof ApiError && error.status === 404;
        if (!told)
          log.warn(
            isMissing
              ? "the cluster does not know our kinds: install the chart countersign-crds; waiting for it"
              : "the API server cannot be read, trying again",
            { error: messageOf(error) },
          );
        told = true;
        await clock.sleep(CRDS_RETRY_MS, signal);
      }
    }
  }

  #watchAll(signal: AbortSignal): Promise<void>[] {
    const network =
      <T>(map: Map<string, T>) =>
      (key: string, value: T | undefined): void => {
        if (value === undefined) map.delete(key);
        else map.set(key, value);
        this.#dirty.add("network");
      };
    const watches: Promise<void>[] = [];
    const add = <T>(collection: Collection<T>): void => void watches.push(this.#watch(collection, signal));
    for (const [kind, plural] of Object.entries(RESOURCES))
      add<StoredObject>({
        path: `/apis/${API_VERSION}/${plural}`,
        project: (object) => storedObject(kind as Kind, object),
        isSame: (a, b) =>
          a.generation === b.generation &&
          sameText(a.labels, b.labels) &&
          (kind !== "AccessGrant" || sameText(a.status, b.status)),
        set: (key, value) => this.#objects.put(`${kind}/${key}`, value),
      });
    add<PodFacts>({ path: "/api/v1/pods", project: podFacts, isSame: samePod, set: network(this.#pods) });
    add<ServiceFacts>({
      path: "/api/v1/services",
      project: serviceFacts,
      isSame: sameText,
      set: network(this.#services),
    });
    add<SliceFacts>({
      path: "/apis/discovery.k8s.io/v1/endpointslices",
      project: sliceFacts,
      isSame: sameText,
      set: network(this.#slices),
    });
    add<string>({
      path: "/apis/batch/v1/jobs",
      project: cronJobOf,
      isSame: sameText,
      set: network(this.#cronJobs),
    });
    add<ReadonlyMap<string, string>>({
      path: "/api/v1/namespaces",
      project: namespaceLabels,
      isSame: (a, b) => sameText([...a], [...b]),
      set: (key, value) => {
        if (value === undefined) this.#namespaces.delete(key);
        else this.#namespaces.set(key, value);
        this.#dirty.add("namespaces");
      },
    });
    return watches;
  }

  async #watch<T>(collection: Collection<T>, signal: AbortSignal): Promise<void> {
    const { rest, clock, random, log } = this.#options;
    let isListed = false;
    const { isVital = true } = collection;
    // Once there is a state, nothing waits for a kind that comes later.
    const isAwaited = this.#published === undefined;
    if (isAwaited) this.#unlisted++;
    if (isVital) this.#unhealthy.add(collection.path);
    await runListWatch<T>(
      {
        rest,
        path: collection.path,
        project: collection.project,
        ...(collection.isSame ? { isSame: collection.isSame } : {}),
        onChanges: (changes) => {
          for (const change of changes)
            collection.set(change.key, change.kind === "set" ? change.value : undefined);
          if (!isListed && isAwaited) this.#unlisted--;
          isListed = true;
          this.#event();
        },
        onProgress: (version) => {
          this.#revision = Math.max(this.#revision, Number(version) || 0);
        },
        onHealth: (isHealthy) => {
          if (!isVital) return;
          if (isHealthy) this.#unhealthy.delete(collection.path);
          else this.#unhealthy.add(collection.path);
          if (isHealthy) this.#healthySinceMs = clock.monotonicMs();
        },
        clock,
        random,
        log,
      },
      signal,
    );
  }

  #event(): void {
    const nowMs = this.#options.clock.monotonicMs();
    this.#firstEventMs ??= nowMs;
    this.#lastEventMs = nowMs;
    this.#wake?.();
  }

  async #publishLoop(signal: AbortSignal): Promise<void> {
    const { clock } = this.#options;
    while (!signal.aborted) {
      const first = this.#firstEventMs;
      if (first === undefined || this.#unlisted > 0) {
        const stop = new AbortController();
        this.#wake = () => stop.abort();
        await clock.sleep(60_000, AbortSignal.any([stop.signal, signal]));
        continue;
      }
      const dueMs = Math.min(this.#lastEventMs + QUIET_MS, first + MAX_WAIT_MS) - clock.monotonicMs();
      if (dueMs > 0) {
        await clock.sleep(dueMs, signal);
        continue;
      }
      this.#firstEventMs = undefined;
      await this.#publish();
    }
  }

  async #publish(): Promise<void> {
    const { clock, admitter, log, onState } = this.#options;
    const changed = await inSlices(this.#objects.settle(), clock);
    const configBefore = this.#declared.config;
    if (changed.size > 0)
      this.#declared = buildClusterState(this.#declared, this.#objects.accepted(), changed);
    const gatewaysChanged = configBefore.gateways !== this.#declared.config.gateways;
    if (this.#dirty.has("network") || gatewaysChanged) this.#readNetwork();
    const next: ClusterState = {
      ...this.#declared,
      workloads: this.#merged("workloads", this.#declared.workloads, this.#podState.workloads),
      services: this.#merged("services", this.#declared.services, this.#clusterServices),
      pods: this.#podState.pods,
      gatewayRoutes: this.#dirty.has("gateways")
        ? new Map([...this.#gatewayRoutes].sort(([a], [b]) => (a < b ? -1 : 1)))
        : this.#state.gatewayRoutes,
      namespaces: this.#dirty.has("namespaces") ? new Map(this.#namespaces) : this.#state.namespaces,
      revision: this.#revision,
    };
    this.#dirty.clear();
    const same = (Object.keys(next) as (keyof ClusterState)[]).every(
      (key) => key === "revision" || next[key] === this.#state[key],
    );
    const report = this.#report(admitter);
    const published = JSON.stringify([
      report.problems,
      report.notices,
      report.standIns.map(({ key }) => key),
    ]);
    if (same && published === this.#published) return;
    if (published !== this.#published) {
      for (const problem of report.problems.slice(0, MAX_LOGGED))
        log.warn("object refused", { problem: formatProblem(problem) });
      for (const notice of report.notices.slice(0, MAX_LOGGED))
        log.info("configuration notice", { notice: formatProblem(notice) });
    }
    this.#published = published;
    if (!same) this.#state = next;
    onState(this.#state, report);
  }

  #readNetwork(): void {
    const { gateways } = this.#declared.config;
    const slices = [...this.#slices.values()];
    const before = this.#podState;
    const found = meshPods({
      pods: this.#pods.values(),
      targetPorts: targetPortsOf(this.#services, slices),
      cronJobs: this.#cronJobs,
      gateways,
      zones: zonesOfNodes(slices),
      previous: before,
    });
    this.#podState = {
      workloads: keepMap(before.workloads, found.workloads),
      pods: keepMap(before.pods, found.pods),
      problems: found.problems,
    };
    this.#clusterServices = keepMap(
      this.#clusterServices,
      meshServices({
        services: this.#services,
        slices,
        workloads: this.#podState.workloads,
        pods: this.#podState.pods,
        previous: this.#clusterServices,
      }),
    );
  }

  /** Declared and found objects in one map; the map of the last state where nothing differs. A Service wins over a declared one. */
  #merged<K extends "workloads" | "services">(
    name: K,
    declared: ClusterState[K],
    found: ClusterState[K],
  ): ClusterState[K] {
    if (declared.size === 0) return found;
    // Both have values of one type, which the compiler cannot follow through `K`.
    const merged = new Map<string, unknown>([...declared, ...found] as [string, unknown][]);
    return keepMap(this.#state[name] as ReadonlyMap<string, unknown>, merged) as ClusterState[K];
  }

  #report(admitter: Admitter): KubernetesReport {
    const notices: FieldProblem[] = [];
    const { clock } = this.#options;
    const catalogs = catalogsOf(this.#objects.accepted());
    let configured = false;
    for (const { typed, key } of this.#objects.accepted()) {
      configured ||= typed.kind === "MeshConfig";
      for (const notice of noticesOf(typed, catalogs, admitter, clock.nowMs()))
        notices.push({ ...notice, object: key.replace("/", " ") });
    }
    if (!configured) notices.push(NO_CONFIG);
    for (const { pod, message } of this.#podState.problems)
      notices.push({ object: `Pod ${pod}`, path: "metadata", message });
    return {
      problems: this.#objects.problems(),
      notices,
      standIns: this.#objects.standIns(),
      generations: this.#objects.generations(),
    };
  }
}

/** @returns `before` where both hold the same values under the same keys. */
function keepMap<T>(before: ReadonlyMap<string, T>, now: ReadonlyMap<string, T>): ReadonlyMap<string, T> {
  if (before.size !== now.size) return now;
  for (const [key, value] of now) if (before.get(key) !== value) return now;
  return before;
}

function storedObject(kind: Kind, object: ApiObject): StoredObject {
  const { name, namespace } = object.metadata;
  const metadata = object.metadata as Readonly<Record<string, unknown>>;
  const created = Date.parse(String(metadata["creationTimestamp"]));
  return {
    kind,
    name,
    namespace,
    generation: typeof metadata["generation"] === "number" ? metadata["generation"] : 1,
    createdAtMs: Number.isNaN(created) ? 0 : created,
    labels: metadata["labels"],
    spec: object["spec"],
    status: kind === "AccessGrant" ? object["status"] : keptStatus(object["status"]),
  };
}

/** Of a policy's status what a restart needs: whether it was refused, and what was in force instead. */
function keptStatus(status: unknown): unknown {
  if (typeof status !== "object" || status === null) return undefined;
  const { lastAccepted, conditions } = status as Readonly<Record<string, unknown>>;
  const refused: unknown = Array.isArray(conditions)
    ? conditions.find(
        (one: { type?: unknown; status?: unknown }) => one?.type === "Accepted" && one.status === "False",
      )
    : undefined;
  if (refused === undefined && lastAccepted === undefined) return undefined;
  return {
    ...(lastAccepted === undefined ? {} : { lastAccepted }),
    ...(refused === undefined ? {} : { conditions: [refused] }),
  };
}

/** Runs `steps` to its end and lets the event loop turn every 20 ms. */
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

/** Starts reading; the first state comes when every list is in. */
export function runKubernetesSource(options: KubernetesSourceOptions, signal: AbortSignal): KubernetesSource {
  const source = new Source(options);
  return { done: source.run(signal), isCurrent: (ms) => source.isCurrent(ms) };
}
