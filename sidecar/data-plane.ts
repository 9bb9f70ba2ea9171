// The data path as one object: both sides, their shared parts, and the swap of identity and table. Knows nothing of
// discovery or of the process, so that tests run it with a table and an identity of their own.
import { AuditTrail } from "./audit/trail.ts";
import { ConcurrencyLimiter } from "./balance/concurrency.ts";
import { Deadlines } from "./balance/deadlines.ts";
import { LeaseShares } from "./balance/lease-shares.ts";
import { createRateLimiter } from "./balance/limits.ts";
import { type CaptureDeps, CapturePlane, kernelCapture } from "./capture-plane.ts";
import { ExternalAuthorities } from "./certs/external-authorities.ts";
import { clientTlsOptions, serverTlsOptions } from "./certs/tls-contexts.ts";
import type { SidecarConfig } from "./config.ts";
import { ProofVerifier } from "./core/identity/proofs.ts";
import type { WorkloadIdentity } from "./core/identity/workload-identity.ts";
import type { CelCompiler } from "./core/policy/condition.ts";
import type { Clock } from "./core/runtime/clock.ts";
import type { Result } from "./core/runtime/errors.ts";
import type { Logger } from "./core/runtime/log.ts";
import type { DataPlanePart } from "./data-plane-part.ts";
import type { SharedLimits } from "./discovery/limit-leases.ts";
import type { Resolution } from "./discovery/resolver.ts";
import type { SidecarTable } from "./discovery/table.ts";
import { InForce, PlaneState } from "./in-force.ts";
import { AppSides } from "./inbound/app-sides.ts";
import type { Enforcement } from "./inbound/authorize.ts";
import type { InboundStream } from "./inbound/caller-side.ts";
import { InboundListener } from "./inbound/listener.ts";
import { PeerLeaves } from "./inbound/peer-leaves.ts";
import { Redecider } from "./inbound/redecide.ts";
import { ReplayMemory } from "./inbound/replay.ts";
import type { InboundServices, LoginWatch } from "./inbound/services.ts";
import { WaitingBytes } from "./inbound/waiting-body.ts";
import { SidecarMetrics } from "./metrics.ts";
import { ExternalPools } from "./outbound/external-pools.ts";
import { HealthChecks } from "./outbound/health-checks.ts";
import { OutboundListener } from "./outbound/listener.ts";
import { MirrorBudget } from "./outbound/mirror.ts";
import { UpstreamPool } from "./outbound/pool.ts";
import type { OutboundServices, OwnUser } from "./outbound/services.ts";
import { addPlaneMetrics } from "./plane-metrics.ts";
import { AccessLog } from "./telemetry/access-log.ts";
import { Correlation } from "./telemetry/correlation.ts";
import { HeldChains } from "./telemetry/held-chains.ts";
import { LineFiles } from "./telemetry/line-files.ts";
import { RandomIds } from "./telemetry/random-ids.ts";
import { FieldCache } from "./wire/field-cache.ts";
import { createHttp2Shared } from "./wire/http2/shared.ts";

export interface DataPlaneDeps {
  readonly log: Logger;
  readonly clock: Clock;
  /** In [0, 1). */
  readonly random: () => number;
  /** Control plane's time, Unix milliseconds. */
  readonly meshNowMs: () => number;
  readonly resolve: (host: string, port: number) => Promise<Resolution>;
  readonly capture?: CaptureDeps;
  /** Zone of this sidecar, as the control plane knows it; empty or absent: not known. */
  readonly zone?: () => string;
  /** The one user of this workload; absent: it never acts for one. */
  readonly ownUser?: OwnUser & LoginWatch;
}

export interface DataPlanePorts {
  readonly mesh: number | undefined;
  readonly outbound: number | undefined;
  readonly local: readonly (number | undefined)[];
  readonly captured: { readonly outbound: number; readonly inbound: number } | undefined;
}

const SWEEP_MS = 500;
/** Proofs of `replay: Strict` that are remembered: 270 requests a second for 3 minutes, 10 MB. */
const MAX_REPLAYS = 50_000;

export class DataPlane {
  readonly metrics = new SidecarMetrics();
  readonly trail: AuditTrail;
  readonly inbound: InboundListener;
  readonly outbound: OutboundListener;
  readonly upstreams: UpstreamPool;
  readonly outboundServices: OutboundServices;
  readonly #parts: DataPlanePart[] = [];
  /** Transaction tokens that the application got. */
  readonly held = new HeldChains();
  readonly #deadlines: Deadlines;
  readonly #healthChecks: HealthChecks;
  readonly #captured: CapturePlane | undefined;
  readonly #externalPools: ExternalPools;
  readonly #authorities: ExternalAuthorities;
  readonly #redecider: Redecider;
  readonly #config: SidecarConfig;
  readonly #deps: DataPlaneDeps;
  readonly #files: LineFiles;
  readonly #apps: AppSides;
  readonly #cache = new FieldCache();
  readonly #http2 = createHttp2Shared();
  readonly #ids = new RandomIds();
  readonly #shares = new LeaseShares();
  readonly #limiter = createRateLimiter({ maxKeys: 10_000, shares: this.#shares });
  readonly #concurrency = new ConcurrencyLimiter();
  readonly #state = new PlaneState();
  readonly #inForce: InForce;
  #timer: NodeJS.Timeout | undefined;
  #meshPort: number | undefined;
  #started = false;
  #listening: Promise<number> | undefined;

  /** @throws MeshError `bad_config` when a log file cannot be opened. */
  constructor(config: SidecarConfig, deps: DataPlaneDeps) {
    this.#config = config;
    this.#deps = deps;
    const { clock, log, random, meshNowMs } = deps;
    const { timeouts, limits } = config;
    const state = this.#state;
    const waiting = new WaitingBytes(limits.waitingBodyBytes);
    this.#deadlines = new Deadlines(clock);
    this.#files = new LineFiles(log);
    const audit = this.#files.open("--audit-file", config.auditFile);
    const access = this.#files.open("--access-log", config.accessLog);
    const ids = this.#ids;
    this.trail = new AuditTrail({
      sink: audit,
      ids,
      random,
      recordAllows: config.audit === "allow",
      takesBodies: config.auditBodies,
      secretNames: new Set(config.auditRedact),
    });
    const shared = {
      state,
      cache: this.#cache,
      http2: this.#http2,
      clock,
      meshNowMs,
      metrics: this.metrics,
      trail: this.trail,
      accessLog: access === undefined ? undefined : new AccessLog(access),
      ids,
      correlation:
        config.outboundProxy === undefined && config.localServices.length === 0 && !config.capture
          ? undefined
          : new Correlation(),
      held: this.held,
      timeouts,
      limits,
      deadlines: this.#deadlines,
    };
    const verifier = new ProofVerifier({
      bundleOf: (trustDomain) =>
        state.identity?.trustDomain === trustDomain ? state.identity.bundle : undefined,
    });
    const { appHost, appPorts } = config;
    const apps = new AppSides({
      ...{ appHost, appPorts, cache: this.#cache, http2: this.#http2, clock, timeouts, limits },
    });
    this.#apps = apps;
    const inbound: InboundServices = {
      ...shared,
      ownUser: deps.ownUser,
      waiting,
      limiter: this.#limiter,
      concurrency: this.#concurrency,
      replays: new ReplayMemory(MAX_REPLAYS, clock.monotonicMs()),
      app: (port, isHttp2) => apps.of(port, isHttp2),
      openTunnels: { count: 0 },
      leaves: new PeerLeaves(),
      appAddress: (port) => apps.addressOf(port),
    };
    this.inbound = new InboundListener({
      services: inbound,
      verifier: { verifier, trustDomain: () => state.identity?.trustDomain ?? "" },
      ownSpiffeId: () => state.identity?.spiffeId ?? "",
      log,
    });
    this.upstreams = new UpstreamPool({
      cache: this.#cache,
      http2: this.#http2,
      clock,
      meshNowMs,
      timeouts,
      limits,
      metrics: this.metrics,
      log,
      random,
      randomId: () => ids.hex(16),
      zone: deps.zone ?? (() => ""),
      deadlines: this.#deadlines,
      tlsOptions: clientTlsOptions,
    });
    this.#authorities = new ExternalAuthorities(config.externalCaFile);
    this.#externalPools = new ExternalPools({
      cache: this.#cache,
      http2: shared.http2,
      clock,
      timeouts,
      limits,
      context: () => this.#authorities.context,
    });
    const outbound: OutboundServices = {
      ...shared,
      ownUser: deps.ownUser,
      mirrors: new MirrorBudget(),
      waiting,
      externalPools: this.#externalPools,
      random,
      node: config.node,
      resolve: deps.resolve,
    };
    this.outboundServices = outbound;
    this.#healthChecks = new HealthChecks(this.upstreams, outbound, log);
    this.outbound = new OutboundListener({ services: outbound, log });
    this.#captured = config.capture
      ? new CapturePlane({
          ...{ inbound, outbound, opaquePorts: config.opaquePorts, probeToken: ids.hex(32), log },
          capture: deps.capture ?? kernelCapture(),
        })
      : undefined;
    if (this.#captured !== undefined) this.attach(this.#captured);
    this.#redecider = new Redecider({
      services: inbound,
      streams: () => {
        const streams: InboundStream[] = [];
        this.inbound.collect(streams);
        this.#captured?.collect(streams);
        return streams;
      },
    });
    const { metrics, trail, upstreams } = this;
    this.#inForce = new InForce(state, {
      ...{ inbound: this.inbound, upstreams, metrics, trail, clock, random, node: config.node },
      ...{ authorities: this.#authorities, externalPools: this.#externalPools },
    });
    addPlaneMetrics({
      ...{ metrics, state, clock, meshNowMs, inbound: this.inbound, upstreams, waiting, verifier },
      ...{ http2: this.#http2, limiter: this.#limiter, concurrency: this.#concurrency },
      appConnections: () => this.outbound.connections + (this.#captured?.connections ?? 0),
      audit: audit && { file: audit, sink: config.auditFile === "-" ? "stdout" : "file" },
    });
  }

  /** What the discovery stream needs to share limits with other replicas. */
  get sharedLimits(): SharedLimits {
    return {
      begin: (nowMs) => this.#shares.begin(nowMs),
      apply: (lease, nowMs) => this.#shares.apply(lease, nowMs),
      report: (nowMs) => this.#shares.report(this.#limiter, nowMs),
    };
  }

  get identity(): WorkloadIdentity | undefined {
    return this.#state.identity;
  }

  get table(): SidecarTable | undefined {
    return this.#state.enforcement?.table;
  }

  get enforcement(): Enforcement | undefined {
    return this.#state.enforcement;
  }

  /** Whether calls of this workload may be made for its one user (propagation mode `session`). */
  get actsForUser(): boolean {
    return this.#state.bindsSession && this.#state.identity?.actsFor !== undefined;
  }

  /** Present when a policy in force has a CEL condition. */
  get cel(): CelCompiler | undefined {
    return this.#inForce.cel;
  }

  /** The mesh port once it is bound, which needs an identity. */
  get meshPort(): number | undefined {
    return this.#meshPort;
  }

  /** Whether the application's listeners are bound, and capture was seen to work where it is on. */
  get started(): boolean {
    return this.#started;
  }

  /** Binds the application's side; the mesh port follows with the first identity. */
  async start(): Promise<DataPlanePorts> {
    const { outboundProxy, localServices } = this.#config;
    if (!this.#http2.reads.adopts)
      this.#deps.log.info(
        "accepted sockets are read one by one: this node has no place for a shared buffer",
        { node: process.version },
      );
    const outbound =
      outboundProxy === undefined ? undefined : await this.outbound.listen(outboundProxy, undefined);
    const local: (number | undefined)[] = [];
    for (const { listen, service, port } of localServices)
      local.push(
        await this.outbound.listen(listen, { kind: "service", service, port, key: `${service}:${port}` }),
      );
    const captured = await this.#captured?.start();
    this.#started = true;
    this.#timer = setInterval(() => this.sweep(this.#deps.clock.monotonicMs()), SWEEP_MS).unref();
    return { mesh: this.#meshPort, outbound, local, captured };
  }

  /** Requests of the application and of plaintext callers that are under way. */
  get busy(): number {
    let { busy } = this.outbound;
    for (const part of this.#parts) busy += part.busy;
    return busy;
  }

  /** From now on it is swept, drained and ended with everything else. */
  attach(part: DataPlanePart): void {
    this.#parts.push(part);
  }

  /**
   * Puts an identity in force: new connections use it, open ones stay.
   *
   * @throws MeshError `io_failed` when the mesh port cannot be bound; OpenSSL's error when it refuses the material.
   */
  async setIdentity(identity: WorkloadIdentity): Promise<number> {
    const options = serverTlsOptions(identity);
    if (this.#listening === undefined) {
      this.#listening = this.inbound.listen(this.#config.meshListen, options);
    } else this.inbound.setTlsOptions(options);
    this.#inForce.adopt(identity);
    this.#meshPort = await this.#listening;
    this.metrics.rotations.add(this.metrics.rotations.series("identity", "accepted"));
    return this.#meshPort;
  }

  /** Puts a table in force whole, or says why it cannot be used and keeps the one before. */
  setTable(table: SidecarTable): Result<void, string> {
    const result = this.#inForce.setTable(table);
    if (result.ok) this.#redecider.check();
    this.metrics.rotations.add(this.metrics.rotations.series("table", result.ok ? "accepted" : "refused"));
    return result;
  }

  /** Writes the lines of audit and access log that wait. */
  async flush(): Promise<void> {
    await this.#files.flush();
  }

  /** Ends what took too long; called twice a second. */
  sweep(nowMs: number): void {
    this.inbound.sweep(nowMs);
    this.#redecider.check();
    this.outbound.sweep(nowMs);
    for (const part of this.#parts) part.sweep(nowMs);
    this.upstreams.sweep(nowMs);
    this.#externalPools.sweep(nowMs);
    this.#concurrency.sweep(nowMs);
    this.#healthChecks.sweep(nowMs);
    this.#apps.sweep(nowMs);
    this.held.sweep(this.#deps.meshNowMs());
  }

  /** Accepts nothing more, lets open requests finish for `drainMs`, then ends everything and writes the last lines. */
  async close(drainMs: number = this.#config.timeouts.drainMs): Promise<void> {
    const { clock } = this.#deps;
    const untilMs = clock.monotonicMs() + drainMs;
    this.inbound.drain();
    this.outbound.drain();
    for (const part of this.#parts) part.drain();
    let turns = 0;
    while (clock.monotonicMs() < untilMs && (this.busy > 0 || this.inbound.openExchanges > 0 || turns < 2)) {
      turns++;
      await clock.sleep(20);
    }
    this.outbound.drainIdle();
    for (const part of this.#parts) part.drainIdle();
    this.upstreams.retire();
    await clock.sleep(20);
    clearInterval(this.#timer);
    this.inbound.destroy();
    this.outbound.destroy();
    for (const part of this.#parts) part.destroy();
    this.upstreams.destroy();
    this.#externalPools.close();
    this.#deadlines.close();
    this.#apps.close();
    await this.#files.close();
  }
}
