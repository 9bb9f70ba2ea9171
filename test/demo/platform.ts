// A whole small ML platform on loopback: control plane, workloads, a sidecar process for each. Used by the demo, which adds
// people to it (people.ts), by integration tests and measurements.
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

export interface PlatformWorkload {
  readonly name: string;
  readonly namespace: string;
  /** Makes calls on command: has a proxy of its own, and a client behind it. */
  readonly calls?: boolean;
  /** Port that others know its application by; absent: it serves nothing. */
  readonly serves?: number;
  /** Port that the application listens on; absent: `apps/NAME.ts` is started. */
  readonly app?: number;
  /** Port of the proxy, where somebody else than `calls` needs it. */
  readonly proxyPort?: number;
  /** More flags of its sidecar. */
  readonly args?: readonly string[];
}

const MACHINES: readonly PlatformWorkload[] = [
  { name: "nb-alice", namespace: "ml-dev", calls: true },
  { name: "nightly-score", namespace: "ml-batch", calls: true },
  { name: "retrain-fraud", namespace: "ml-batch", calls: true },
  { name: "fraud-scorer", namespace: "ml-serving", serves: 8080 },
  { name: "llm-chat", namespace: "ml-serving", serves: 8000 },
  { name: "mlflow", namespace: "mlflow", serves: 5000 },
];

/** What a platform has beside its machines. */
export interface PlatformMore {
  /** Folder of objects; its files take the place of those of the same name. */
  readonly config: URL;
  /** Take the place of those of the same name. */
  readonly workloads: readonly PlatformWorkload[];
}

export interface Call {
  /** Name of a workload that makes calls. */
  readonly from: string;
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
  readonly time: string;
  /** `kind/name` of the callee. */
  readonly subject: string;
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
    readonly identityMetadata: {
      readonly caller: string;
      readonly chain?: readonly { readonly s: string; readonly o: string }[];
    };
    readonly userIdentity?: { readonly id: string; readonly roles: readonly string[] } | null;
    readonly txn?: string | null;
    readonly decisionId: string;
    readonly response: { readonly statusCode: number };
  };
}

export interface Platform {
  readonly dir: string;
  readonly configDir: string;
  readonly stateDir: string;
  readonly controlPlane: RunningProcess;
  readonly sidecars: ReadonlyMap<string, Sidecar>;
  readonly ports: ControlPlanePorts;
  call(call: Call): Promise<Answer>;
  /** Writes a file of the configuration as an editor does: to a temporary file, then renamed. */
  edit(file: string, change: (text: string) => string): void;
  readonly manage: RunningControlPlane["manage"];
  /** Audit events of all sidecars with this trace id in them, oldest first; waits until they are `enough`, by default one. */
  audit(traceId: string, enough?: (events: readonly AuditEvent[]) => boolean): Promise<AuditEvent[]>;
  close(): Promise<void>;
}

/**
 * Starts everything and resolves when every sidecar is ready.
 *
 * @param dir an empty folder that the platform may fill.
 * @param values what the configuration's `{{…}}` stand for, beside the mesh ports.
 * @param more what there is beside the machines.
 */
export async function startPlatform(
  dir: string,
  values: Readonly<Record<string, string>>,
  more?: PlatformMore,
): Promise<Platform> {
  const configDir = join(dir, "config");
  const stateDir = join(dir, "control-plane");
  const replaced = new Set(more?.workloads.map(({ name }) => name));
  const workloads = [...MACHINES.filter(({ name }) => !replaced.has(name)), ...(more?.workloads ?? [])];
  const ports = await freePorts(workloads.length * 3);
  const portOf = (index: number, which: 0 | 1 | 2) => ports[index * 3 + which] ?? 0;
  const filled = new Map(Object.entries(values));
  for (const [index, workload] of workloads.entries()) filled.set(workload.name, String(portOf(index, 0)));
  for (const from of [new URL("config", import.meta.url), ...(more === undefined ? [] : [more.config])])
    cpSync(from, configDir, { recursive: true });
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
    for (const { name, serves, app } of workloads) {
      if (serves === undefined || app !== undefined) continue;
      const started = startNode(`app ${name}`, [join(repositoryRoot, `test/demo/apps/${name}.ts`)]);
      running.push(started);
      apps.set(name, started);
    }
    const controlPlane = await starting;
    const { manage } = controlPlane;

    const sidecars = new Map<string, Sidecar>();
    await Promise.all(
      workloads.map(async (workload, index) => {
        const { namespace, name, serves, calls = false } = workload;
        const { tokens } = controlPlane.ports;
        const args = ["--token-service", `127.0.0.1:${tokens}`, ...(workload.args ?? [])];
        if (serves !== undefined)
          args.push(
            "--app-port-map",
            `${serves}=127.0.0.1:${workload.app ?? (await portOfApp(apps.get(name)))}`,
          );
        const spec = {
          ...{ namespace, name, dir: join(dir, "sidecars", name), args },
          ...{ meshPort: portOf(index, 0), metricsPort: portOf(index, 2) },
          proxyPort: workload.proxyPort ?? (calls ? portOf(index, 1) : 0),
        };
        sidecars.set(name, await startSidecar(controlPlane, spec, running));
      }),
    );

    const clients = new Map<string, RunningProcess>();
    for (const { name, calls } of workloads) {
      if (calls !== true) continue;
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
      audit: (traceId, enough = ({ length }) => length > 0) =>
        until(`the audit events of ${traceId}`, () => {
          const events = eventsOf(traceId, sidecars.values());
          return enough(events) ? events : undefined;
        }),
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

async function portOfApp(app: RunningProcess | undefined): Promise<number> {
  if (app === undefined) throw new Error("an application that serves was not started");
  return (JSON.parse(await app.nextLine()) as { port: number }).port;
}

function eventsOf(traceId: string, sidecars: Iterable<Sidecar>): AuditEvent[] {
  const events: AuditEvent[] = [];
  for (const sidecar of sidecars) {
    let text = "";
    try {
      text = readFileSync(sidecar.auditFile, "utf8");
    } catch {
      continue; // nothing recorded yet
    }
    for (const line of text.split("\n").slice(0, -1))
      if (line.includes(traceId)) events.push(JSON.parse(line) as AuditEvent);
  }
  const hops = (event: AuditEvent) => event.data.identityMetadata.chain?.length ?? 0;
  // Clocks of processes differ by a millisecond or two: the way comes before the time.
  return events.sort((a, b) => hops(a) - hops(b) || Date.parse(a.time) - Date.parse(b.time));
}

/** Removes what a platform wrote. */
export function removePlatformDir(dir: string): void {
  rmSync(dir, { recursive: true, force: true });
}
