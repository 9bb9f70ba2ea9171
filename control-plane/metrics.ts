// Metrics of the control-plane process, and its health page: /metrics, /livez, /readyz on port 16014.
import { monitorEventLoopDelay } from "node:perf_hooks";
import { Counter, Gauge, Histogram, Registry } from "prom-client";
import { type StatusServer, startStatusServer, textPage } from "../sidecar/core/runtime/metrics-server.ts";
import type { CertificateAuthority } from "./ca/root.ts";
import type { ProxyStatus } from "./discovery/server.ts";
import type { WriteResult } from "./status/kubernetes-sink.ts";

export interface ControlPlaneMetrics {
  readonly registry: Registry;
  nack(): void;
  statusWritten(result: WriteResult): void;
  /** Seconds from reading a change to the last affected sidecar's acknowledgement. */
  pushed(seconds: number): void;
  compiled(seconds: number): void;
  /** `failed`: the proof could not be checked, or is of a kind that is not taken. */
  joined(result: "ok" | "rejected" | "failed"): void;
  issued(result: "ok" | "rejected"): void;
  /** A request to the management API; both values are from closed lists. */
  managed(action: string, outcome: string): void;
  /** An admission review was answered; path and outcome are from closed lists. */
  reviewed(path: string, outcome: string, seconds: number): void;
  /** A request to the token service: an action or the kind of a grant, and `granted` or a reason, both from closed lists. */
  tokenAsked(what: string, outcome: string, seconds: number): void;
  /** A login was shown to the token service. @param idp name of an IdentityProvider; empty: there is no such one. */
  signedIn(idp: string, outcome: string): void;
  /** Numbers of pods without a sidecar in namespaces of the mesh. */
  unmeshed(missing: number, optedOut: number): void;
}

/** What is read when scraped. */
export interface MetricSources {
  readonly proxies: () => readonly ProxyStatus[];
  readonly revision: () => number;
  readonly pinned: () => number | undefined;
  readonly objects: () => {
    readonly policies: number;
    readonly workloads: number;
    readonly problems: number;
  };
  readonly authority: () => CertificateAuthority | undefined;
  /** In a cluster: whether this replica leads. */
  readonly isLeader?: () => boolean;
}

export function createMetrics(sources: MetricSources): ControlPlaneMetrics & { close(): void } {
  const registry = new Registry();
  const registers = [registry];
  const delay = monitorEventLoopDelay({ resolution: 20 });
  delay.enable();
  new Gauge({
    name: "countersign_proxies",
    help: "sidecars by state: synced (has the expected table), stale, disconnected",
    labelNames: ["state"],
    registers,
    collect() {
      const counts = { synced: 0, stale: 0, disconnected: 0 };
      for (const { state } of sources.proxies()) counts[state] += 1;
      for (const [state, count] of Object.entries(counts)) this.set({ state }, count);
    },
  });
  new Gauge({
    name: "countersign_config_revision_info",
    help: "the revision in force as a label; value 1",
    labelNames: ["revision", "pinned"],
    registers,
    collect() {
      this.reset();
      this.set({ revision: String(sources.revision()), pinned: String(sources.pinned() ?? "") }, 1);
    },
  });
  new Gauge({
    name: "countersign_leader",
    help: "1 where this replica writes status and what else all replicas share",
    registers,
    collect() {
      this.set(sources.isLeader?.() === false ? 0 : 1);
    },
  });
  new Gauge({
    name: "countersign_config_objects",
    help: "objects in force and problems found in the source",
    labelNames: ["kind"],
    registers,
    collect() {
      for (const [kind, count] of Object.entries(sources.objects())) this.set({ kind }, count);
    },
  });
  new Gauge({
    name: "countersign_event_loop_lag_seconds",
    help: "event loop delay since the last scrape",
    labelNames: ["quantile"],
    registers,
    collect() {
      for (const quantile of [50, 99])
        this.set(
          { quantile: `0.${quantile}` },
          Number.isFinite(delay.mean) ? delay.percentile(quantile) / 1e9 : 0,
        );
      delay.reset();
    },
  });
  new Gauge({
    name: "countersign_process_memory_bytes",
    help: "memory of this process",
    labelNames: ["kind"],
    registers,
    collect() {
      const { rss, heapUsed } = process.memoryUsage();
      this.set({ kind: "resident" }, rss);
      this.set({ kind: "heap_used" }, heapUsed);
    },
  });
  new Gauge({
    name: "countersign_issuing_certificate_expiry_seconds",
    help: "seconds until the issuing certificate expires",
    registers,
    collect() {
      const authority = sources.authority();
      if (authority) this.set((authority.issuing.notAfterMs - Date.now()) / 1000);
    },
  });
  new Gauge({
    name: "countersign_root_expiry_seconds",
    help: "seconds until the first root of the trust bundle expires",
    registers,
    collect() {
      const ends = sources.authority()?.roots.map(({ validTo }) => Date.parse(validTo)) ?? [];
      if (ends.length > 0) this.set((Math.min(...ends) - Date.now()) / 1000);
    },
  });
  new Gauge({
    name: "countersign_root_rotation_seconds",
    help: "how long the present stage of a root rotation lasts; absent without one",
    labelNames: ["stage"],
    registers,
    collect() {
      this.reset();
      const record = sources.authority()?.rotation?.record;
      if (record) this.set({ stage: record.stage }, (Date.now() - record.stageSinceMs) / 1000);
    },
  });
  const nacks = new Counter({
    name: "countersign_proxy_nacks_total",
    help: "configurations that a sidecar refused",
    registers,
  });
  const statusWrites = new Counter({
    name: "countersign_status_writes_total",
    help: "statuses written into objects, by what came of it",
    labelNames: ["result"],
    registers,
  });
  const push = new Histogram({
    name: "countersign_config_push_seconds",
    help: "from a change being read to the acknowledgement of the last sidecar it affects",
    buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
    registers,
  });
  const compile = new Histogram({
    name: "countersign_compile_seconds",
    help: "compiling a state and building its resources",
    buckets: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5],
    registers,
  });
  const joins = new Counter({
    name: "countersign_joins_total",
    help: "join tokens redeemed",
    labelNames: ["result"],
    registers,
  });
  const issues = new Counter({
    name: "countersign_identities_issued_total",
    help: "identities issued",
    labelNames: ["result"],
    registers,
  });
  const management = new Counter({
    name: "countersign_management_requests_total",
    help: "requests to the management API by action and how they ended",
    labelNames: ["action", "outcome"],
    registers,
  });
  const reviews = new Histogram({
    name: "countersign_admission_seconds",
    help: "admission reviews by webhook and outcome, from first byte to answer",
    labelNames: ["path", "outcome"],
    buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5],
    registers,
  });
  const tokens = new Histogram({
    name: "countersign_token_request_seconds",
    help: "requests to the token service by what was asked and how it ended, from the first byte to the answer",
    labelNames: ["action", "outcome"],
    buckets: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5],
    registers,
  });
  const logins = new Counter({
    name: "countersign_logins_total",
    help: "logins that were shown to the token service, by identity provider and how they ended",
    labelNames: ["idp", "result"],
    registers,
  });
  const unmeshed = new Gauge({
    name: "countersign_unmeshed_pods",
    help: "where this replica leads, pods without a sidecar: missing (a label asks for one), opted_out (by their own label)",
    labelNames: ["reason"],
    registers,
  });
  return {
    registry,
    nack: () => nacks.inc(),
    statusWritten: (result) => statusWrites.inc({ result }),
    unmeshed: (missing, optedOut) => {
      unmeshed.set({ reason: "missing" }, missing);
      unmeshed.set({ reason: "opted_out" }, optedOut);
    },
    pushed: (seconds) => push.observe(seconds),
    compiled: (seconds) => compile.observe(seconds),
    joined: (result) => joins.inc({ result }),
    issued: (result) => issues.inc({ result }),
    managed: (action, outcome) => management.inc({ action, outcome }),
    reviewed: (path, outcome, seconds) => reviews.observe({ path, outcome }, seconds),
    tokenAsked: (action, outcome, seconds) => tokens.observe({ action, outcome }, seconds),
    signedIn: (idp, result) => logins.inc({ idp, result }),
    close: () => delay.disable(),
  };
}

/** Opens the port for /metrics, /livez and /readyz. @throws MeshError `io_failed` when it is taken. */
export function createMetricsServer(
  host: string,
  port: number,
  registry: Registry,
  isReady: () => boolean,
): Promise<StatusServer> {
  return startStatusServer({ kind: "tcp", host, port }, async (path) => {
    if (path === "/livez") return textPage(200, "ok\n");
    if (path === "/readyz") return isReady() ? textPage(200, "ok\n") : textPage(503, "stopping\n");
    if (path === "/metrics")
      return { status: 200, contentType: registry.contentType, body: await registry.metrics() };
    return undefined;
  });
}
