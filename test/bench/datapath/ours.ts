// Our pair, as a user runs it: a control plane in directory mode, a sidecar process for each side, started from dist/.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import http from "node:http";
import { join } from "node:path";
import { get, until } from "../../demo/mesh-processes.ts";
import { freePorts, type RunningProcess, repositoryRoot, startNode } from "../../demo/process.ts";
import { OPERATIONS, operationPath, type Pair, STREAMED } from "./peers.ts";

const CLI = join(repositoryRoot, "dist/control-plane/cli/main.js");

/** What is switched on: `parity` records and counts as Envoy does here, `everything` adds the access log and a scrape a second. */
export type Telemetry = "parity" | "everything";

interface World {
  readonly clientMeshPort: number;
  /** Where callers find the server side. */
  readonly serverMeshPort: number;
  readonly svidTtl: string;
  readonly protocol: string;
}

function writeConfig(dir: string, world: World): void {
  const head = "apiVersion: countersign.dev/v1alpha1\n";
  const rows = [
    ...Array.from(
      { length: OPERATIONS },
      (_, index) => `bench.op.n${index} GET ${operationPath(index)} - read -`,
    ),
    ...STREAMED.map(
      ({ op, method, path }) => `${op} ${method} ${path} - ${method === "PUT" ? "write" : "read"} -`,
    ),
  ]
    .map((line) => `      ${line}\n`)
    .join("");
  writeFileSync(
    join(dir, "mesh.yaml"),
    `${head}kind: MeshConfig
metadata: {name: default}
spec: {trustDomain: mesh.local, svidTTL: ${world.svidTtl}}
---
${head}kind: OperationCatalog
metadata: {name: bench}
spec:
  packs:
  - name: bench
    text: |
${rows}---
${head}kind: Workload
metadata: {name: notebook, namespace: ml}
spec: {kind: notebook, serviceAccount: notebook, addresses: [127.0.0.1], meshPort: ${world.clientMeshPort}}
---
${head}kind: Workload
metadata: {name: serving, namespace: ml}
spec: {kind: serving, serviceAccount: serving, addresses: [127.0.0.1], meshPort: ${world.serverMeshPort}, service: serving, ports: [{port: 8080, protocol: ${world.protocol}${world.protocol === "tcp" ? "" : ", packs: [bench]"}}]}
`,
  );
  writeFileSync(
    join(dir, "policies.yaml"),
    [
      ...Array.from({ length: OPERATIONS }, (_, index) => ({
        name: `p${index}`,
        operation: `op: bench.op.n${index}`,
      })),
      { name: "streamed", operation: STREAMED.map(({ op }) => `op: ${op}`).join("}, {") },
      ...(world.protocol === "http" ? [] : [{ name: "any", operation: "any: true" }]),
    ]
      .map(
        ({ name, operation }) => `${head}kind: AccessPolicy
metadata: {name: ${name}, namespace: ml}
spec:
  action: Allow
  targets: [{kinds: [serving], names: [serving]}]
  rules:
  - name: r
    from: [{workload: {kinds: [notebook], names: [notebook], namespaces: [ml]}}]
    operations: [{${operation}}]
`,
      )
      .join("---\n"),
  );
}

function post(socketPath: string, path: string, body: unknown): Promise<{ token: string }> {
  const payload = JSON.stringify(body);
  return new Promise((resolve, reject) => {
    const request = http.request(
      {
        socketPath,
        path,
        method: "POST",
        headers: { "content-type": "application/json", "content-length": Buffer.byteLength(payload) },
      },
      (response) => {
        let text = "";
        response.setEncoding("utf8").on("data", (chunk: string) => {
          text += chunk;
        });
        response.on("end", () => resolve(JSON.parse(text) as { token: string }));
      },
    );
    request.on("error", reject);
    request.end(payload);
  });
}

export interface OwnPair extends Pair {
  readonly readyMs: number;
  readonly controlPlane: RunningProcess;
  readonly configDir: string;
  readonly stateDir: string;
  /** mTLS port of the server side. */
  readonly meshPort: number;
  /** State directories of both sides; they hold the identities. */
  readonly clientStateDir: string;
  readonly serverStateDir: string;
}

export interface OwnOptions {
  readonly svidTtl?: string;
  /** Declared protocol of the application's port; `http` without it. */
  readonly protocol?: string;
  /** Puts something between the two sidecars: gets the mesh port, gives the port that callers are told. */
  readonly between?: (meshPort: number) => Promise<number>;
}

/** @param dir an empty folder; @param backend port of the application. */
export async function startOurs(
  dir: string,
  backend: number,
  telemetry: Telemetry,
  options: OwnOptions = {},
): Promise<OwnPair> {
  const configDir = join(dir, "config");
  const stateDir = join(dir, "state");
  mkdirSync(configDir, { recursive: true });
  mkdirSync(stateDir, { recursive: true, mode: 0o700 });
  const [clientMesh = 0, serverMesh = 0, local = 0, clientMetrics = 0, serverMetrics = 0] =
    await freePorts(5);
  writeConfig(configDir, {
    clientMeshPort: clientMesh,
    serverMeshPort: (await options.between?.(serverMesh)) ?? serverMesh,
    svidTtl: options.svidTtl ?? "6h",
    protocol: options.protocol ?? "http",
  });
  const running: RunningProcess[] = [];
  const stop = async () => {
    clearInterval(scraper);
    await Promise.all(running.toReversed().map((one) => one.stop()));
  };
  let scraper: NodeJS.Timeout | undefined;
  try {
    const controlPlane = startNode("control-plane", [
      CLI,
      "control-plane",
      "--config-dir",
      configDir,
      "--state-dir",
      stateDir,
      "--port-base",
      "0",
      "--log-level",
      "warn",
    ]);
    running.push(controlPlane);
    const ports = await until("the control plane", () => {
      if (controlPlane.child.exitCode !== null) throw new Error(controlPlane.errors());
      try {
        return JSON.parse(readFileSync(join(stateDir, "ports.json"), "utf8")) as {
          bootstrap: number;
          discovery: number;
        };
      } catch {
        return undefined;
      }
    });
    const socket = join(stateDir, "management.sock");
    const start = async (name: string, mesh: number, metrics: number, more: readonly string[]) => {
      const { token } = await until("a join token", () =>
        post(socket, "/v1/join-tokens", { workload: `ml/${name}`, ttlSeconds: 300 }).catch(() => undefined),
      );
      const tokenFile = join(dir, `${name}.token`);
      writeFileSync(tokenFile, token, { mode: 0o600 });
      const audit = telemetry === "everything" ? join(dir, `${name}.audit.jsonl`) : "/dev/null";
      const args = [
        CLI,
        "sidecar",
        "--workload",
        `ml/${name}`,
        "--control-plane",
        `127.0.0.1:${ports.discovery}`,
        "--bootstrap",
        `127.0.0.1:${ports.bootstrap}`,
        "--join-token-file",
        tokenFile,
      ];
      args.push(
        "--state-dir",
        join(dir, `${name}-state`),
        "--mesh-listen",
        `127.0.0.1:${mesh}`,
        "--metrics-listen",
        `127.0.0.1:${metrics}`,
        "--audit-file",
        audit,
        "--log-level",
        "warn",
      );
      if (telemetry === "everything") args.push("--access-log", join(dir, `${name}.access.log`));
      const startedMs = performance.now();
      const sidecar = startNode(name, [...args, ...more]);
      running.push(sidecar);
      await until(`sidecar ${name}`, async () => {
        if (sidecar.child.exitCode !== null) throw new Error(sidecar.errors());
        return (await get(metrics, "/readyz")).status === 200 ? true : undefined;
      });
      return { pid: sidecar.pid, readyMs: performance.now() - startedMs };
    };
    const server = await start("serving", serverMesh, serverMetrics, [
      "--app-port-map",
      `8080=127.0.0.1:${backend}`,
      "--outbound-proxy",
      "none",
    ]);
    const client = await start("notebook", clientMesh, clientMetrics, [
      "--local-service",
      `127.0.0.1:${local}=ml/serving:8080`,
      "--outbound-proxy",
      "none",
    ]);
    if (telemetry === "everything")
      scraper = setInterval(() => {
        void get(serverMetrics, "/metrics");
        void get(clientMetrics, "/metrics");
      }, 1000);
    return {
      name: "countersign",
      port: local,
      clientPid: client.pid,
      serverPid: server.pid,
      readyMs: Math.max(client.readyMs, server.readyMs),
      controlPlane,
      configDir,
      stateDir,
      meshPort: serverMesh,
      clientStateDir: join(dir, "notebook-state"),
      serverStateDir: join(dir, "serving-state"),
      headers: () => [],
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}
