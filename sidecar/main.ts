// The sidecar process: puts identity, discovery and the data path together, and ends them in order.
import { randomBytes } from "node:crypto";
import { RESOURCE_FEATURES } from "../proto/protocol.ts";
import { type AdminState, adminPages, healthPages } from "./admin.ts";
import { loadIdentity, saveIdentity } from "./certs/identity-store.ts";
import { createCertificateRequest, createKeys } from "./certs/key-and-csr.ts";
import { runRotator } from "./certs/rotator.ts";
import { clientTlsOptions } from "./certs/tls-contexts.ts";
import type { SidecarConfig } from "./config.ts";
import type { Gateway } from "./core/gateway/gateway.ts";
import { Revocations } from "./core/identity/revocations.ts";
import { workloadOf } from "./core/identity/spiffe-id.ts";
import { isRetiring, type WorkloadIdentity } from "./core/identity/workload-identity.ts";
import { SUPPORTED_FEATURES } from "./core/policy/wire.ts";
import { backoffMs } from "./core/runtime/backoff.ts";
import type { Clock } from "./core/runtime/clock.ts";
import { MeshError, messageOf } from "./core/runtime/errors.ts";
import type { Logger } from "./core/runtime/log.ts";
import type { StatusServer } from "./core/runtime/metrics-server.ts";
import { lockStateDir } from "./core/runtime/state-lock.ts";
import { DataPlane } from "./data-plane.ts";
import type { DiscoveryClient } from "./discovery/client.ts";
import { LIMIT_LEASES } from "./discovery/limit-leases.ts";
import { openResourceStore, type ResourceStore } from "./discovery/store.ts";
import type { ClientCredentials } from "./discovery/stream.ts";
import { Enrolment, identityOf } from "./enrolment.ts";
import type { GatewayPlane } from "./gateway-plane.ts";
import { HeldFile } from "./tokens/held-file.ts";
import { OwnUser } from "./tokens/own-user.ts";
import { TokenClient } from "./tokens/token-client.ts";

/** What this build enforces; a table that needs more is refused. */
const FEATURES: readonly string[] = [...SUPPORTED_FEATURES, ...RESOURCE_FEATURES, LIMIT_LEASES];

export interface SidecarDeps {
  readonly log: Logger;
  readonly clock: Clock;
}

/** Ports as bound (a configured 0 is replaced); undefined for Unix sockets and listeners that are off. */
export interface SidecarPorts {
  readonly mesh: number;
  readonly outbound: number | undefined;
  readonly metrics: number | undefined;
  /** In the order of `localServices`. */
  readonly local: readonly (number | undefined)[];
}

export interface SidecarHandle {
  readonly ports: SidecarPorts;
  /** Where a port that the gateway resource declares is bound; undefined: it is not (yet). */
  readonly gatewayPort: (declared: number) => number | undefined;
  /** Resolves with the first table in force; never rejects. */
  readonly ready: Promise<void>;
  /** Resolves after the drain that the signal's abort begins. */
  readonly done: Promise<void>;
}

const VERSION = "0.1.0";
/** Between being told that the identity counts no more and asking for another: many pods are told at once. */
const REJOIN = { firstMs: 1_000, maxMs: 60_000 };
/** A stream that lived this long was good: what is refused later begins with the shortest delay. */
const GOOD_STREAM_MS = 30_000;
/** A root that is about to leave is left within seconds, not by all at once. */
const RETIRING = { leastMs: 500, spreadMs: 10_000 };
const FOREIGN_CA_ADVICE =
  "the new roots come with the file of --trust-bundle-file, then this sidecar joins again by itself";

/**
 * Starts a sidecar; resolves when it has an identity and all listeners are bound. Until then, and until the first table,
 * calls are answered `NOT_READY`.
 *
 * @throws MeshError `bad_config` (no identity and no way to get one, or another workload's), `join_rejected`,
 *   `io_failed` (a port is taken), `not_ready` (the signal aborted before there was an identity).
 */
export async function runSidecar(
  config: SidecarConfig,
  deps: SidecarDeps,
  signal: AbortSignal,
): Promise<SidecarHandle> {
  const sidecar = new Sidecar(config, deps, signal);
  try {
    return await sidecar.start();
  } catch (error) {
    await sidecar.close(0);
    throw error;
  }
}

class Sidecar {
  readonly #config: SidecarConfig;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #signal: AbortSignal;
  /** Ends what runs in the background, after the drain. */
  readonly #stop = new AbortController();
  readonly #plane: DataPlane;
  readonly #servers: StatusServer[] = [];
  readonly #ready = Promise.withResolvers<void>();
  readonly #enrolment: Enrolment;
  #client: DiscoveryClient | undefined;
  /** Aborts when the identity should be replaced before it is due. */
  #early = new AbortController();
  /** The identity counts no more: the next one comes from the bootstrap port, not over the stream. */
  #mustJoin = false;
  /** The last renewal found no stream. */
  #isCutOff = false;
  #store: ResourceStore | undefined;
  #rejoining: Promise<void> = Promise.resolve();
  #rejoins = 0;
  /** Whose root was looked at last. */
  #judged: WorkloadIdentity | undefined;
  /** Thumbprint of the certificate that is being replaced because its root is about to leave. */
  #leaving = "";
  #connectedSinceMs: number | undefined;
  /** With which identity the last stream was begun. */
  #shown: WorkloadIdentity | undefined;
  #unlock: (() => Promise<void>) | undefined;
  #background: Promise<unknown>[] = [];
  #gateway: GatewayPlane | undefined;
  readonly #tokens: TokenClient | undefined;
  readonly #heldFile: HeldFile;
  #gatewayLoading: Promise<void> = Promise.resolve();

  constructor(config: SidecarConfig, deps: SidecarDeps, signal: AbortSignal) {
    this.#config = config;
    this.#clock = deps.clock;
    const { workload, node } = config;
    this.#log = deps.log.child(workload === undefined ? { node } : { workload });
    this.#signal = signal;
    this.#enrolment = new Enrolment({
      config,
      clock: deps.clock,
      random: Math.random,
      log: this.#log,
      held: () => this.#plane.identity,
    });
    const nowMs = this.#meshNowMs;
    this.#tokens =
      config.tokenService === undefined
        ? undefined
        : new TokenClient({
            address: config.tokenService,
            identity: () => this.#plane.identity,
            tlsOptions: (identity, spiffeId) => clientTlsOptions(identity, spiffeId, nowMs, ["http/1.1"]),
            nowMs,
            random: Math.random,
          });
    const ownUser = new OwnUser({
      client: () => this.#tokens,
      isBound: () => this.#plane.actsForUser,
      revocations: () => this.#plane.table?.revocations ?? Revocations.none,
    });
    this.#plane = new DataPlane(config, {
      ownUser,
      log: this.#log,
      clock: deps.clock,
      random: Math.random,
      meshNowMs: this.#meshNowMs,
      resolve: (host, port) =>
        this.#client?.resolve(host, port) ?? Promise.resolve({ kind: "refused", reason: "NOT_READY" }),
      zone: () => this.#client?.zone() ?? "",
    });
    this.#heldFile = new HeldFile({
      stateDir: config.stateDir,
      held: this.#plane.held,
      own: () => this.#tokens?.lookOwn(),
      log: this.#log,
    });
  }

  readonly #meshNowMs = (): number => this.#clock.nowMs() + (this.#client?.clockOffsetMs() ?? 0);

  async start(): Promise<SidecarHandle> {
    const { stateDir } = this.#config;
    this.#unlock = await lockStateDir(stateDir);
    const [kept, store] = await Promise.all([
      loadIdentity(stateDir, this.#clock.nowMs()),
      openResourceStore({ stateDir, features: FEATURES, log: this.#log }),
    ]);
    this.#store = store;
    if (!kept.ok) this.#log.warn("kept identity not used", { reason: kept.error.message });
    const own = this.#heldFile.start(this.#clock.nowMs());
    if (own !== undefined) this.#tokens?.keepOwn(own);
    const ports = await this.#plane.start();
    const metrics = await this.#serveStatus();
    const identity = (kept.ok ? kept.value : undefined) ?? (await this.#join());
    this.#checkWorkload(identity);
    const mesh = await this.#plane.setIdentity(identity);
    this.#useKeptTable(store);
    await this.#discover(store, mesh);
    const done = this.#untilStopped();
    const gatewayPort = (declared: number): number | undefined => this.#gateway?.portOf(declared);
    return { ports: { ...ports, mesh, metrics }, gatewayPort, ready: this.#ready.promise, done };
  }

  #useKeptTable(store: ResourceStore): void {
    if (store.table === undefined) return;
    const used = this.#plane.setTable(store.table);
    if (used.ok) {
      this.#serveGateway(store.table.gateway);
      this.#ready.resolve();
    } else this.#log.warn("last good table not used", { reason: used.error });
  }

  /** What outside callers come in by, where this workload is a gateway. */
  #serveGateway(gateway: Gateway | undefined): void {
    if (gateway === undefined && this.#gateway === undefined) return;
    const plane = this.#plane;
    const adopted = this.#gatewayLoading.then(async () => {
      if (this.#gateway === undefined) {
        const { GatewayPlane } = await import("./gateway-plane.ts");
        const { gateway: settings } = this.#config;
        const shared = { tokens: this.#tokens, clock: this.#clock, log: this.#log };
        this.#gateway = new GatewayPlane({ plane, settings, ...shared });
      }
      await this.#gateway.adopt(gateway);
    });
    this.#gatewayLoading = adopted.catch((error: unknown) =>
      this.#log.error("the gateway cannot serve", { reason: messageOf(error) }),
    );
  }

  #checkWorkload(identity: WorkloadIdentity): void {
    const path = workloadOf(identity.spiffeId);
    const found = `${path?.namespace ?? ""}/${path?.name ?? ""}`;
    const { workload } = this.#config;
    if (workload === undefined || found === workload) return;
    throw new MeshError(
      "bad_config",
      `the identity is of workload \`${found}\`, but --workload is \`${workload}\`; use another --state-dir or join token`,
    );
  }

  async #serveStatus(): Promise<number | undefined> {
    const { metricsListen, adminSocket } = this.#config;
    if (metricsListen === undefined && adminSocket === undefined) return undefined;
    const { startStatusServer } = await import("./core/runtime/metrics-server.ts");
    const state: AdminState = {
      plane: this.#plane,
      config: this.#config,
      meshNowMs: this.#meshNowMs,
      isDraining: () => this.#signal.aborted,
      isConnected: () => this.#client?.connected ?? false,
      gatewayUnready: () =>
        this.#gateway === undefined ? "no MeshGateway is for this workload" : this.#gateway.unready,
    };
    let port: number | undefined;
    if (metricsListen !== undefined) {
      const server = await startStatusServer(metricsListen, healthPages(state));
      this.#servers.push(server);
      port = server.port;
    }
    if (adminSocket !== undefined)
      this.#servers.push(await startStatusServer({ kind: "unix", path: adminSocket }, adminPages(state)));
    return port;
  }

  async #join(): Promise<WorkloadIdentity> {
    const identity = await this.#enrolment.run(this.#signal);
    await saveIdentity(this.#config.stateDir, identity);
    this.#log.info("joined", { spiffeId: identity.spiffeId });
    return identity;
  }

  async #discover(store: ResourceStore, meshPort: number): Promise<void> {
    const { controlPlane } = this.#config;
    const { signal } = this.#stop;
    if (controlPlane === undefined) return;
    const { runDiscoveryClient } = await import("./discovery/client.ts");
    const client = runDiscoveryClient(
      {
        address: controlPlane,
        softwareVersion: VERSION,
        features: FEATURES,
        node: this.#config.node,
        meshPort,
        instance: randomBytes(8).toString("hex"),
      },
      {
        credentials: () => this.#credentials(),
        store,
        clock: this.#clock,
        log: this.#log,
        random: Math.random,
        onTable: (table) => {
          const used = this.#plane.setTable(table);
          if (used.ok) {
            this.#log.info("table accepted", { revision: table.revision, digest: table.digest });
            this.#serveGateway(table.gateway);
            this.#ready.resolve();
            this.#leaveRetiringRoot();
          } else this.#log.error("table refused", { revision: table.revision, reason: used.error });
          return used;
        },
        limits: this.#plane.sharedLimits,
        onConnection: (connected) => {
          this.#connectedSinceMs = connected ? this.#clock.monotonicMs() : undefined;
        },
        onRefused: (code) => {
          // Renewed since: the next stream shows the new certificate.
          if (code === "identity" && this.#shown === this.#plane.identity) this.#rejoin("refused");
        },
        ...(this.#enrolment.isRepeatable ? { foreignCaAdvice: FOREIGN_CA_ADVICE } : {}),
      },
      signal,
    );
    this.#client = client;
    const rotator = runRotator(
      {
        clock: this.#clock,
        random: Math.random,
        log: this.#log,
        current: () => this.#plane.identity,
        early: () => this.#early.signal,
        issue: async (attempt) => {
          // Where there is no stream for longer, or none that takes our word, the pod's own token has to do.
          const isCutOff = this.#isCutOff && !client.connected;
          if (this.#enrolment.isRepeatable && (this.#mustJoin || isCutOff))
            return this.#enrolment.attempt(attempt);
          this.#isCutOff = !client.connected;
          const keys = createKeys();
          const message = await client.requestCertificate(createCertificateRequest(keys), attempt);
          return identityOf(message, keys, this.#clock.nowMs());
        },
        onIdentity: async (identity) => {
          this.#checkWorkload(identity);
          await this.#plane.setIdentity(identity);
          await saveIdentity(this.#config.stateDir, identity);
          this.#early = new AbortController();
          // Of a replica that does not know of the rotation yet: asked again.
          this.#leaveRetiringRoot();
          if (!this.#mustJoin && client.connected) return;
          this.#mustJoin = false;
          client.reconnect();
        },
      },
      signal,
    );
    this.#background = [client.done, rotator];
  }

  async #credentials(): Promise<ClientCredentials> {
    const { identity } = this.#plane;
    if (identity === undefined) throw new MeshError("not_ready", "there is no identity yet");
    // Shown before and not taken: perhaps the authority began anew.
    if (this.#shown === identity && (await this.#enrolment.isDisowned())) this.#rejoin("disowned");
    this.#shown = identity;
    return { ...identity, bundle: { caPem: await this.#enrolment.roots() } };
  }

  /** Has the identity replaced by token, soon; what is in force stays until then. */
  #rejoin(why: "refused" | "disowned"): void {
    if (!this.#enrolment.isRepeatable || this.#mustJoin) return;
    this.#mustJoin = true;
    const nowMs = this.#clock.monotonicMs();
    if (this.#connectedSinceMs !== undefined && nowMs - this.#connectedSinceMs > GOOD_STREAM_MS)
      this.#rejoins = 0;
    const delayMs = backoffMs(this.#rejoins++, REJOIN, Math.random());
    this.#log.info("the identity is not taken any more, joining again", {
      why,
      inMs: Math.round(delayMs),
    });
    const early = this.#early;
    this.#rejoining = this.#clock.sleep(delayMs, this.#stop.signal).then(() => early.abort());
  }

  /** Renews early when the root of the own certificate is about to leave the trust bundle, once per certificate. */
  #leaveRetiringRoot(): void {
    const { identity } = this.#plane;
    // Another object whenever certificate or bundle change; looking at it costs a signature.
    if (identity === undefined || identity === this.#judged) return;
    this.#judged = identity;
    if (!isRetiring(identity) || this.#leaving === identity.leafThumbprint) return;
    this.#leaving = identity.leafThumbprint;
    const early = this.#early;
    const delayMs = RETIRING.leastMs + Math.random() * RETIRING.spreadMs;
    this.#log.info("root is about to leave, renewing", { inMs: Math.round(delayMs) });
    void this.#clock.sleep(delayMs, this.#stop.signal).then(() => early.abort());
  }

  async #untilStopped(): Promise<void> {
    await new Promise<void>((resolve) => {
      if (this.#signal.aborted) resolve();
      else this.#signal.addEventListener("abort", () => resolve(), { once: true });
    });
    this.#log.info("draining", {
      openRequests: this.#plane.inbound.openExchanges + this.#plane.busy,
    });
    await this.close(this.#config.timeouts.drainMs);
    this.#log.info("stopped");
  }

  /** Order: data path drained (it still renews and records), then discovery, then the status pages. */
  async close(drainMs: number): Promise<void> {
    await this.#gatewayLoading;
    await this.#plane.close(drainMs);
    this.#stop.abort();
    await Promise.allSettled([...this.#background, this.#rejoining]);
    // A table that came a moment ago may not be on disk yet, and the next start may find no control plane.
    await this.#store?.flush();
    await this.#heldFile.close();
    this.#tokens?.close();
    await Promise.allSettled(this.#servers.map((server) => server.close()));
    await this.#unlock?.();
  }
}
