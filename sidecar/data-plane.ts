// The data path as one object: both sides, their shared parts, and the swap of identity and table. Knows nothing of
// discovery or of the process, so that tests run it with a table and an identity of their own.
import { createRequire } from "node:module";
import { AuditTrail } from "./audit/trail.ts";
import { ConcurrencyLimiter } from "./balance/concurrency.ts";
import { Deadlines } from "./balance/deadlines.ts";
import { LeaseShares } from "./balance/lease-shares.ts";
import type { LimitKind } from "./balance/limit-counters.ts";
import { createRateLimiter } from "./balance/limits.ts";
import { hasIpv6, readKernel } from "./capture/ip-families.ts";
import { CAPTURE_PORTS, type IpFamily } from "./capture/rules.ts";
import { PROBE_ADDRESS, verifyCapture } from "./capture/verify.ts";
import { ExternalAuthorities } from "./certs/external-authorities.ts";
import { clientTlsOptions, serverTlsOptions } from "./certs/tls-contexts.ts";
import type { SidecarConfig, SocketAddress } from "./config.ts";
import { ProofVerifier } from "./core/identity/proofs.ts";
import { parseTrustBundle } from "./core/identity/trust-bundle.ts";
import { isRetiring, type WorkloadIdentity, withBundle } from "./core/identity/workload-identity.ts";
import type { CelCompiler } from "./core/policy/condition.ts";
import { needsCel } from "./core/policy/decide.ts";
import type { LimitKey } from "./core/policy/rule.ts";
import type { Clock } from "./core/runtime/clock.ts";
import { MeshError, messageOf, type Result } from "./core/runtime/errors.ts";
import type { Logger } from "./core/runtime/log.ts";
import type { SharedLimits } from "./discovery/limit-leases.ts";
import type { Resolution } from "./discovery/resolver.ts";
import type { SidecarTable } from "./discovery/table.ts";
import { Http1AppSide } from "./inbound/app-http1.ts";
import { Http2AppSide } from "./inbound/app-http2.ts";
import type { AppSide } from "./inbound/app-side.ts";
import { createEnforcement, type Enforcement, parsePacks } from "./inbound/authorize.ts";
import type { InboundStream } from "./inbound/caller-side.ts";
import { InboundListener } from "./inbound/listener.ts";
import { PeerLeaves } from "./inbound/peer-leaves.ts";
import { PlaintextListener } from "./inbound/plaintext-listener.ts";
import { Redecider } from "./inbound/redecide.ts";
import { ReplayMemory } from "./inbound/replay.ts";
import type { InboundServices, LoginWatch } from "./inbound/services.ts";
import { WaitingBytes } from "./inbound/waiting-body.ts";
import { SidecarMetrics } from "./metrics.ts";
import { CaptureListener } from "./outbound/capture-listener.ts";
import { Externals } from "./outbound/external.ts";
import { ExternalPools } from "./outbound/external-pools.ts";
import { HealthChecks } from "./outbound/health-checks.ts";
import { OutboundListener } from "./outbound/listener.ts";
import { MirrorBudget } from "./outbound/mirror.ts";
import { UpstreamPool } from "./outbound/pool.ts";
import { Directory } from "./outbound/resolve.ts";
import type { OutboundServices, OwnUser } from "./outbound/services.ts";
import { AccessLog } from "./telemetry/access-log.ts";
import { Correlation } from "./telemetry/correlation.ts";
import { HeldChains } from "./telemetry/held-chains.ts";
import { LineFile } from "./telemetry/line-file.ts";
import { RandomIds } from "./telemetry/random-ids.ts";
import { FieldCache } from "./wire/field-cache.ts";
import { createHttp2Shared } from "./wire/http2/shared.ts";
import {
  createOriginalDestinationReader,
  type OriginalDestinationReader,
} from "./wire/original-destination.ts";

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

/** What capture rests on. Tests bring their own; a process takes the kernel's and the ports that the rules name. */
export interface CaptureDeps {
  readonly originalOf: OriginalDestinationReader;
  readonly families: readonly IpFamily[];
  readonly outboundPort: number;
  readonly inboundPort: number;
  /** Whether to look from inside if the rules are in force. */
  readonly verifies: boolean;
}

export interface DataPlanePorts {
  readonly mesh: number | undefined;
  readonly outbound: number | undefined;
  readonly local: readonly (number | undefined)[];
  readonly captured: { readonly outbound: number; readonly inbound: number } | undefined;
}

/** Something that brings requests into the data path beside the listeners of the application: a gateway. */
export interface DataPlanePart {
  /** Requests that are under way. */
  readonly busy: number;
  sweep(nowMs: number): void;
  drain(): void;
  drainIdle(): void;
  destroy(): void;
}

const SWEEP_MS = 500;
const AUDIT_QUEUE_BYTES = 8 * 1024 * 1024;
const LINE_DELAY_MS = 100;
const CAPTURE_VERIFY_MS = 2_000;
/** Proofs of `replay: Strict` that are remembered: 270 requests a second for 3 minutes, 10 MB. */
const MAX_REPLAYS = 50_000;

interface Captured {
  readonly deps: CaptureDeps;
  readonly probeToken: string;
  readonly outbound: CaptureListener;
  readonly inbound: PlaintextListener;
}

function kernelCapture(): CaptureDeps {
  return {
    originalOf: createOriginalDestinationReader(),
    families: hasIpv6(readKernel) ? ["ipv4", "ipv6"] : ["ipv4"],
    outboundPort: CAPTURE_PORTS.outbound,
    inboundPort: CAPTURE_PORTS.inbound,
    verifies: true,
  };
}

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
  readonly #captured: Captured | undefined;
  readonly #externalPools: ExternalPools;
  readonly #authorities: ExternalAuthorities;
  readonly #redecider: Redecider;
  readonly #config: SidecarConfig;
  readonly #deps: DataPlaneDeps;
  readonly #files: LineFile[] = [];
  readonly #apps = new Map<number, AppSide>();
  readonly #http2Apps = new Map<number, AppSide>();
  readonly #cache = new FieldCache();
  readonly #http2 = createHttp2Shared();
  readonly #ids = new RandomIds();
  readonly #waiting: WaitingBytes;
  readonly #shares = new LeaseShares();
  readonly #limiter = createRateLimiter({ maxKeys: 10_000, shares: this.#shares });
  readonly #concurrency = new ConcurrencyLimiter();
  readonly #state = {
    enforcement: undefined as Enforcement | undefined,
    directory: undefined as Directory | undefined,
    externals: undefined as Externals | undefined,
    identity: undefined as WorkloadIdentity | undefined,
    identityUntilMs: 0,
    bundleEpoch: "",
    carriesTrace: false,
    takesTxn: false,
    bindsSession: false,
  };
  #identity: WorkloadIdentity | undefined;
  #cel: CelCompiler | undefined;
  #timer: NodeJS.Timeout | undefined;
  #meshPort: number | undefined;
  #started = false;
  #listening: Promise<number> | undefined;

  /** @throws MeshError `bad_config` when a log file cannot be opened. */
  constructor(config: SidecarConfig, deps: DataPlaneDeps) {
    this.#config = config;
    this.#waiting = new WaitingBytes(config.limits.waitingBodyBytes);
    this.#deps = deps;
    const { clock, log, random, meshNowMs } = deps;
    this.#deadlines = new Deadlines(clock);
    const audit = this.#open("--audit-file", config.auditFile);
    const access = this.#open("--access-log", config.accessLog);
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
      state: this.#state,
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
      timeouts: config.timeouts,
      limits: config.limits,
      deadlines: this.#deadlines,
    };
    const verifier = new ProofVerifier({
      bundleOf: (trustDomain) =>
        this.#identity?.trustDomain === trustDomain ? this.#identity.bundle : undefined,
    });
    const inbound: InboundServices = {
      ...shared,
      ownUser: deps.ownUser,
      waiting: this.#waiting,
      limiter: this.#limiter,
      concurrency: this.#concurrency,
      replays: new ReplayMemory(MAX_REPLAYS, clock.monotonicMs()),
      app: (port, http2) => this.#app(port, http2),
      openTunnels: { count: 0 },
      leaves: new PeerLeaves(),
      appAddress: (port) => this.#appAddress(port),
    };
    this.inbound = new InboundListener({
      services: inbound,
      verifier: { verifier, trustDomain: () => this.#identity?.trustDomain ?? "" },
      ownSpiffeId: () => this.#identity?.spiffeId ?? "",
      log,
    });
    this.upstreams = new UpstreamPool({
      cache: this.#cache,
      http2: this.#http2,
      clock,
      meshNowMs,
      timeouts: config.timeouts,
      limits: config.limits,
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
      timeouts: config.timeouts,
      limits: config.limits,
      context: () => this.#authorities.context,
    });
    const outbound: OutboundServices = {
      ...shared,
      ownUser: deps.ownUser,
      mirrors: new MirrorBudget(),
      waiting: this.#waiting,
      externalPools: this.#externalPools,
      random,
      node: config.node,
      resolve: deps.resolve,
    };
    this.outboundServices = outbound;
    this.#healthChecks = new HealthChecks(this.upstreams, outbound, log);
    this.outbound = new OutboundListener({ services: outbound, log });
    this.#captured = config.capture ? this.#createCapture(outbound, inbound) : undefined;
    this.#redecider = new Redecider({
      services: inbound,
      streams: () => {
        const streams: InboundStream[] = [];
        this.inbound.collect(streams);
        this.#captured?.inbound.collect(streams);
        return streams;
      },
    });
    this.#gauges(audit, verifier);
  }

  #createCapture(outbound: OutboundServices, inbound: InboundServices): Captured {
    const { log } = this.#deps;
    const deps = this.#deps.capture ?? kernelCapture();
    const probeToken = this.#ids.hex(32);
    const { originalOf } = deps;
    const opaquePorts = new Set(this.#config.opaquePorts);
    return {
      deps,
      probeToken,
      outbound: new CaptureListener({ services: outbound, originalOf, probeToken, opaquePorts, log }),
      inbound: new PlaintextListener({ services: inbound, originalOf, log }),
    };
  }

  #open(flag: string, path: string | undefined): LineFile | undefined {
    if (path === undefined) return undefined;
    const { log } = this.#deps;
    try {
      const file = new LineFile({ path, log, maxHeldBytes: AUDIT_QUEUE_BYTES, delayMs: LINE_DELAY_MS });
      this.#files.push(file);
      return file;
    } catch (error) {
      throw new MeshError("bad_config", `${flag}: cannot open \`${path}\`: ${messageOf(error)}`, {
        cause: error,
      });
    }
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
    return this.#identity;
  }

  get table(): SidecarTable | undefined {
    return this.#state.enforcement?.table;
  }

  get enforcement(): Enforcement | undefined {
    return this.#state.enforcement;
  }

  /** Whether calls of this workload may be made for its one user (propagation mode `session`). */
  get actsForUser(): boolean {
    return this.#state.bindsSession && this.#identity?.actsFor !== undefined;
  }

  /** Present when a policy in force has a CEL condition. */
  get cel(): CelCompiler | undefined {
    return this.#cel;
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
        {
          node: process.version,
        },
      );
    const outbound =
      outboundProxy === undefined ? undefined : await this.outbound.listen(outboundProxy, undefined);
    const local: (number | undefined)[] = [];
    for (const { listen, service, port } of localServices)
      local.push(
        await this.outbound.listen(listen, { kind: "service", service, port, key: `${service}:${port}` }),
      );
    const captured = await this.#startCapture();
    this.#started = true;
    this.#timer = setInterval(() => this.sweep(this.#deps.clock.monotonicMs()), SWEEP_MS).unref();
    return { mesh: this.#meshPort, outbound, local, captured };
  }

  /** Binds the ports that iptables redirects to, and looks from inside whether it does. */
  async #startCapture(): Promise<DataPlanePorts["captured"]> {
    if (this.#captured === undefined) return undefined;
    const { deps, probeToken, outbound, inbound } = this.#captured;
    const { families } = deps;
    let port = deps.outboundPort;
    for (const family of families) port = await outbound.listen(PROBE_ADDRESS[family], port);
    const plaintext = await inbound.listen(deps.inboundPort);
    if (deps.verifies) {
      await verifyCapture({ families, token: probeToken, timeoutMs: CAPTURE_VERIFY_MS, ownCalls: "pass" });
      this.#deps.log.info("capture verified", { families: families.join(",") });
    }
    return { outbound: port, inbound: plaintext };
  }

  /** Requests of the application and of plaintext callers that are under way. */
  get busy(): number {
    let busy =
      this.outbound.busy + (this.#captured?.outbound.busy ?? 0) + (this.#captured?.inbound.busy ?? 0);
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
    this.#adopt(identity);
    this.#meshPort = await this.#listening;
    this.metrics.rotations.add(this.metrics.rotations.series("identity", "accepted"));
    return this.#meshPort;
  }

  #adopt(identity: WorkloadIdentity): void {
    const { epoch, roots } = identity.bundle;
    const left = this.#identity;
    if (left !== undefined && left.leafThumbprint !== identity.leafThumbprint && isRetiring(left))
      this.inbound.reconnectAll();
    const before = left?.bundle;
    if (before !== undefined && before.epoch !== epoch) {
      const kept = new Set(roots.map((root) => root.fingerprint256));
      if (before.roots.some((root) => !kept.has(root.fingerprint256)))
        this.inbound.expelAll(this.#deps.clock.monotonicMs());
      this.upstreams.recheck(roots);
    }
    this.#identity = identity;
    this.#state.identity = identity;
    this.#state.identityUntilMs = identity.notAfterMs;
    this.#state.bundleEpoch = identity.bundle.epoch;
    this.upstreams.setIdentity(identity);
  }

  /** Puts a table in force whole, or says why it cannot be used and keeps the one before. */
  setTable(table: SidecarTable): Result<void, string> {
    const result = this.#prepare(table);
    this.metrics.rotations.add(this.metrics.rotations.series("table", result.ok ? "accepted" : "refused"));
    return result;
  }

  #prepare(table: SidecarTable): Result<void, string> {
    const packs = parsePacks(table);
    if (!packs.ok) return packs;
    const programs = [table.program, ...[...(table.externals?.values() ?? [])].map(({ program }) => program)];
    const cel = programs.some(needsCel) ? this.#celCompiler() : undefined;
    const enforcement = createEnforcement(table, packs.value, this, cel);
    if (!enforcement.ok) return enforcement;
    const externals = Externals.create(table, packs.value, { metrics: this.metrics, trail: this.trail, cel });
    if (!externals.ok) return externals;
    const before = this.#identity;
    if (before !== undefined && table.trustBundle !== "" && table.trustBundle !== before.bundle.json) {
      const bundle = parseTrustBundle(table.trustBundle, before.trustDomain);
      if (!bundle.ok) return { ok: false, error: `trust bundle: ${bundle.error}` };
      if (bundle.value.epoch !== before.bundle.epoch) {
        const identity = withBundle(before, bundle.value);
        this.inbound.setTlsOptions(serverTlsOptions(identity));
        this.#adopt(identity);
      }
    }
    this.upstreams.adopt(table);
    if (this.#authorities.use(table.settings.externalRoots)) this.#externalPools.renew();
    this.#state.directory = new Directory(table, packs.value, this.upstreams, this.metrics, this.trail, {
      node: this.#config.node,
      random: this.#deps.random,
      actsFor: () => this.#identity?.actsFor,
    });
    this.#state.externals = externals.value;
    this.#state.enforcement = enforcement.value;
    this.#state.carriesTrace = table.settings.propagation.includes("trace");
    this.#state.takesTxn = table.settings.propagation.includes("forward");
    this.#state.bindsSession = table.settings.propagation.includes("session");
    this.#redecider.check();
    return { ok: true, value: undefined };
  }

  /** CEL costs memory and start-up time, so it is loaded with the first policy that has a condition. */
  #celCompiler(): CelCompiler {
    if (this.#cel === undefined) {
      const extension = import.meta.url.endsWith(".ts") ? "ts" : "js";
      const loaded: unknown = createRequire(import.meta.url)(`./core/policy/cel.${extension}`);
      // The module is ours: its one export of that name is the factory.
      this.#cel = (loaded as { readonly createCelCompiler: () => CelCompiler }).createCelCompiler();
    }
    return this.#cel;
  }

  #appAddress(port: number): SocketAddress {
    const { appHost, appPorts } = this.#config;
    return appPorts.get(port) ?? { kind: "tcp", host: appHost, port };
  }

  #app(port: number, http2: boolean): AppSide {
    const sides = http2 ? this.#http2Apps : this.#apps;
    let side = sides.get(port);
    if (side === undefined) {
      const { timeouts, limits } = this.#config;
      const shared = { cache: this.#cache, clock: this.#deps.clock, timeouts, limits };
      const address = this.#appAddress(port);
      side = http2
        ? new Http2AppSide(address, { ...shared, http2: this.#http2 })
        : new Http1AppSide(address, { ...shared, shared: this.#http2 });
      sides.set(port, side);
    }
    return side;
  }

  #appSides(): readonly AppSide[] {
    return [...this.#apps.values(), ...this.#http2Apps.values()];
  }

  /** Writes the lines of audit and access log that wait. */
  async flush(): Promise<void> {
    for (const file of this.#files) await file.flush();
  }

  /** Ends what took too long; called twice a second. */
  sweep(nowMs: number): void {
    this.inbound.sweep(nowMs);
    this.#redecider.check();
    this.outbound.sweep(nowMs);
    this.#captured?.outbound.sweep(nowMs);
    this.#captured?.inbound.sweep(nowMs);
    for (const part of this.#parts) part.sweep(nowMs);
    this.upstreams.sweep(nowMs);
    this.#externalPools.sweep(nowMs);
    this.#concurrency.sweep(nowMs);
    this.#healthChecks.sweep(nowMs);
    for (const side of this.#appSides()) side.sweep(nowMs);
    this.held.sweep(this.#deps.meshNowMs());
  }

  /** Accepts nothing more, lets open requests finish for `drainMs`, then ends everything and writes the last lines. */
  async close(drainMs: number = this.#config.timeouts.drainMs): Promise<void> {
    const { clock } = this.#deps;
    const untilMs = clock.monotonicMs() + drainMs;
    this.inbound.drain();
    this.outbound.drain();
    this.#captured?.outbound.drain();
    this.#captured?.inbound.drain();
    for (const part of this.#parts) part.drain();
    let turns = 0;
    while (clock.monotonicMs() < untilMs && (this.busy > 0 || this.inbound.openExchanges > 0 || turns < 2)) {
      turns++;
      await clock.sleep(20);
    }
    this.outbound.drainIdle();
    this.#captured?.outbound.drainIdle();
    this.#captured?.inbound.drainIdle();
    for (const part of this.#parts) part.drainIdle();
    this.upstreams.retire();
    await clock.sleep(20);
    clearInterval(this.#timer);
    this.inbound.destroy();
    this.outbound.destroy();
    this.#captured?.outbound.destroy();
    this.#captured?.inbound.destroy();
    for (const part of this.#parts) part.destroy();
    this.upstreams.destroy();
    this.#externalPools.close();
    this.#deadlines.close();
    for (const side of this.#appSides()) side.close();
    for (const file of this.#files) await file.close();
  }

  #gauges(audit: LineFile | undefined, verifier: ProofVerifier): void {
    const { metrics } = this;
    const { meshNowMs } = this.#deps;
    const one = (name: string, help: string, read: () => number): void =>
      metrics.addGauge({ name, help, labels: [], read: () => [[[], read()]] });
    one("countersign_svid_expiry_seconds", "seconds until the own certificate expires", () =>
      Math.max(0, (this.#state.identityUntilMs - meshNowMs()) / 1_000),
    );
    one(
      "countersign_bundle_sequence",
      "sequence of the trust bundle in force",
      () => this.#identity?.bundle.sequence ?? 0,
    );
    one("countersign_config_revision", "revision of the table in force", () => this.table?.revision ?? 0);
    one("countersign_mesh_connections", "accepted mesh connections", () => this.inbound.connections.size);
    one(
      "countersign_application_connections",
      "accepted application-side connections",
      () => this.outbound.connections + (this.#captured?.outbound.connections ?? 0),
    );
    one(
      "countersign_waiting_body_bytes",
      "memory of bodies that wait for a decision or for the application",
      () => this.#waiting.taken,
    );
    metrics.addGauge({
      name: "countersign_held_stream_bytes",
      help: "body bytes of open HTTP/2 streams that peers may send or have sent, and that wait to be sent",
      labels: ["state"],
      read: () => [
        [["windows"], this.#http2.windows.bytes],
        [["queued"], this.#http2.queued.bytes],
      ],
    });
    one("process_resident_memory_bytes", "resident memory", () => process.memoryUsage.rss());
    metrics.addTotal({
      name: "process_cpu_seconds_total",
      help: "processor time used",
      labels: [],
      read: () => [[[], (process.cpuUsage().user + process.cpuUsage().system) / 1e6]],
    });
    if (audit !== undefined) this.#auditMetrics(audit, this.#config.auditFile === "-" ? "stdout" : "file");
    this.#tokenMetrics(verifier);
    metrics.addGauge({
      name: "countersign_endpoints",
      help: "endpoints of the services that were called, by state",
      labels: ["service", "state"],
      read: () => this.upstreams.endpointStates(),
    });
    metrics.addGauge({
      name: "countersign_limit_remaining_ratio",
      help: "what is left of a rate limit for the caller that has least",
      labels: ["policy", "rule", "key_type"],
      read: () => this.#limitsLeft(this.#deps.clock.monotonicMs()),
    });
    metrics.addGauge({
      name: "countersign_concurrent_calls",
      help: "calls under rules that limit how many run at once",
      labels: ["policy", "rule", "state"],
      read: () =>
        [...this.#concurrency.counts()].flatMap(({ policy, rule, running, waiting }) => [
          [[policy, rule, "running"], running] as const,
          [[policy, rule, "waiting"], waiting] as const,
        ]),
    });
  }

  #auditMetrics(audit: LineFile, sink: string): void {
    const { metrics } = this;
    metrics.addTotal({
      name: "countersign_audit_events_total",
      help: "audit events written and lost",
      labels: ["sink", "result"],
      read: () => [
        [[sink, "written"], audit.written],
        [[sink, "dropped"], audit.dropped + audit.failed],
      ],
    });
    metrics.addTotal({
      name: "countersign_audit_dropped_total",
      help: "audit events lost: too many waited, or the sink refused them",
      labels: ["sink", "result"],
      read: () => [
        [[sink, "overflow"], audit.dropped],
        [[sink, "write_failed"], audit.failed],
      ],
    });
    metrics.addGauge({
      name: "countersign_audit_queue",
      help: "audit events that wait to be written",
      labels: ["sink"],
      read: () => [[[sink], audit.queued]],
    });
  }

  #tokenMetrics({ stats, txnStats }: ProofVerifier): void {
    const labels = ["type", "cache", "result"];
    this.metrics.addTotal({
      name: "countersign_token_sign_total",
      help: "proof tokens attached to calls, signed or from the cache",
      labels,
      read: () => [
        [["wpt", "hit", "ok"], this.upstreams.signed.hits],
        [["wpt", "miss", "ok"], this.upstreams.signed.signed],
      ],
    });
    this.metrics.addTotal({
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

  #limitsLeft(nowMs: number): Iterable<readonly [readonly string[], number]> {
    const least = new Map<string, { readonly labels: readonly string[]; left: number }>();
    const add = (
      policy: string,
      rule: string,
      kind: LimitKind,
      key: readonly LimitKey[] | undefined,
    ): void => {
      if (key === undefined) return;
      const keyType = key.join("+");
      const labels = [policy, rule, kind === "tokens" ? `${keyType}-tokens` : keyType];
      least.set(JSON.stringify([policy, rule, kind]), { labels, left: 1 });
    };
    for (const policy of this.table?.program.policies ?? [])
      for (const { name, with: demands } of policy.rules) {
        add(policy.id, name, "requests", demands?.rateLimit?.key);
        add(policy.id, name, "tokens", demands?.tokenLimit?.key);
      }
    for (const [policy, rule, kind, left] of this.#limiter.counters(nowMs)) {
      const found = least.get(JSON.stringify([policy, rule, kind]));
      if (found !== undefined) found.left = Math.min(found.left, left);
    }
    return [...least.values()].map(({ labels, left }) => [labels, left] as const);
  }
}
