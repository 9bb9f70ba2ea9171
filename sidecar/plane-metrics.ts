// Figures of the data path that are read when they are asked for: what its parts hold at that moment, and totals that they
// keep themselves.
import type { ConcurrencyLimiter } from "./balance/concurrency.ts";
import type { RateLimiter } from "./balance/limits.ts";
import type { ProofVerifier } from "./core/identity/proofs.ts";
import type { Clock } from "./core/runtime/clock.ts";
import type { PlaneState } from "./in-force.ts";
import { limitsLeft } from "./inbound/limits-left.ts";
import type { InboundListener } from "./inbound/listener.ts";
import type { WaitingBytes } from "./inbound/waiting-body.ts";
import type { SidecarMetrics } from "./metrics.ts";
import type { UpstreamPool } from "./outbound/pool.ts";
import type { LineFile } from "./telemetry/line-file.ts";
import type { Http2Shared } from "./wire/http2/shared.ts";

export interface MeasuredPlane {
  readonly metrics: SidecarMetrics;
  readonly state: PlaneState;
  readonly clock: Clock;
  readonly meshNowMs: () => number;
  readonly inbound: InboundListener;
  /** Accepted connections of the application. */
  readonly appConnections: () => number;
  readonly upstreams: UpstreamPool;
  readonly http2: Http2Shared;
  readonly waiting: WaitingBytes;
  readonly limiter: RateLimiter;
  readonly concurrency: ConcurrencyLimiter;
  readonly verifier: ProofVerifier;
  /** undefined: nothing is written. */
  readonly audit: { readonly file: LineFile; readonly sink: "stdout" | "file" } | undefined;
}

export function addPlaneMetrics(plane: MeasuredPlane): void {
  addInForce(plane);
  addProcess(plane);
  addTraffic(plane);
  addLimits(plane);
  addTokens(plane);
  addAudit(plane);
}

function addOne({ metrics }: MeasuredPlane, name: string, help: string, read: () => number): void {
  metrics.addGauge({ name, help, labels: [], read: () => [[[], read()]] });
}

function addInForce(plane: MeasuredPlane): void {
  const { state, meshNowMs } = plane;
  addOne(plane, "countersign_svid_expiry_seconds", "seconds until the own certificate expires", () =>
    Math.max(0, (state.identityUntilMs - meshNowMs()) / 1_000),
  );
  addOne(
    plane,
    "countersign_bundle_sequence",
    "sequence of the trust bundle in force",
    () => state.identity?.bundle.sequence ?? 0,
  );
  addOne(
    plane,
    "countersign_config_revision",
    "revision of the table in force",
    () => state.enforcement?.table.revision ?? 0,
  );
}

function addProcess(plane: MeasuredPlane): void {
  addOne(plane, "process_resident_memory_bytes", "resident memory", () => process.memoryUsage.rss());
  plane.metrics.addTotal({
    name: "process_cpu_seconds_total",
    help: "processor time used",
    labels: [],
    read: () => [[[], (process.cpuUsage().user + process.cpuUsage().system) / 1e6]],
  });
}

function addTraffic(plane: MeasuredPlane): void {
  const { metrics, inbound, appConnections, waiting, http2, upstreams } = plane;
  addOne(plane, "countersign_mesh_connections", "accepted mesh connections", () => inbound.connections.size);
  addOne(
    plane,
    "countersign_application_connections",
    "accepted application-side connections",
    appConnections,
  );
  addOne(
    plane,
    "countersign_waiting_body_bytes",
    "memory of bodies that wait for a decision or for the application",
    () => waiting.taken,
  );
  metrics.addGauge({
    name: "countersign_held_stream_bytes",
    help: "body bytes of open HTTP/2 streams that peers may send or have sent, and that wait to be sent",
    labels: ["state"],
    read: () => [
      [["windows"], http2.windows.bytes],
      [["queued"], http2.queued.bytes],
    ],
  });
  metrics.addGauge({
    name: "countersign_endpoints",
    help: "endpoints of the services that were called, by state",
    labels: ["service", "state"],
    read: () => upstreams.endpointStates(),
  });
}

function addLimits({ metrics, state, limiter, concurrency, clock }: MeasuredPlane): void {
  metrics.addGauge({
    name: "countersign_limit_remaining_ratio",
    help: "what is left of a rate limit for the caller that has least",
    labels: ["policy", "rule", "key_type"],
    read: () =>
      limitsLeft(state.enforcement?.table.program.policies ?? [], limiter.counters(clock.monotonicMs())),
  });
  metrics.addGauge({
    name: "countersign_concurrent_calls",
    help: "calls under rules that limit how many run at once",
    labels: ["policy", "rule", "state"],
    read: () =>
      [...concurrency.counts()].flatMap(({ policy, rule, running, waiting }) => [
        [[policy, rule, "running"], running] as const,
        [[policy, rule, "waiting"], waiting] as const,
      ]),
  });
}

function addTokens({ metrics, upstreams, verifier }: MeasuredPlane): void {
  const { stats, txnStats } = verifier;
  const labels = ["type", "cache", "result"];
  metrics.addTotal({
    name: "countersign_token_sign_total",
    help: "proof tokens attached to calls, signed or from the cache",
    labels,
    read: () => [
      [["wpt", "hit", "ok"], upstreams.signed.hits],
      [["wpt", "miss", "ok"], upstreams.signed.signed],
    ],
  });
  metrics.addTotal({
    name: "countersign_token_verify_total",
    help: "tokens checked on calls to this workload",
    labels,
    read: () => [
      [["wpt", "hit", "ok"], stats.hits],
      [["wpt", "hit", "refused"], stats.refusedHits],
      [["wpt", "miss", "ok"], stats.misses - stats.refusedMisses],
      [["wpt", "miss", "refused"], stats.refusedMisses],
      [["wit", "hit", "ok"], stats.witHits],
      [["wit", "miss", "ok"], stats.witMisses - stats.witRefused],
      [["wit", "miss", "refused"], stats.witRefused],
      [["txn", "hit", "ok"], txnStats.hits],
      [["txn", "miss", "ok"], txnStats.misses - txnStats.refused],
      [["txn", "miss", "refused"], txnStats.refused],
    ],
  });
}

function addAudit({ metrics, audit }: MeasuredPlane): void {
  if (audit === undefined) return;
  const { file, sink } = audit;
  metrics.addTotal({
    name: "countersign_audit_events_total",
    help: "audit events written and lost",
    labels: ["sink", "result"],
    read: () => [
      [[sink, "written"], file.written],
      [[sink, "dropped"], file.dropped + file.failed],
    ],
  });
  metrics.addTotal({
    name: "countersign_audit_dropped_total",
    help: "audit events lost: too many waited, or the sink refused them",
    labels: ["sink", "result"],
    read: () => [
      [[sink, "overflow"], file.dropped],
      [[sink, "write_failed"], file.failed],
    ],
  });
  metrics.addGauge({
    name: "countersign_audit_queue",
    help: "audit events that wait to be written",
    labels: ["sink"],
    read: () => [[[sink], file.queued]],
  });
}
