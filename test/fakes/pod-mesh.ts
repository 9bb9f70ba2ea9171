// The control plane as a pod's sidecar meets it: a real authority, bootstrap and discovery ports, with a made-up API
// server behind them and a cluster state that tests set.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type AttestorDeps,
  createServiceAccountAttestor,
} from "../../control-plane/attestation/service-account.ts";
import { fileJoinTokens } from "../../control-plane/ca/join-token-files.ts";
import { trustBundleJson } from "../../control-plane/ca/jwks.ts";
import { type CertificateAuthority, openCertificateAuthority } from "../../control-plane/ca/root.ts";
import { createServerIdentity } from "../../control-plane/ca/server-identity.ts";
import { type BootstrapServer, createBootstrapServer } from "../../control-plane/discovery/bootstrap.ts";
import { LiveCredentials } from "../../control-plane/discovery/credentials.ts";
import { createDiscoveryServer, type DiscoveryServer } from "../../control-plane/discovery/server.ts";
import { createIssuer } from "../../control-plane/issuer.ts";
import { compile } from "../../control-plane/policy/compile.ts";
import { loadBuiltInPacks } from "../../control-plane/policy/packs.ts";
import { ResourceCache } from "../../control-plane/resources/cache.ts";
import { workloadOfSvid } from "../../control-plane/resources/workload-of-svid.ts";
import { RevocationList } from "../../control-plane/revocations/store.ts";
import type { ClusterState, MeshPod, Workload } from "../../control-plane/sources/store.ts";
import { systemClock } from "../../sidecar/core/runtime/clock.ts";
import { silentLogger } from "../../sidecar/core/runtime/log.ts";
import type { ServerMaterial } from "../../sidecar/core/runtime/server-tls.ts";
import { CONFIG, clusterState, workload } from "./resources.ts";
import { FakeTokenReviews, podReview } from "./token-reviews.ts";

export const TRUST_DOMAIN = "test.example";
export const AUDIENCE = `countersign.dev/${TRUST_DOMAIN}`;
/** Looks like a token, and says which pod's it is. */
export const tokenOf = (uid: string): string => `head.${uid}.signature`;

export interface PodMeshOptions {
  /** Lifetime of identities. */
  readonly ttlMs?: number;
  /** A real API server in place of the made-up one. */
  readonly review?: AttestorDeps["review"];
  /** Address to listen on. */
  readonly host?: string;
}

export class PodMesh {
  readonly dir = mkdtempSync(join(tmpdir(), "cs-pod-"));
  readonly reviews = new FakeTokenReviews();
  readonly bundleFile = join(this.dir, "roots.pem");
  readonly tokenFile = join(this.dir, "token");
  ca!: CertificateAuthority;
  state: ClusterState;
  ports = { bootstrap: 0, discovery: 0 };
  readonly #cache = new ResourceCache();
  readonly #packs = loadBuiltInPacks();
  #bootstrap: BootstrapServer | undefined;
  #discovery: DiscoveryServer | undefined;
  readonly #review: AttestorDeps["review"];
  readonly #host: string;

  constructor({ ttlMs = 3_600_000, review, host = "127.0.0.1" }: PodMeshOptions = {}) {
    this.#review = review ?? this.reviews.api;
    this.#host = host;
    this.state = clusterState([], { config: { ...CONFIG, svidTtlMs: ttlMs } });
  }

  /** Puts a pod of a workload into the state, and its token into `tokenFile`. */
  setPod(uid: string, kind: Workload["kind"], name: string): MeshPod {
    const key = `lab/runner/${kind}/${name}`;
    const one = workload(name, "lab", { kind, serviceAccount: "runner", service: undefined, ports: [] });
    const pod: MeshPod = {
      uid,
      namespace: "lab",
      name: `${name}-0`,
      serviceAccount: "runner",
      node: "node-1",
      addresses: ["127.0.0.1"],
      ready: true,
      injected: true,
      workload: key,
    };
    this.reviews.statuses.set(tokenOf(uid), podReview(pod, AUDIENCE));
    writeFileSync(this.tokenFile, `${tokenOf(uid)}\n`);
    this.setState({ workloads: new Map([[key, one]]), pods: new Map([[uid, pod]]) });
    return pod;
  }

  setState(change: Partial<ClusterState>): void {
    this.state = { ...this.state, ...change, revision: this.state.revision + 1 };
    this.#publish();
  }

  /** What is revoked; `replace` it. */
  readonly revoked = new RevocationList(() => {
    this.#publish();
    this.#discovery?.revocationsChanged();
  }, Date.now);

  #publish(): void {
    if (this.ca === undefined) return;
    const { changed } = this.#cache.update({
      compiled: compile(this.state, this.#packs),
      packs: this.#packs,
      trustBundle: trustBundleJson(this.ca),
      revocations: this.revoked.all,
      cluster: "test",
    });
    this.#discovery?.changed(changed);
  }

  get roots(): string {
    return this.ca.roots.map((root) => root.toString()).join("");
  }

  writeBundle(): void {
    writeFileSync(this.bundleFile, this.roots);
  }

  /** Begins with the authority in `stateDir`, or makes one there. */
  async start(authority = "ca"): Promise<void> {
    const stateDir = join(this.dir, authority);
    this.ca = await openCertificateAuthority({ stateDir, trustDomain: TRUST_DOMAIN, clock: systemClock });
    this.#publish();
    const identity = createServerIdentity(this.ca, Date.now());
    const material: ServerMaterial = { ...identity, rootsPem: identity.caPem };
    const issuer = createIssuer({
      ca: this.ca,
      joinTokens: fileJoinTokens(stateDir),
      cluster: "test",
      clock: systemClock,
      state: () => this.state,
      metrics: { joined: () => {}, issued: () => {} },
      attest: createServiceAccountAttestor({
        review: this.#review,
        audience: AUDIENCE,
        pod: (uid) => this.state.pods.get(uid),
        clock: systemClock,
      }),
      takesJoinTokens: () => false,
    });
    const shared = { host: this.#host, clock: systemClock, log: silentLogger };
    this.#bootstrap = await createBootstrapServer({
      ...shared,
      port: this.ports.bootstrap,
      credentials: new LiveCredentials(material, false),
      join: issuer.join,
    });
    this.#discovery = await createDiscoveryServer({
      ...shared,
      port: this.ports.discovery,
      credentials: new LiveCredentials(material, true),
      trustDomain: TRUST_DOMAIN,
      softwareVersion: "0",
      // Three missed ones end a stream: far more than a busy machine ever keeps a process waiting.
      heartbeatMs: 10_000,
      tables: {
        revision: () => this.state.revision,
        isCurrent: () => true,
        replicas: () => 0,
        table: (key) => this.#cache.table(key),
        tableByDigest: (key, digest) => this.#cache.tableByDigest(key, digest),
        isRevoked: (svid) => this.revoked.covers(svid),
        workloadOf: (svid) => workloadOfSvid(this.state, TRUST_DOMAIN, svid),
        resolve: () => ({ reason: "NO_SUCH_SERVICE" }),
      },
      issue: issuer.renew,
      onProxy: () => {},
    });
    this.ports = { bootstrap: this.#bootstrap.port, discovery: this.#discovery.port };
  }

  /** The streams that are open, by pod UID. */
  get connected(): readonly { readonly pod: string; readonly workload: string; readonly node: string }[] {
    return (this.#discovery?.proxies() ?? []).filter(({ state }) => state !== "disconnected");
  }

  /** Ends both ports; `start` opens the same ones. */
  async stop(): Promise<void> {
    await this.#bootstrap?.close(0);
    await this.#discovery?.close(0);
  }

  async close(): Promise<void> {
    await this.stop();
    rmSync(this.dir, { recursive: true, force: true });
  }
}
