// A real control plane on loopback with a directory of its own, and discovery clients that join it: what integration
// tests of the discovery path need.

import { randomBytes } from "node:crypto";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join as joinPath } from "node:path";
import { parseControlPlaneConfig } from "../../control-plane/config.ts";
import { type ControlPlaneHandle, runControlPlane } from "../../control-plane/main.ts";
import { RESOURCE_FEATURES } from "../../proto/protocol.ts";
import { createCertificateRequest, createKeys } from "../../sidecar/certs/key-and-csr.ts";
import { parseTrustBundle } from "../../sidecar/core/identity/trust-bundle.ts";
import {
  createWorkloadIdentity,
  type WorkloadIdentity,
} from "../../sidecar/core/identity/workload-identity.ts";
import { SUPPORTED_FEATURES } from "../../sidecar/core/policy/wire.ts";
import { systemClock } from "../../sidecar/core/runtime/clock.ts";
import type { Result } from "../../sidecar/core/runtime/errors.ts";
import { type Logger, silentLogger } from "../../sidecar/core/runtime/log.ts";
import { join } from "../../sidecar/discovery/bootstrap.ts";
import { type DiscoveryClient, runDiscoveryClient } from "../../sidecar/discovery/client.ts";
import { openResourceStore, type ResourceStore } from "../../sidecar/discovery/store.ts";
import type { SidecarTable } from "../../sidecar/discovery/table.ts";
import { freePorts } from "../demo/process.ts";

export const MESH_YAML = `
apiVersion: countersign.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec: {trustDomain: test.example}
---
apiVersion: countersign.dev/v1alpha1
kind: Workload
metadata: {name: notebook, namespace: lab}
spec: {kind: notebook, serviceAccount: notebook, addresses: [127.0.0.1], meshPort: 17001}
---
apiVersion: countersign.dev/v1alpha1
kind: Workload
metadata: {name: scorer, namespace: serving}
spec: {kind: serving, serviceAccount: scorer, addresses: [127.0.0.1], meshPort: 17002, service: scorer, ports: [{port: 8080, protocol: http, packs: [mlflow-scoring]}]}
---
apiVersion: countersign.dev/v1alpha1
kind: Workload
metadata: {name: tracking, namespace: serving}
spec: {kind: service, serviceAccount: tracking, addresses: [127.0.0.1], meshPort: 17003, service: tracking, ports: [{port: 5000, protocol: http, packs: [mlflow]}]}
`;

/** An Allow policy on one serving workload for one caller kind. */
export function policyYaml(name: string, target: string, kind: string, op = "serving.invoke"): string {
  return `
apiVersion: countersign.dev/v1alpha1
kind: AccessPolicy
metadata: {name: ${name}, namespace: serving}
spec:
  action: Allow
  targets: [{names: [${target}]}]
  rules: [{name: only, from: [{workload: {kinds: [${kind}]}}], operations: [{op: ${op}}]}]
`;
}

/** As flags: ports that nobody else is given while the control plane is away. */
async function keptPorts(): Promise<string[]> {
  const ports = await freePorts(4);
  const names = ["--bootstrap-port", "--discovery-port", "--token-port", "--metrics-port"];
  return names.flatMap((name, at) => [name, String(ports[at])]);
}

/** A control plane and its directories; `close` removes them. */
export class TestMesh {
  readonly dir: string;
  readonly configDir: string;
  readonly stateDir: string;
  handle!: ControlPlaneHandle;
  #stop = new AbortController();
  readonly #clients: TestSidecar[] = [];
  readonly #log: Logger;

  constructor(log: Logger = silentLogger) {
    this.#log = log;
    this.dir = mkdtempSync(joinPath(tmpdir(), "cs-mesh-"));
    this.configDir = joinPath(this.dir, "config");
    this.stateDir = joinPath(this.dir, "state");
    mkdirSync(this.configDir);
  }

  write(file: string, text: string): void {
    writeFileSync(joinPath(this.configDir, file), text);
  }

  remove(file: string): void {
    rmSync(joinPath(this.configDir, file));
  }

  async start(extra: readonly string[] = []): Promise<void> {
    const args = [
      "--config-dir",
      this.configDir,
      "--state-dir",
      this.stateDir,
      "--port-base",
      "0",
      "--heartbeat-ms",
      "200",
      ...(extra.includes("--discovery-port") ? [] : await keptPorts()),
      ...extra,
    ];
    const config = parseControlPlaneConfig(args);
    if (!config.ok) throw new Error(config.error);
    this.#stop = new AbortController();
    this.handle = await runControlPlane(
      config.value,
      { log: this.#log, clock: systemClock },
      this.#stop.signal,
    );
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.handle.done;
  }

  /** Ports as flags, to start again where sidecars expect it. */
  samePorts(): string[] {
    const { bootstrap, discovery, tokens, metrics } = this.handle.ports;
    return [
      "--bootstrap-port",
      String(bootstrap),
      "--discovery-port",
      String(discovery),
      "--token-port",
      String(tokens),
      "--metrics-port",
      String(metrics),
    ];
  }

  async api(
    method: "GET" | "POST",
    path: string,
    body?: object,
  ): Promise<{ status: number; body: Record<string, unknown> }> {
    return new Promise((resolve, reject) => {
      const call = request({ socketPath: this.handle.managementSocket, method, path }, (response) => {
        const chunks: Buffer[] = [];
        response.on("data", (chunk: Buffer) => chunks.push(chunk));
        response.on("end", () =>
          resolve({ status: response.statusCode ?? 0, body: JSON.parse(Buffer.concat(chunks).toString()) }),
        );
      });
      call.on("error", reject);
      call.end(body ? JSON.stringify(body) : undefined);
    });
  }

  async identity(workload: string): Promise<WorkloadIdentity> {
    const token = (await this.api("POST", "/v1/join-tokens", { workload, ttlSeconds: 600 })).body["token"];
    const keys = createKeys();
    const answer = await join({
      address: `127.0.0.1:${this.handle.ports.bootstrap}`,
      proof: { kind: "join-token", token: String(token) },
      request: createCertificateRequest(keys),
      timeoutMs: 60_000,
    });
    const bundle = parseTrustBundle(answer.trustBundle);
    if (!bundle.ok) throw new Error(bundle.error);
    const identity = createWorkloadIdentity({
      chainDer: answer.certificateChainDer,
      ...keys,
      wit: answer.workloadIdentityToken,
      bundle: bundle.value,
      nowMs: Date.now(),
    });
    if (!identity.ok) throw new Error(identity.error);
    return identity.value;
  }

  async sidecar(workload: string, options: SidecarOptions = {}): Promise<TestSidecar> {
    const identity = options.identity ?? (await this.identity(workload));
    const sidecar = await TestSidecar.create(identity, `127.0.0.1:${this.handle.ports.discovery}`, options);
    this.#clients.push(sidecar);
    return sidecar;
  }

  async close(): Promise<void> {
    for (const client of this.#clients) await client.stop();
    this.#stop.abort();
    await this.handle?.done.catch(() => {});
    chmodSync(this.dir, 0o700);
    rmSync(this.dir, { recursive: true, force: true });
  }
}

export interface SidecarOptions {
  readonly identity?: WorkloadIdentity;
  readonly stateDir?: string;
  readonly log?: Logger;
  readonly features?: readonly string[];
  readonly onTable?: (table: SidecarTable) => Result<void, string>;
}

/** A discovery client that remembers its tables. */
export class TestSidecar {
  readonly tables: SidecarTable[] = [];
  readonly identity: WorkloadIdentity;
  readonly store: ResourceStore;
  client!: DiscoveryClient;
  onTable: (table: SidecarTable) => Result<void, string>;
  readonly #stop = new AbortController();
  readonly #waiting = new Set<() => void>();

  constructor(identity: WorkloadIdentity, store: ResourceStore, options: SidecarOptions) {
    this.identity = identity;
    this.store = store;
    this.onTable = options.onTable ?? (() => ({ ok: true, value: undefined }));
  }

  static async create(
    identity: WorkloadIdentity,
    address: string,
    options: SidecarOptions,
  ): Promise<TestSidecar> {
    const log = options.log ?? silentLogger;
    const features = options.features ?? [...SUPPORTED_FEATURES, ...RESOURCE_FEATURES];
    const store = await openResourceStore({ stateDir: options.stateDir, features, log });
    const sidecar = new TestSidecar(identity, store, options);
    const config = {
      address,
      softwareVersion: "test",
      features,
      node: "node-1",
      meshPort: 17001,
      instance: randomBytes(8).toString("hex"),
    };
    const deps = {
      credentials: () => identity,
      store,
      clock: systemClock,
      log,
      random: Math.random,
      onTable: (table: SidecarTable) => {
        const result = sidecar.onTable(table);
        if (result.ok) sidecar.tables.push(table);
        sidecar.#wake();
        return result;
      },
      onConnection: () => sidecar.#wake(),
    };
    sidecar.client = runDiscoveryClient(config, deps, sidecar.#stop.signal);
    return sidecar;
  }

  get table(): SidecarTable {
    const last = this.tables.at(-1);
    if (!last) throw new Error("no table yet");
    return last;
  }

  #wake(): void {
    for (const wake of [...this.#waiting]) wake();
  }

  /** Resolves when the condition holds; looked at whenever a table or the connection changes. */
  async until(condition: (sidecar: TestSidecar) => boolean, timeoutMs = 100_000): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error("condition did not come true")), timeoutMs);
      const look = (): void => {
        if (!condition(this)) return;
        clearTimeout(timer);
        this.#waiting.delete(look);
        resolve();
      };
      this.#waiting.add(look);
      look();
    });
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.client.done;
    await this.store.flush();
  }
}

/** Looks again and again, for what has no event (files, other processes' view). */
export async function eventually<T>(
  look: () => T | Promise<T>,
  holds: (value: T) => boolean,
  timeoutMs = 100_000,
): Promise<T> {
  const endMs = performance.now() + timeoutMs;
  for (;;) {
    const value = await look();
    if (holds(value)) return value;
    if (performance.now() > endMs)
      throw new Error(`never held, last: ${JSON.stringify(value)?.slice(0, 500)}`);
    await systemClock.sleep(20);
  }
}
