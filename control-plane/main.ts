// The control-plane process: source -> compile -> resources -> discovery, with its certificate
// authority, status, history and management API. Start-up and shutdown order are written here and nowhere else.
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { messageOf } from "../sidecar/core/runtime/errors.ts";
import type { Logger } from "../sidecar/core/runtime/log.ts";
import { lockStateDir } from "../sidecar/core/runtime/state-lock.ts";
import { writePrivateFile } from "./ca/files.ts";
import { runAuthorityMaintenance } from "./ca/maintenance.ts";
import { RootRotation, runRootRotation, seenSidecars } from "./ca/root-rotation.ts";
import { type ControlPlaneConfig, type ControlPlanePorts, managementSocketPath } from "./config.ts";
import { openDirectoryMode } from "./directory-mode.ts";
import { createBootstrapServer } from "./discovery/bootstrap.ts";
import { createReplicaCount } from "./discovery/replica-count.ts";
import { createDiscoveryServer } from "./discovery/server.ts";
import { createIssuer } from "./issuer.ts";
import { openKubernetesMode } from "./kubernetes-mode.ts";
import type { ManagementActions } from "./management/routes.ts";
import { createManagementServer } from "./management/server.ts";
import { createMetrics, createMetricsServer } from "./metrics.ts";
import type { Deps } from "./mode.ts";
import { isDeclared } from "./policy/declared-services.ts";
import { loadBuiltInPacks } from "./policy/packs.ts";
import { Publisher } from "./publisher.ts";
import { resolveDestination } from "./resources/resolve.ts";
import { workloadOfSvid } from "./resources/workload-of-svid.ts";
import { createRevocation, subjectOf } from "./revocations/revocation.ts";
import { RevocationList } from "./revocations/store.ts";
import { startServerCredentials } from "./server-credentials.ts";
import { meshStatus, runStatusWriter, type StatusWorld } from "./status/writer.ts";
import { openTokenPort } from "./token-port.ts";
import { ChangeActors } from "./tokens/change-actors.ts";
import { SOFTWARE_VERSION } from "./version.ts";

/** Streams get this long to end by themselves at shutdown. */
const GRACE_MS = 1_000;

export interface ControlPlaneHandle {
  readonly ports: ControlPlanePorts;
  readonly managementSocket: string;
  /** Resolves when everything is closed after the signal aborted; rejects when a part failed for good. */
  readonly done: Promise<void>;
}

/** Things to undo, in reverse order; each is undone even when another fails. */
class Closers {
  readonly #steps: (() => Promise<unknown>)[] = [];
  readonly #log: Logger;

  constructor(log: Logger) {
    this.#log = log;
  }

  add(step: () => Promise<unknown>): void {
    this.#steps.push(step);
  }

  async close(): Promise<void> {
    for (const step of this.#steps.splice(0).reverse()) {
      try {
        await step();
      } catch (error) {
        this.#log.warn("shutdown step failed", { error: messageOf(error) });
      }
    }
  }
}

/**
 * Starts the control plane and returns once it serves.
 *
 * @throws MeshError `bad_config` (directory missing or unusable, state directory in use by another process, port taken).
 */
export async function runControlPlane(
  config: ControlPlaneConfig,
  deps: Deps,
  signal: AbortSignal,
): Promise<ControlPlaneHandle> {
  const closers = new Closers(deps.log);
  const stop = new AbortController();
  try {
    return await start(config, deps, { signal, stop, closers });
  } catch (error) {
    stop.abort();
    await closers.close();
    throw error;
  }
}

interface Lifetime {
  /** From outside: end. */
  readonly signal: AbortSignal;
  /** What the parts listen to. */
  readonly stop: AbortController;
  readonly closers: Closers;
}

async function start(config: ControlPlaneConfig, deps: Deps, life: Lifetime): Promise<ControlPlaneHandle> {
  const { log, clock } = deps;
  const { signal, stop, closers } = life;
  const { stateDir } = config;
  const mode =
    "configDir" in config.source
      ? await openDirectoryMode({ configDir: config.source.configDir, stateDir }, deps)
      : await openKubernetesMode(config.source.cluster, deps);
  closers.add(await lockStateDir(stateDir));
  const failed = Promise.withResolvers<never>();
  failed.promise.catch(() => {});

  const history = await mode.openHistory(() => void publisher.follow().catch(followFailed), stop.signal);
  closers.add(() => history.flush());
  const revoked = new RevocationList(() => {
    publisher.revocationsChanged();
    revokeStreams();
  }, clock.nowMs);
  const packs = loadBuiltInPacks();
  const publisher = new Publisher({
    history,
    numberedBySource: mode.numbersRevisions,
    packs,
    cluster: config.cluster,
    revocations: () => revoked.published,
    clock,
    log,
  });
  let revokeStreams = (): void => {};

  function followFailed(error: unknown): void {
    log.error("a rollback by another replica could not be followed", { error: messageOf(error) });
  }

  // The source runs first: the trust domain stands in the configuration.
  const source = mode.runSource((state, report) => publisher.take(state, report), stop.signal);
  source.done.catch((error: unknown) => failed.reject(error));
  closers.add(() => source.done);
  const configured = await Promise.race([publisher.firstState, failed.promise]);
  const ca = await mode.openAuthority(mode.trustDomain ?? configured);
  // Before anything is served: what was revoked stays so.
  const revocations = await mode.openRevocations(revoked, stop.signal);
  await publisher.begin(ca);

  const metrics = createMetrics({
    isLeader: () => mode.isLeader(),
    proxies: () => publisher.proxies(),
    revision: () => publisher.revision,
    pinned: () => history.pinned,
    objects: () => publisher.counts(),
    authority: () => ca,
  });
  closers.add(async () => metrics.close());
  publisher.onPushed = (seconds) => metrics.pushed(seconds);
  publisher.onCompiled = (seconds) => metrics.compiled(seconds);

  const maintenance = runAuthorityMaintenance(
    { ca, clock, log, onBundle: () => publisher.bundleChanged(), isLeader: () => mode.isLeader() },
    stop.signal,
  );
  maintenance.catch((error: unknown) => failed.reject(error));
  closers.add(() => maintenance);
  const tls = await startServerCredentials(ca, deps, stop.signal);
  tls.done.catch((error: unknown) => failed.reject(error));
  const attest = mode.attestor(ca.trustDomain, () => publisher.state);
  const issuer = createIssuer({
    ...(attest === undefined
      ? {}
      : { attest, takesJoinTokens: () => [...publisher.state.workloads.keys()].some(isDeclared) }),
    ca,
    joinTokens: mode.joinTokens,
    cluster: config.cluster,
    clock,
    state: () => publisher.state,
    metrics,
  });
  const { compiled, cache } = publisher;
  const actors = new ChangeActors();

  const statusWorld: StatusWorld = {
    compiled: () => publisher.compiledNow,
    proxies: () => mode.allProxies(publisher.proxies()),
    refused: () => publisher.refused(),
    generationOf: (object) => publisher.generationOf(object),
    standIns: () => publisher.standIns(),
    problems: () => publisher.problems(),
    revision: () => publisher.revision,
    pinned: () => history.pinned,
  };
  const status = runStatusWriter({ stateDir: mode.statusDir, world: statusWorld, clock, log }, stop.signal);
  closers.add(() => status.done);
  publisher.onPublished = () => status.changed();

  const proxyListeners: (() => void)[] = [];
  const discovery = await createDiscoveryServer({
    host: config.listen,
    port: config.ports.discovery,
    credentials: tls.discovery,
    trustDomain: ca.trustDomain,
    softwareVersion: SOFTWARE_VERSION,
    heartbeatMs: config.heartbeatMs,
    tables: {
      revision: () => publisher.revision,
      isCurrent: (ms) => source.isCurrent(ms),
      table: (workload) => cache.table(workload),
      tableByDigest: (workload, digest) => cache.tableByDigest(workload, digest),
      isRevoked: (svid) => revoked.covers(svid),
      workloadOf: (svid) => workloadOfSvid(publisher.state, ca.trustDomain, svid),
      replicas: createReplicaCount(() => publisher.state),
      resolve: (workload, host, port) => resolveDestination(compiled(), cache, workload, host, port),
    },
    issue: issuer.renew,
    clock,
    log,
    onProxy: (workload, event) => {
      if (event === "refused") metrics.nack();
      publisher.proxyEvent(workload, event);
      status.changed();
      for (const listener of proxyListeners) listener();
    },
  });
  closers.add(() => discovery.close(GRACE_MS));
  publisher.attach(discovery);
  revokeStreams = () => discovery.revocationsChanged();
  const bootstrap = await createBootstrapServer({
    host: config.listen,
    port: config.ports.bootstrap,
    credentials: tls.bootstrap,
    join: issuer.join,
    clock,
    log,
  });
  closers.add(() => bootstrap.close(GRACE_MS));
  const tokenServer = await openTokenPort(
    {
      ...{ config, mode, ca, revoked, revocations, metrics },
      credentials: tls,
      ...{ packs, compiled, actors },
      state: () => publisher.state,
      onState: (listener) => void publisher.subscribe(listener),
    },
    deps,
  );
  closers.add(() => tokenServer.close());
  const metricsServer = await createMetricsServer(
    config.metricsListen,
    config.ports.metrics,
    metrics.registry,
    () => !stop.signal.aborted,
  );
  closers.add(() => metricsServer.close());

  const rotation = new RootRotation({
    ca,
    sidecars: () => seenSidecars(statusWorld.proxies(), mode.isLeader() ? publisher.state.pods.values() : []),
    isLeader: () => mode.isLeader(),
    heartbeatMs: config.heartbeatMs,
    clock,
    log,
  });
  const rotating = runRootRotation(rotation, { ca, clock, log }, stop.signal);
  rotating.catch((error: unknown) => failed.reject(error));
  closers.add(() => rotating);

  const actions: ManagementActions = {
    status: () => meshStatus(statusWorld),
    policies: () => ({ policies: status.policies() }),
    history: () => ({
      pinned: history.pinned ?? null,
      revision: publisher.revision,
      revisions: history.list(),
    }),
    diff: async (from, to) => ({ from, to, objects: await history.diff(from, to) }),
    state: () => ({ pinned: history.pinned ?? null, ...publisher.state }),
    rollback: (revision) => publisher.rollback(revision),
    release: () => publisher.release(),
    revocations: () => ({ revocations: revocations.list() }),
    revoke: async (request) => {
      const revocation = createRevocation(request, publisher.live, ca.trustDomain, clock.nowMs());
      await revocations.add(revocation);
      log.warn("revoked", { subject: subjectOf(revocation), reason: revocation.reason });
      return revocation;
    },
    createJoinToken: issuer.createToken,
    exportIdentity: issuer.exportIdentity,
    caStatus: () => rotation.status(),
    caRotate: () => rotation.start(),
    caAbort: () => rotation.abort(),
    caForce: () => rotation.force(),
  };
  const managementSocket = managementSocketPath(stateDir);
  const management = await createManagementServer({
    stateDir,
    socketPath: managementSocket,
    clock,
    log,
    actions,
  });
  closers.add(() => management.close());
  for (const closer of await mode.serve(
    {
      ...{
        config,
        publisher,
        history,
        ca,
        credentials: tls,
        metrics,
        actions,
        status,
        world: statusWorld,
        actors,
        revocations,
      },
      onProxies: (listener) => void proxyListeners.push(listener),
    },
    stop.signal,
  ))
    closers.add(closer);

  const ports: ControlPlanePorts = {
    bootstrap: bootstrap.port,
    discovery: discovery.port,
    tokens: tokenServer.port,
    metrics: metricsServer.port ?? 0,
  };
  const portsFile = join(stateDir, "ports.json");
  await writePrivateFile(portsFile, `${JSON.stringify({ ...ports, pid: process.pid, managementSocket })}\n`);
  closers.add(() => rm(portsFile, { force: true }));
  log.info("control plane serves", {
    ...ports,
    revision: publisher.revision,
    trustDomain: ca.trustDomain,
    pinned: history.pinned ?? null,
  });
  return { ports, managementSocket, done: finish(signal, stop, failed.promise, closers) };
}

/** Waits for the end and closes everything: the API first, then streams, then what writes to disk, the lock last. */
async function finish(
  signal: AbortSignal,
  stop: AbortController,
  failed: Promise<never>,
  closers: Closers,
): Promise<void> {
  let problem: unknown;
  const aborted = new Promise<void>((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
  try {
    await Promise.race([aborted, failed]);
  } catch (error) {
    problem = error;
  }
  stop.abort();
  await closers.close();
  if (problem !== undefined) throw problem;
}
