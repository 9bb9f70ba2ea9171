// A whole small ML platform on loopback: control plane, five kinds of workload, a sidecar process for each. Used by the
// demo, the integration tests and the soak.
import { cpSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  type ControlPlanePorts,
  type RunningControlPlane,
  type Sidecar,
  startControlPlane,
  startSidecar,
  until,
} from "./mesh-processes.ts";
import { freePorts, type RunningProcess, repositoryRoot, startNode } from "./process.ts";

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
  readonly manage: RunningControlPlane["manage"];
  /** Audit events of all sidecars that carry this trace id; waits up to a second for the first. */
  audit(traceId: string): Promise<AuditEvent[]>;
  close(): Promise<void>;
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
    const starting = startControlPlane(configDir, stateDir, running);
    const apps = new Map<string, RunningProcess>();
    for (const { name, role } of WORKLOADS) {
      if (role === "server") {
        const app = startNode(`app ${name}`, [join(repositoryRoot, `test/demo/apps/${name}.ts`)]);
        running.push(app);
        apps.set(name, app);
      }
    }
    const controlPlane = await starting;
    const { manage } = controlPlane;

    const sidecars = new Map<WorkloadName, Sidecar>();
    await Promise.all(
      WORKLOADS.map(async (workload, index) => {
        const { namespace, name } = workload;
        const app = apps.get(name);
        const args: string[] = [];
        if (app) {
          const { port } = JSON.parse(await app.nextLine()) as { port: number };
          args.push("--app-port-map", `${workload.appPort}=127.0.0.1:${port}`);
        }
        const spec = {
          ...{ namespace, name, dir: join(dir, "sidecars", name), args },
          ...{ meshPort: portOf(index, 0), metricsPort: portOf(index, 2) },
          proxyPort: workload.role === "client" ? portOf(index, 1) : 0,
        };
        sidecars.set(name, await startSidecar(controlPlane, spec, running));
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
      controlPlane: controlPlane.process,
      sidecars,
      ports: controlPlane.ports,
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
