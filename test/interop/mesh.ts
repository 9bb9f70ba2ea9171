// A mesh of three for one suite: an application and two callers of it, one that policy may let in and a stranger; each
// with a sidecar process of its own, all on loopback. Clients reach it through a local port of their sidecar or its proxy.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { get, type Sidecar, startControlPlane, startSidecar, until } from "../demo/mesh-processes.ts";
import { freePorts, type RunningProcess } from "../demo/process.ts";

export interface ServedPort {
  /** Declared port of the service. */
  readonly port: number;
  /** What the service declares; `auto` leaves it out. */
  readonly protocol: string;
  readonly packs?: readonly string[];
  /** Port on loopback where the application really listens. */
  readonly app: number;
}

export interface MeshSpec {
  /** Kind of the callee, such as `serving`. */
  readonly kind: string;
  readonly ports: readonly ServedPort[];
  /** `rules` of the only AccessPolicy, as YAML indented by two; without a rule that fits, a call is denied. */
  readonly rules: string;
  /** More objects, as YAML documents. */
  readonly objects?: string;
  /** ExternalServices among them, `namespace/name`, that both callers have a local port for. */
  readonly outside?: readonly { readonly id: string; readonly port: number }[];
}

export type CallerName = "friend" | "stranger";

/** What an audit event says of a call, flattened. */
export interface Recorded {
  readonly caller: string | null;
  readonly operation: string;
  readonly resource: string | null;
  readonly effect: "Allow" | "Deny";
  readonly reason: string;
  readonly rule: string | null;
  readonly method: string;
  readonly path: string;
  readonly status: number | null;
  readonly requestBytes: number;
  readonly responseBytes: number;
}

export interface Mesh {
  readonly dir: string;
  readonly callee: Sidecar;
  /** Port on loopback that means this port of the service, or of a host outside, to one of the callers. */
  port(caller: CallerName, port: number): number;
  /** `http://127.0.0.1:…` of that port. */
  url(caller: CallerName, port: number): string;
  /** `http://127.0.0.1:…` of the caller's HTTP proxy. */
  proxy(caller: CallerName): string;
  /** What all sidecars have recorded so far. */
  recorded(): Recorded[];
  /** Waits until something was recorded that fits. */
  untilRecorded(wanted: Partial<Recorded>): Promise<Recorded>;
  /** Replaces the rules of the policy; resolves when the callee's sidecar has them. */
  setRules(rules: string): Promise<void>;
  close(): Promise<void>;
}

/** Authority of the service in the mesh, without port. */
export const SERVICE_HOST = "app.ml-serving";
const CALLERS: readonly CallerName[] = ["friend", "stranger"];

interface AuditLine {
  readonly data: {
    readonly actionName: string;
    readonly resource: { readonly type: string; readonly name: string | null } | null;
    readonly identityMetadata: { readonly caller: string | null };
    readonly decision: Pick<Recorded, "effect" | "reason" | "rule">;
    readonly request: { readonly method: string; readonly pathTemplate: string; readonly bytes: number };
    readonly response: { readonly statusCode: number | null; readonly bytes: number };
  };
}

function recordedOf({ data }: AuditLine): Recorded {
  const { decision, request, response } = data;
  return {
    caller: data.identityMetadata.caller,
    operation: data.actionName,
    resource: data.resource?.name ?? null,
    effect: decision.effect,
    reason: decision.reason,
    rule: decision.rule,
    method: request.method,
    path: request.pathTemplate,
    status: response.statusCode,
    requestBytes: request.bytes,
    responseBytes: response.bytes,
  };
}

function linesOf(file: string): Recorded[] {
  try {
    const lines = readFileSync(file, "utf8").split("\n");
    lines.pop(); // after the last line end: empty, or not yet whole
    return lines.map((line) => recordedOf(JSON.parse(line) as AuditLine));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}

function policyText(rules: string): string {
  return `apiVersion: countersign.dev/v1alpha1
kind: AccessPolicy
metadata: {name: interop, namespace: ml-serving}
spec:
  action: Allow
  targets: [{names: [app]}]
  rules:
${rules}
`;
}

function workloadsText(spec: MeshSpec, meshPorts: Record<CallerName | "app", number>): string {
  const ports = spec.ports.map(({ port, protocol, packs }) => {
    const said = protocol === "auto" ? "" : `, protocol: ${protocol}`;
    return `{port: ${port}${said}${packs === undefined ? "" : `, packs: [${packs.join(", ")}]`}}`;
  });
  const callers = CALLERS.map(
    (name) => `---
apiVersion: countersign.dev/v1alpha1
kind: Workload
metadata: {name: ${name}, namespace: ml-dev}
spec: {kind: notebook, serviceAccount: ${name}, addresses: [127.0.0.1], meshPort: ${meshPorts[name]}}
`,
  );
  return `apiVersion: countersign.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec: {trustDomain: lake.example}
---
apiVersion: countersign.dev/v1alpha1
kind: Workload
metadata: {name: app, namespace: ml-serving}
spec:
  kind: ${spec.kind}
  serviceAccount: app
  addresses: [127.0.0.1]
  meshPort: ${meshPorts.app}
  service: app
  ports: [${ports.join(", ")}]
${callers.join("")}${spec.objects === undefined ? "" : `---\n${spec.objects}`}`;
}

/** Starts it and resolves when all sidecars are ready. */
export async function startMesh(spec: MeshSpec): Promise<Mesh> {
  const dir = mkdtempSync(join(tmpdir(), "countersign-interop-"));
  const configDir = join(dir, "config");
  mkdirSync(configDir);
  const ports = await freePorts(8 + 2 * (spec.ports.length + (spec.outside?.length ?? 0)));
  const take = (): number => ports.pop() ?? 0; // as many as were asked for
  const meshPorts = { app: take(), friend: take(), stranger: take() };
  writeFileSync(join(configDir, "workloads.yaml"), workloadsText(spec, meshPorts));
  writeFileSync(join(configDir, "policy.yaml"), policyText(spec.rules));

  const running: RunningProcess[] = [];
  const close = async (): Promise<void> => {
    await Promise.all(running.toReversed().map((one) => one.stop()));
    rmSync(dir, { recursive: true, force: true });
  };
  try {
    const controlPlane = await startControlPlane(configDir, join(dir, "control-plane"), running);
    const locals = new Map<string, number>();
    const start = (namespace: string, name: CallerName | "app", args: string[]): Promise<Sidecar> => {
      const proxyPort = name === "app" ? 0 : take();
      const where = { namespace, name, dir: join(dir, name), meshPort: meshPorts[name], proxyPort };
      return startSidecar(controlPlane, { ...where, metricsPort: take(), args }, running);
    };
    const served = spec.ports.flatMap(({ port, app }) => ["--app-port-map", `${port}=127.0.0.1:${app}`]);
    const places = [
      ...spec.ports.map(({ port }) => ({ id: "ml-serving/app", port })),
      ...(spec.outside ?? []),
    ];
    const localServices = (name: CallerName): string[] =>
      places.flatMap(({ id, port }) => {
        const local = take();
        locals.set(`${name}:${port}`, local);
        return ["--local-service", `127.0.0.1:${local}=${id}:${port}`];
      });
    const starting = [
      start("ml-serving", "app", served),
      ...CALLERS.map((name) => start("ml-dev", name, localServices(name))),
    ];
    const started = await Promise.allSettled(starting); // all of them: what is not yet started cannot be stopped
    const sidecars = started.map((one) => {
      if (one.status === "rejected") throw one.reason;
      return one.value;
    });
    const [callee, ...callers] = sidecars;
    if (callee === undefined) throw new Error("no sidecar was started");
    const recorded = (): Recorded[] => sidecars.flatMap((one) => linesOf(one.auditFile));
    const portOf: Mesh["port"] = (caller, port) => {
      const local = locals.get(`${caller}:${port}`);
      if (local === undefined) throw new Error(`the service declares no port ${port}`);
      return local;
    };
    return {
      dir,
      callee,
      port: portOf,
      url: (caller, port) => `http://127.0.0.1:${portOf(caller, port)}`,
      proxy: (caller) => `http://127.0.0.1:${callers[CALLERS.indexOf(caller)]?.proxyPort}`,
      recorded,
      untilRecorded: async (wanted) => {
        const fields = Object.entries(wanted);
        const fits = (one: Recorded): boolean =>
          fields.every(([name, value]) => one[name as keyof Recorded] === value); // names of `Recorded`
        try {
          return await until("the record", () => recorded().find(fits));
        } catch {
          const all = recorded().map((one) => JSON.stringify(one));
          throw new Error(`no record of ${JSON.stringify(wanted)} among:\n${all.slice(-30).join("\n")}`);
        }
      },
      setRules: async (rules) => {
        const revision = await revisionOf(callee);
        writeFileSync(join(configDir, "policy.yaml"), policyText(rules));
        await until("the new rules", async () => ((await revisionOf(callee)) > revision ? true : undefined));
      },
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

async function revisionOf(sidecar: Sidecar): Promise<number> {
  const { body } = await get(sidecar.metricsPort, "/metrics");
  return Number(/^countersign_config_revision (\d+)/m.exec(body)?.[1] ?? 0);
}
