// A whole small ML platform on loopback: control plane, five kinds of workload, a sidecar process for each. Used by the
// demo, the integration tests and the soak.
import { cpSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import http from "node:http";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { freePorts, type RunningProcess, repositoryRoot, startNode } from "./process.ts";

const CLI = join(repositoryRoot, "dist/control-plane/cli/main.js");

/** What runs where: a client has a proxy to call through, a server an application behind it. */
const WORKLOADS = [
  { name: "nb-alice", namespace: "ml-dev", role: "client", appPort: 0 },
  { name: "nightly-score", namespace: "ml-batch", role: "client", appPort: 0 },
  { name: "retrain-fraud", namespace: "ml-batch", role: "client", appPort: 0 },
  { name: "fraud-scorer", namespace: "ml-serving", role: "server", appPort: 8080 },
  { name: "llm-chat", namespace: "ml-serving", role: "server", appPort: 8000 },
  { name: "mlflow", namespace: "mlflow", role: "server", appPort: 5000 },
] as const;
export type WorkloadName = (typeof WORKLOADS)[number]["name"];

export interface Call {
  readonly from: WorkloadName;
  readonly method: string;
  readonly url: string;
  readonly headers?: Record<string, string>;
  readonly body?: unknown;
}

export interface Answer {
  readonly status: number;
  readonly headers: Record<string, string>;
  readonly body: string;
  readonly firstByteMs: number;
  readonly lastByteMs: number;
  readonly error?: string;
}

export interface AuditEvent {
  readonly type: string;
  readonly traceparent?: string;
  readonly data: {
    readonly actionName: string;
    readonly decision: {
      readonly effect: string;
      readonly reason: string;
      readonly policy: string | null;
      readonly rule: string | null;
      readonly revision: number;
    };
    readonly identityMetadata: { readonly caller: string };
    readonly decisionId: string;
    readonly response: { readonly statusCode: number };
  };
}

export interface Platform {
  readonly dir: string;
  readonly configDir: string;
  readonly stateDir: string;
  readonly controlPlane: RunningProcess;
  readonly sidecars: ReadonlyMap<WorkloadName, Sidecar>;
  readonly ports: ControlPlanePorts;
  call(call: Call): Promise<Answer>;
  /** Writes a file of the configuration as an editor does: to a temporary file, then renamed. */
  edit(file: string, change: (text: string) => string): void;
  /** One request to the management API. */
  manage(
    method: string,
    path: string,
    body?: unknown,
  ): Promise<{ status: number; body: Record<string, unknown> }>;
  /** Audit events of all sidecars that carry this trace id; waits up to a second for the first. */
  audit(traceId: string): Promise<AuditEvent[]>;
  close(): Promise<void>;
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

export interface ControlPlanePorts {
  readonly bootstrap: number;
  readonly discovery: number;
  readonly metrics: number;
}

/** One GET on loopback; resolves with status 0 when nothing listens. */
export function get(port: number, path: string): Promise<{ status: number; body: string }> {
  return request({ host: "127.0.0.1", port, path, method: "GET" });
}

function request(options: http.RequestOptions, body?: string): Promise<{ status: number; body: string }> {
  return new Promise((resolve) => {
    const outgoing = http.request({ ...options, agent: false, timeout: 10_000 }, (response) => {
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

/** Polls until `check` gives a value; fails with `what` after `timeoutMs`. */
export async function until<T>(
  what: string,
  check: () => Promise<T | undefined> | T | undefined,
  timeoutMs = 15_000,
): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const value = await check();
    if (value !== undefined) return value;
    if (performance.now() > deadline) throw new Error(`timed out waiting for ${what}`);
    await delay(10);
  }
}

/**
 * Starts everything and resolves when every sidecar is ready.
 *
 * @param dir an empty folder that the platform may fill.
 * @param values what the configuration's `{{…}}` stand for, beside the mesh ports.
 */
export async function startPlatform(
  dir: string,
  values: Readonly<Record<string, string>>,
): Promise<Platform> {
  const configDir = join(dir, "config");
  const stateDir = join(dir, "control-plane");
  mkdirSync(stateDir, { recursive: true, mode: 0o700 });
  const ports = await freePorts(WORKLOADS.length * 3);
  const portOf = (index: number, which: 0 | 1 | 2) => ports[index * 3 + which] ?? 0;
  const filled = new Map(Object.entries(values));
  for (const [index, workload] of WORKLOADS.entries()) filled.set(workload.name, String(portOf(index, 0)));
  cpSync(new URL("config", import.meta.url), configDir, { recursive: true });
  for (const file of readdirSync(configDir)) {
    const path = join(configDir, file);
    writeFileSync(
      path,
      readFileSync(path, "utf8").replace(
        /\{\{([\w-]+)\}\}/g,
        (_, key: string) => filled.get(key) ?? `missing ${key}`,
      ),
    );
  }

  const running: RunningProcess[] = [];
  const close = async () => {
    await Promise.all(running.toReversed().map((one) => one.stop()));
  };
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
    const apps = new Map<string, RunningProcess>();
    for (const { name, role } of WORKLOADS) {
      if (role === "server") {
        const app = startNode(`app ${name}`, [join(repositoryRoot, `test/demo/apps/${name}.ts`)]);
        running.push(app);
        apps.set(name, app);
      }
    }
    const controlPorts = await until("the control plane", () => {
      if (controlPlane.child.exitCode !== null)
        throw new Error(`the control plane ended:\n${controlPlane.errors()}`);
      try {
        return JSON.parse(readFileSync(join(stateDir, "ports.json"), "utf8")) as ControlPlanePorts;
      } catch {
        return undefined;
      }
    });
    const manage: Platform["manage"] = async (method, path, body) => {
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

    const sidecars = new Map<WorkloadName, Sidecar>();
    await Promise.all(
      WORKLOADS.map(async (workload, index) => {
        const sidecarDir = join(dir, "sidecars", workload.name);
        mkdirSync(sidecarDir, { recursive: true, mode: 0o700 });
        const created = await manage("POST", "/v1/join-tokens", {
          workload: `${workload.namespace}/${workload.name}`,
          ttlSeconds: 300,
        });
        const tokenFile = join(sidecarDir, "join-token");
        writeFileSync(tokenFile, String(created.body["token"]), { mode: 0o600 });
        const args = [
          CLI,
          "sidecar",
          ...["--workload", `${workload.namespace}/${workload.name}`],
          ...[
            "--control-plane",
            `127.0.0.1:${controlPorts.discovery}`,
            "--bootstrap",
            `127.0.0.1:${controlPorts.bootstrap}`,
          ],
          ...["--join-token-file", tokenFile, "--state-dir", join(sidecarDir, "state")],
          ...[
            "--mesh-listen",
            `127.0.0.1:${portOf(index, 0)}`,
            "--metrics-listen",
            `127.0.0.1:${portOf(index, 2)}`,
          ],
          ...["--audit-file", join(sidecarDir, "audit.jsonl"), "--log-level", "warn"],
        ];
        args.push("--outbound-proxy", workload.role === "client" ? `127.0.0.1:${portOf(index, 1)}` : "none");
        const app = apps.get(workload.name);
        if (app) {
          const { port } = JSON.parse(await app.nextLine()) as { port: number };
          args.push("--app-port-map", `${workload.appPort}=127.0.0.1:${port}`);
        }
        const startedMs = performance.now();
        const process = startNode(`sidecar ${workload.name}`, args);
        running.push(process);
        await until(`sidecar ${workload.name}`, async () => {
          if (process.child.exitCode !== null)
            throw new Error(`sidecar ${workload.name} ended:\n${process.errors()}`);
          return (await get(portOf(index, 2), "/readyz")).status === 200 ? true : undefined;
        });
        sidecars.set(workload.name, {
          process,
          meshPort: portOf(index, 0),
          proxyPort: portOf(index, 1),
          metricsPort: portOf(index, 2),
          stateDir: join(sidecarDir, "state"),
          auditFile: join(sidecarDir, "audit.jsonl"),
          readyMs: performance.now() - startedMs,
        });
      }),
    );

    const clients = new Map<WorkloadName, RunningProcess>();
    for (const { name, role } of WORKLOADS) {
      if (role !== "client") continue;
      const client = startNode(`client ${name}`, [join(repositoryRoot, "test/demo/apps/client.ts")], {
        HTTP_PROXY: `http://127.0.0.1:${sidecars.get(name)?.proxyPort}`,
      });
      running.push(client);
      clients.set(name, client);
    }
    let nextId = 1;
    return {
      dir,
      configDir,
      stateDir,
      controlPlane,
      sidecars,
      ports: controlPorts,
      manage,
      call: async ({ from, ...call }) => {
        const client = clients.get(from);
        if (!client) throw new Error(`${from} makes no calls`);
        client.writeLine(JSON.stringify({ id: nextId++, ...call }));
        return JSON.parse(await client.nextLine()) as Answer;
      },
      edit: (file, change) => {
        const path = join(configDir, file);
        const next = `${path}.edit~`;
        writeFileSync(next, change(readFileSync(path, "utf8")));
        renameSync(next, path);
      },
      audit: (traceId) =>
        until(
          `the audit event of ${traceId}`,
          () => {
            const events: AuditEvent[] = [];
            for (const sidecar of sidecars.values()) {
              let text = "";
              try {
                text = readFileSync(sidecar.auditFile, "utf8");
              } catch {
                continue; // nothing recorded yet
              }
              for (const line of text.split("\n"))
                if (line.includes(traceId)) events.push(JSON.parse(line) as AuditEvent);
            }
            return events.length === 0 ? undefined : events;
          },
          2000,
        ),
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Removes what a platform wrote. */
export function removePlatformDir(dir: string): void {
  rmSync(dir, { recursive: true, force: true });
}
