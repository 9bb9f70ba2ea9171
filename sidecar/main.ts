// The sidecar process: puts identity, discovery and the data path together, and ends them in order.
import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { hostname } from "node:os";
import { type AdminState, adminPages, healthPages } from "./admin.ts";
import { loadIdentity, saveIdentity } from "./certs/identity-store.ts";
import { createCertificateRequest, createKeys, type WorkloadKeys } from "./certs/key-and-csr.ts";
import { runRotator } from "./certs/rotator.ts";
import type { SidecarConfig } from "./config.ts";
import { workloadOf } from "./core/identity/spiffe-id.ts";
import { parseTrustBundle } from "./core/identity/trust-bundle.ts";
import { createWorkloadIdentity, type WorkloadIdentity } from "./core/identity/workload-identity.ts";
import { SUPPORTED_FEATURES } from "./core/policy/wire.ts";
import { backoffMs } from "./core/runtime/backoff.ts";
import type { Clock } from "./core/runtime/clock.ts";
import { MeshError, messageOf } from "./core/runtime/errors.ts";
import type { Logger } from "./core/runtime/log.ts";
import type { StatusServer } from "./core/runtime/metrics-server.ts";
import { lockStateDir } from "./core/runtime/state-lock.ts";
import { DataPlane } from "./data-plane.ts";
import type { DiscoveryClient } from "./discovery/client.ts";
import type { IdentityMessage } from "./discovery/identity-message.ts";
import { openResourceStore, type ResourceStore } from "./discovery/store.ts";

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
  /** Resolves with the first table in force; never rejects. */
  readonly ready: Promise<void>;
  /** Resolves after the drain that the signal's abort begins. */
  readonly done: Promise<void>;
}

const VERSION = "0.1.0";
const JOIN_BACKOFF = { firstMs: 200, maxMs: 5_000 };
const JOIN_TIMEOUT_MS = 10_000;

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
  #client: DiscoveryClient | undefined;
  #unlock: (() => Promise<void>) | undefined;
  #background: Promise<unknown>[] = [];

  constructor(config: SidecarConfig, deps: SidecarDeps, signal: AbortSignal) {
    this.#config = config;
    this.#clock = deps.clock;
    this.#log = deps.log.child({ workload: config.workload });
    this.#signal = signal;
    this.#plane = new DataPlane(config, {
      log: this.#log,
      clock: deps.clock,
      random: Math.random,
      meshNowMs: this.#meshNowMs,
      resolve: (host, port) =>
        this.#client?.resolve(host, port) ?? Promise.resolve({ kind: "refused", reason: "NOT_READY" }),
    });
  }

  readonly #meshNowMs = (): number => this.#clock.nowMs() + (this.#client?.clockOffsetMs() ?? 0);

  async start(): Promise<SidecarHandle> {
    const { stateDir } = this.#config;
    this.#unlock = await lockStateDir(stateDir);
    const [kept, store] = await Promise.all([
      loadIdentity(stateDir, this.#clock.nowMs()),
      openResourceStore({ stateDir, features: SUPPORTED_FEATURES, log: this.#log }),
    ]);
    if (!kept.ok) this.#log.warn("kept identity not used", { reason: kept.error.message });
    const ports = await this.#plane.start();
    const metrics = await this.#serveStatus();
    const identity = (kept.ok ? kept.value : undefined) ?? (await this.#join());
    this.#checkWorkload(identity);
    const mesh = await this.#plane.setIdentity(identity);
    this.#useKeptTable(store);
    await this.#discover(store, mesh);
    const done = this.#untilStopped();
    return { ports: { ...ports, mesh, metrics }, ready: this.#ready.promise, done };
  }

  #useKeptTable(store: ResourceStore): void {
    if (store.table === undefined) return;
    const used = this.#plane.setTable(store.table);
    if (used.ok) this.#ready.resolve();
    else this.#log.warn("last good table not used", { reason: used.error });
  }

  #checkWorkload(identity: WorkloadIdentity): void {
    const path = workloadOf(identity.spiffeId);
    const found = `${path?.namespace ?? ""}/${path?.name ?? ""}`;
    if (found === this.#config.workload) return;
    throw new MeshError(
      "bad_config",
      `the identity is of workload \`${found}\`, but --workload is \`${this.#config.workload}\`; use another --state-dir or join token`,
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

  /** The first identity, by join token; tries until it has one, is refused, or the process is to end. */
  async #join(): Promise<WorkloadIdentity> {
    const { bootstrap, joinTokenFile } = this.#config;
    if (bootstrap === undefined || joinTokenFile === undefined) {
      throw new MeshError(
        "bad_config",
        "there is no identity in --state-dir; give --bootstrap and --join-token-file to get one",
      );
    }
    const joinToken = await readToken(joinTokenFile);
    const { join } = await import("./discovery/bootstrap.ts");
    for (let attempt = 0; !this.#signal.aborted; attempt++) {
      const keys = createKeys();
      try {
        const message = await join(
          {
            address: bootstrap,
            joinToken,
            request: createCertificateRequest(keys),
            timeoutMs: JOIN_TIMEOUT_MS,
          },
          this.#signal,
        );
        const identity = this.#identityOf(message, keys);
        await saveIdentity(this.#config.stateDir, identity);
        this.#log.info("joined", { spiffeId: identity.spiffeId });
        return identity;
      } catch (error) {
        const again = error instanceof MeshError && (error.code === "io_failed" || error.code === "timeout");
        if (!again) throw error;
        const delayMs = backoffMs(attempt, JOIN_BACKOFF, Math.random());
        this.#log.warn("cannot join yet", { reason: messageOf(error), retryInMs: Math.round(delayMs) });
        await this.#clock.sleep(delayMs, this.#signal);
      }
    }
    throw new MeshError("not_ready", "ended before there was an identity");
  }

  #identityOf(message: IdentityMessage, keys: WorkloadKeys): WorkloadIdentity {
    const bundle = parseTrustBundle(message.trustBundle);
    if (!bundle.ok) throw new MeshError("bad_token", `the identity cannot be used: ${bundle.error}`);
    const identity = createWorkloadIdentity({
      chainDer: message.certificateChainDer,
      ...keys,
      wit: message.workloadIdentityToken,
      bundle: bundle.value,
      nowMs: message.serverTimeMs > 0 ? message.serverTimeMs : this.#clock.nowMs(),
    });
    if (!identity.ok) throw new MeshError("bad_token", `the identity cannot be used: ${identity.error}`);
    return identity.value;
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
        features: SUPPORTED_FEATURES,
        node: hostname(),
        meshPort,
        instance: randomBytes(8).toString("hex"),
      },
      {
        credentials: () => this.#heldIdentity(),
        store,
        clock: this.#clock,
        log: this.#log,
        random: Math.random,
        onTable: (table) => {
          const used = this.#plane.setTable(table);
          if (used.ok) {
            this.#log.info("table accepted", { revision: table.revision, digest: table.digest });
            this.#ready.resolve();
          } else this.#log.error("table refused", { revision: table.revision, reason: used.error });
          return used;
        },
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
        issue: async (attempt) => {
          const keys = createKeys();
          return this.#identityOf(
            await client.requestCertificate(createCertificateRequest(keys), attempt),
            keys,
          );
        },
        onIdentity: async (identity) => {
          this.#checkWorkload(identity);
          await this.#plane.setIdentity(identity);
          await saveIdentity(this.#config.stateDir, identity);
        },
      },
      signal,
    );
    this.#background = [client.done, rotator];
  }

  #heldIdentity(): WorkloadIdentity {
    const { identity } = this.#plane;
    if (identity === undefined) throw new MeshError("not_ready", "there is no identity yet");
    return identity;
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
    await this.#plane.close(drainMs);
    this.#stop.abort();
    await Promise.allSettled(this.#background);
    await Promise.allSettled(this.#servers.map((server) => server.close()));
    await this.#unlock?.();
  }
}

async function readToken(file: string): Promise<string> {
  try {
    return (await readFile(file, "utf8")).trim();
  } catch (error) {
    throw new MeshError("bad_config", `--join-token-file: cannot read \`${file}\`: ${messageOf(error)}`, {
      cause: error,
    });
  }
}
