// A mesh configured by a cluster: any number of control planes, everything that lasts in Kubernetes objects; one of them
// leads and writes what all share.
import { messageOf } from "../sidecar/core/runtime/errors.ts";
import { runAuditor } from "./admission/auditor.ts";
import { runCaBundles } from "./admission/ca-bundle.ts";
import { createServiceAccountAttestor } from "./attestation/service-account.ts";
import { purgeOneTimeRecords, recordJoinTokens } from "./ca/join-token-records.ts";
import type { JoinTokenStore } from "./ca/join-tokens.ts";
import { openCertificateAuthority } from "./ca/root.ts";
import { SecretAuthorityStore } from "./ca/secret-store.ts";
import type { ClusterConfig } from "./config.ts";
import type { ProxyStatus } from "./discovery/server.ts";
import { runBundleConfigMaps } from "./kubernetes/bundle-config-map.ts";
import { type Kubernetes, loadKubernetes } from "./kubernetes/client.ts";
import { runClusterTrustBundle } from "./kubernetes/cluster-trust-bundle.ts";
import { createKubernetesWriter } from "./kubernetes/writer.ts";
import { runLeaderElection } from "./leader/lease.ts";
import { createStreamAudit } from "./management/audit-log.ts";
import type { ClusterHistory } from "./management/cluster-history.ts";
import { openClusterHistory } from "./management/revision-records.ts";
import { createSecuredManagementServer } from "./management/secured-server.ts";
import { hasMeshedPod, meshedNamespaces } from "./meshed-namespaces.ts";
import type { Closer, Deps, Mode, Parts } from "./mode.ts";
import { createAdmitter } from "./policy/admit.ts";
import { loadBuiltInPacks } from "./policy/packs.ts";
import { openRevocationRecords } from "./revocations/revocation-records.ts";
import { runKubernetesSource } from "./sources/kubernetes/source.ts";
import { loadSchemas } from "./sources/schema.ts";
import { EventRecorder } from "./status/events.ts";
import { runKubernetesStatus } from "./status/kubernetes-status.ts";
import { ReplicaProxies } from "./status/replica-proxies.ts";
import { ReportClient } from "./status/report-client.ts";
import { createReportServer, type ReportServer } from "./status/report-server.ts";
import { createTokenAuditStream } from "./tokens/audit.ts";
import type { LoginRecords } from "./tokens/live-logins.ts";
import { loginRecords } from "./tokens/login-records.ts";
import { type OneTimeUses, recordedUses } from "./tokens/one-time-use.ts";
import { SOFTWARE_VERSION } from "./version.ts";
import { serveWebhooks } from "./webhooks.ts";

const LEASE = "countersign-leader";
const PURGE_MS = 600_000;
const STATUS_CONNECTIONS = 8;

interface Reports {
  readonly server: ReportServer;
  readonly client: ReportClient;
}

const hostPort = (address: string, port: number): string =>
  address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`;

/** @throws MeshError `bad_config` when the cluster cannot be opened. */
export async function openKubernetesMode(config: ClusterConfig, deps: Deps): Promise<Mode> {
  const kubernetes = await loadKubernetes({ kubeconfig: config.kubeconfig, context: config.context });
  return new KubernetesMode(config, kubernetes, deps);
}

class KubernetesMode implements Mode {
  readonly trustDomain: string | undefined;
  readonly statusDir: undefined;
  readonly joinTokens: JoinTokenStore;
  readonly oneTimeUses: OneTimeUses;
  readonly loginRecords: LoginRecords;
  readonly numbersRevisions = true;
  readonly #config: ClusterConfig;
  readonly #kubernetes: Kubernetes;
  readonly #deps: Deps;
  #history: ClusterHistory | undefined;
  #isLeader = false;
  #replicas: ReplicaProxies | undefined;

  constructor(config: ClusterConfig, kubernetes: Kubernetes, deps: Deps) {
    this.#config = config;
    this.#kubernetes = kubernetes;
    this.#deps = deps;
    this.trustDomain = config.trustDomain;
    this.statusDir = undefined;
    this.loginRecords = loginRecords(kubernetes.custom, config.namespace);
    this.oneTimeUses = recordedUses(kubernetes.custom, config.namespace);
    this.joinTokens = recordJoinTokens({ custom: kubernetes.custom, namespace: config.namespace });
  }

  isLeader(): boolean {
    return this.#isLeader;
  }

  allProxies(own: readonly ProxyStatus[]): readonly ProxyStatus[] {
    return this.#isLeader && this.#replicas ? this.#replicas.merge(own) : own;
  }

  readonly runSource: Mode["runSource"] = (onState, signal) =>
    runKubernetesSource(
      {
        rest: this.#kubernetes.rest,
        schemas: loadSchemas(),
        admitter: createAdmitter(loadBuiltInPacks(), { mode: "kubernetes" }),
        clock: this.#deps.clock,
        random: Math.random,
        log: this.#deps.log,
        onState,
      },
      signal,
    );

  readonly openHistory: Mode["openHistory"] = async (onPinned, signal) => {
    const { custom, rest } = this.#kubernetes;
    const { namespace } = this.#config;
    this.#history = await openClusterHistory({ custom, rest, namespace, onPinned, ...this.#deps }, signal);
    return this.#history;
  };

  readonly openRevocations: Mode["openRevocations"] = (list, signal) => {
    const { custom, rest } = this.#kubernetes;
    const { namespace } = this.#config;
    return openRevocationRecords({ custom, rest, namespace, ...this.#deps }, list, signal);
  };

  readonly openAuthority: Mode["openAuthority"] = (trustDomain) =>
    openCertificateAuthority({
      store: new SecretAuthorityStore({ core: this.#kubernetes.core, namespace: this.#config.namespace }),
      ...(this.#config.issuerDir === undefined ? {} : { issuerDir: this.#config.issuerDir }),
      trustDomain,
      clock: this.#deps.clock,
    });

  readonly openTokenAudit: Mode["openTokenAudit"] = async () =>
    createTokenAuditStream((lines) => process.stdout.write(lines));

  readonly attestor: Mode["attestor"] = (trustDomain, state) =>
    createServiceAccountAttestor({
      review: this.#kubernetes.authentication,
      audience: `countersign.dev/${trustDomain}`,
      pod: (uid) => state().pods.get(uid),
      clock: this.#deps.clock,
    });

  async serve(parts: Parts, signal: AbortSignal): Promise<readonly Closer[]> {
    const closers: Closer[] = [];
    const { authorization } = this.#kubernetes;
    closers.push(
      await serveWebhooks({ parts, config: this.#config, authorization, deps: this.#deps }, signal),
      await this.#serveManagement(parts),
    );
    const reports = await this.#serveReports(parts, signal);
    const reporting = reports.client.run(signal);
    const election = this.#elect(parts, reports, signal);
    closers.push(
      () => reports.server.close(),
      () => reporting,
      () => election,
    );
    return closers;
  }

  /** How replicas tell the leader where their sidecars stand. */
  async #serveReports(parts: Parts, signal: AbortSignal): Promise<Reports> {
    const { publisher, ca, credentials, status, config } = parts;
    const { clock, log } = this.#deps;
    const replicas = new ReplicaProxies({
      expectedDigest: (workload) => publisher.cache.table(workload)?.digest,
      revision: () => publisher.revision,
      softwareVersion: SOFTWARE_VERSION,
      clock,
      signal,
      onChanged: () => status.changed(),
    });
    this.#replicas = replicas;
    const server = await createReportServer({
      host: config.listen,
      port: this.#config.reportPort,
      material: credentials.material,
      trustDomain: ca.trustDomain,
      isLeader: () => this.#isLeader,
      proxies: replicas,
      log,
    });
    credentials.onRenewed((material) => server.rotate(material));
    const client = new ReportClient({
      identity: this.#config.replica,
      softwareVersion: SOFTWARE_VERSION,
      trustDomain: ca.trustDomain,
      material: () => credentials.material,
      proxies: () => publisher.proxies(),
      random: Math.random,
      ...this.#deps,
    });
    parts.onProxies(() => client.changed());
    publisher.subscribe(() => client.changed());
    return { server, client };
  }

  async #serveManagement({ config, ca, credentials, metrics, actions }: Parts): Promise<Closer> {
    const { authentication, authorization } = this.#kubernetes;
    const server = await createSecuredManagementServer({
      host: config.listen,
      port: this.#config.managementPort,
      material: credentials.material,
      trustDomain: ca.trustDomain,
      namespace: this.#config.namespace,
      tokens: authentication,
      rights: authorization,
      actions,
      audit: createStreamAudit((line) => process.stdout.write(line)),
      observe: (action, outcome) => metrics.managed(action, outcome),
      ...this.#deps,
    });
    credentials.onRenewed((material) => server.rotate(material));
    return () => server.close();
  }

  #elect(parts: Parts, { server, client }: Reports, signal: AbortSignal): Promise<void> {
    const { namespace, replica, address } = this.#config;
    return runLeaderElection(
      {
        coordination: this.#kubernetes.coordination,
        namespace,
        name: LEASE,
        identity: replica,
        address: address === undefined ? undefined : hostPort(address, server.port),
        random: Math.random,
        onLead: (term) => this.#lead(parts, term).finally(() => server.endAll()),
        onHolder: (holder) => client.follow(holder),
        ...this.#deps,
      },
      signal,
    );
  }

  /** The roots of the mesh in every namespace whose pods need them. */
  #keepBundles({ publisher, ca }: Parts, term: AbortSignal): Promise<void> {
    const { core, apply, rest } = this.#kubernetes;
    const { namespace: own } = this.#config;
    return runBundleConfigMaps(
      {
        ...{ core, apply, rest, random: Math.random, ...this.#deps },
        roots: () => ca.roots.map((root) => root.toString()).join(""),
        namespaces: () => meshedNamespaces(publisher.live, own),
        hasPods: (namespace) => hasMeshedPod(publisher.live, namespace),
        onChanged: (listener) => {
          const ends = [publisher.subscribe(listener), ca.subscribe(listener)];
          return () => {
            for (const end of ends) end();
          };
        },
      },
      term,
    );
  }

  /** The same as a ClusterTrustBundle, where the cluster has them. */
  #keepClusterBundle({ ca }: Parts, term: AbortSignal): Promise<void> {
    const { custom, rest } = this.#kubernetes;
    return runClusterTrustBundle(
      {
        ...{ custom, rest, trustDomain: ca.trustDomain, random: Math.random, ...this.#deps },
        roots: () => ca.roots.map((root) => root.toString()).join(""),
        onChanged: (listener) => ca.subscribe(listener),
      },
      term,
    );
  }

  /** The roots by which the API server knows our webhooks. */
  #keepWebhooksTrusted({ ca }: Parts, term: AbortSignal): Promise<void> {
    const { rest, admission, apply } = this.#kubernetes;
    return runCaBundles(
      { rest, admission, apply, ca, name: "countersign", random: Math.random, ...this.#deps },
      term,
    );
  }

  /** Statuses and events of our objects. */
  async #writeStatus({ status, world, metrics }: Parts, term: AbortSignal): Promise<void> {
    const { kubeConfig, rest } = this.#kubernetes;
    const writer = createKubernetesWriter(kubeConfig, STATUS_CONNECTIONS);
    try {
      await runKubernetesStatus(
        {
          ...{ status, world, writer, rest, identity: this.#config.replica, random: Math.random },
          observe: (result) => metrics.statusWritten(result),
          ...this.#deps,
        },
        term,
      );
    } finally {
      writer.close();
    }
  }

  /** Pods that should be meshed and are not. */
  async #audit({ publisher, metrics }: Parts, term: AbortSignal): Promise<void> {
    const { namespace, replica } = this.#config;
    const writer = createKubernetesWriter(this.#kubernetes.kubeConfig, 1);
    const events = new EventRecorder({ writer, identity: replica, ...this.#deps });
    try {
      await Promise.all([
        events.run(term),
        runAuditor(
          {
            state: () => publisher.live,
            exempt: new Set(["kube-system", namespace]),
            onChanged: (listener) => publisher.subscribe(listener),
            events,
            observe: (missing, optedOut) => metrics.unmeshed(missing, optedOut),
            ...this.#deps,
          },
          term,
        ),
      ]);
    } finally {
      writer.close();
    }
  }

  /** Records that nobody took in time, and revocations of what is not valid any more. */
  async #purgeRecords({ revocations }: Parts, term: AbortSignal): Promise<void> {
    const { clock, log } = this.#deps;
    while (!term.aborted) {
      try {
        await purgeOneTimeRecords(
          { custom: this.#kubernetes.custom, namespace: this.#config.namespace },
          clock.nowMs(),
        );
        await revocations.purge(clock.nowMs());
      } catch (error) {
        log.warn("expired records not deleted", { error: messageOf(error) });
      }
      await clock.sleep(PURGE_MS, term);
    }
  }

  /** What one replica does for all, until the term ends. */
  async #lead(parts: Parts, term: AbortSignal): Promise<void> {
    this.#isLeader = true;
    this.#history?.lead(true);
    try {
      // When one fails the others end too, and are awaited: nobody else leads while any of them still works.
      const ends = new AbortController();
      const until = AbortSignal.any([term, ends.signal]);
      const work = [
        this.#keepBundles(parts, until),
        this.#keepClusterBundle(parts, until),
        this.#keepWebhooksTrusted(parts, until),
        this.#writeStatus(parts, until),
        this.#audit(parts, until),
        this.#purgeRecords(parts, until),
      ].map((one) =>
        one.catch((error: unknown) => {
          ends.abort();
          throw error;
        }),
      );
      const failed = (await Promise.allSettled(work)).find((one) => one.status === "rejected");
      if (failed) throw failed.reason;
    } finally {
      this.#isLeader = false;
      this.#history?.lead(false);
      await this.#history?.flush();
    }
  }
}
