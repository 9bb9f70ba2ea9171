// A control plane over a directory and sidecars that join it, as processes from dist/: what the demo and every test that
// needs a whole mesh start first.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import http from "node:http";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { type RunningProcess, repositoryRoot, startNode } from "./process.ts";

const CLI = join(repositoryRoot, "dist/control-plane/cli/main.js");

export interface ControlPlanePorts {
  readonly bootstrap: number;
  readonly discovery: number;
  readonly tokens: number;
  readonly metrics: number;
}

export interface RunningControlPlane {
  readonly process: RunningProcess;
  readonly ports: ControlPlanePorts;
  /** One request to the management API. */
  manage(
    method: string,
    path: string,
    body?: unknown,
  ): Promise<{ status: number; body: Record<string, unknown> }>;
}

export interface Sidecar {
  readonly process: RunningProcess;
  readonly meshPort: number;
  readonly proxyPort: number;
  readonly metricsPort: number;
  readonly stateDir: string;
  readonly auditFile: string;
  /** Milliseconds from exec to ready. */
  readonly readyMs: number;
}

export interface SidecarSpec {
  readonly namespace: string;
  readonly name: string;
  /** An empty folder that the sidecar may fill. */
  readonly dir: string;
  readonly meshPort: number;
  /** Port of its proxy; 0 for none. */
  readonly proxyPort: number;
  readonly metricsPort: number;
  /** More flags of the sidecar. */
  readonly args?: readonly string[];
}

/** One GET on loopback; resolves with status 0 when nothing listens. */
export function get(port: number, path: string): Promise<{ status: number; body: string }> {
  return request({ host: "127.0.0.1", port, path, method: "GET" });
}

function request(options: http.RequestOptions, body?: string): Promise<{ status: number; body: string }> {
  return new Promise((resolve) => {
    const outgoing = http.request({ ...options, agent: false, timeout: 60_000 }, (response) => {
      let text = "";
      response.setEncoding("utf8");
      response.on("data", (chunk: string) => {
        text += chunk;
      });
      response.on("end", () => resolve({ status: response.statusCode ?? 0, body: text }));
    });
    outgoing.on("timeout", () => outgoing.destroy());
    outgoing.on("error", (error) => resolve({ status: 0, body: error.message }));
    outgoing.end(body);
  });
}

/** For a process that starts beside many others; one that ends instead is told of at once. */
const START_WITHIN_MS = 100_000;

/** Polls until `check` gives a value; fails with `what` after `timeoutMs`. */
export async function until<T>(
  what: string,
  check: () => Promise<T | undefined> | T | undefined,
  timeoutMs = 100_000,
): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const value = await check();
    if (value !== undefined) return value;
    if (performance.now() > deadline) throw new Error(`timed out waiting for ${what}`);
    await delay(10);
  }
}

/** Starts a process, notes it in `running` at once, and resolves when it serves its management API. */
export async function startControlPlane(
  configDir: string,
  stateDir: string,
  running: RunningProcess[],
): Promise<RunningControlPlane> {
  mkdirSync(stateDir, { recursive: true, mode: 0o700 });
  const process = startNode("control-plane", [
    ...[CLI, "control-plane", "--config-dir", configDir, "--state-dir", stateDir],
    ...["--port-base", "0", "--log-level", "warn"],
  ]);
  running.push(process);
  const ports = await until(
    "the control plane",
    () => {
      if (process.child.exitCode !== null) throw new Error(`the control plane ended:\n${process.errors()}`);
      try {
        return JSON.parse(readFileSync(join(stateDir, "ports.json"), "utf8")) as ControlPlanePorts;
      } catch {
        return undefined;
      }
    },
    START_WITHIN_MS,
  );
  const manage: RunningControlPlane["manage"] = async (method, path, body) => {
    const answer = await request(
      {
        socketPath: join(stateDir, "management.sock"),
        method,
        path,
        headers: { "content-type": "application/json" },
      },
      body === undefined ? undefined : JSON.stringify(body),
    );
    return {
      status: answer.status,
      body: answer.body === "" ? {} : (JSON.parse(answer.body) as Record<string, unknown>),
    };
  };
  await until("the management API", async () =>
    (await manage("GET", "/v1/status").catch(() => undefined))?.status === 200 ? true : undefined,
  );
  return { process, ports, manage };
}

/** Starts a sidecar that joins by a token, notes it in `running` at once, and resolves when it is ready. */
export async function startSidecar(
  controlPlane: RunningControlPlane,
  spec: SidecarSpec,
  running: RunningProcess[],
): Promise<Sidecar> {
  const { namespace, name, dir, meshPort, proxyPort, metricsPort } = spec;
  const { ports, manage } = controlPlane;
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const created = await manage("POST", "/v1/join-tokens", {
    workload: `${namespace}/${name}`,
    ttlSeconds: 300,
  });
  if (created.body["token"] === undefined)
    throw new Error(`no join token for ${namespace}/${name}: ${JSON.stringify(created.body)}`);
  const tokenFile = join(dir, "join-token");
  writeFileSync(tokenFile, String(created.body["token"]), { mode: 0o600 });
  const stateDir = join(dir, "state");
  const auditFile = join(dir, "audit.jsonl");
  const startedMs = performance.now();
  const process = startNode(`sidecar ${name}`, [
    ...[CLI, "sidecar", "--workload", `${namespace}/${name}`],
    ...["--control-plane", `127.0.0.1:${ports.discovery}`, "--bootstrap", `127.0.0.1:${ports.bootstrap}`],
    ...["--join-token-file", tokenFile, "--state-dir", stateDir],
    ...["--mesh-listen", `127.0.0.1:${meshPort}`, "--metrics-listen", `127.0.0.1:${metricsPort}`],
    ...["--audit-file", auditFile, "--log-level", "warn"],
    ...["--outbound-proxy", proxyPort === 0 ? "none" : `127.0.0.1:${proxyPort}`],
    ...(spec.args ?? []),
  ]);
  running.push(process);
  await until(
    `sidecar ${name}`,
    async () => {
      if (process.child.exitCode !== null) throw new Error(`sidecar ${name} ended:\n${process.errors()}`);
      return (await get(metricsPort, "/readyz")).status === 200 ? true : undefined;
    },
    START_WITHIN_MS,
  );
  const readyMs = performance.now() - startedMs;
  return { process, meshPort, proxyPort, metricsPort, stateDir, auditFile, readyMs };
}
