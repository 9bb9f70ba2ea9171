// A small mesh inside one process: a real authority, data planes with tables written by hand, and applications that
// note every byte they get. Real sockets on loopback, ports chosen by the system.
import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { CaptureDeps } from "../../../sidecar/capture-plane.ts";
import {
  DEFAULT_LIMITS,
  DEFAULT_TIMEOUTS,
  parseSidecarConfig,
  type SidecarConfig,
} from "../../../sidecar/config.ts";
import { Revocations } from "../../../sidecar/core/identity/revocations.ts";
import { formatSpiffeId, type SpiffeId } from "../../../sidecar/core/identity/spiffe-id.ts";
import type { WorkloadIdentity } from "../../../sidecar/core/identity/workload-identity.ts";
import type { PortProtocol, ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import { systemClock } from "../../../sidecar/core/runtime/clock.ts";
import { silentLogger } from "../../../sidecar/core/runtime/log.ts";
import type { ServiceRoute } from "../../../sidecar/core/traffic/route.ts";
import { DataPlane, type DataPlaneDeps, type DataPlanePorts } from "../../../sidecar/data-plane.ts";
import type { MeshEndpoint, MeshService, SidecarTable } from "../../../sidecar/discovery/table.ts";
import { createTestAuthority, issueTestIdentity, type TestAuthority } from "../../fakes/authority.ts";

export const TRUST_DOMAIN = "lake.example";

export function idOf(namespace: string, kind: string, name: string): SpiffeId {
  return formatSpiffeId({ trustDomain: TRUST_DOMAIN, namespace, serviceAccount: "default", kind, name });
}

export const PACK = `
# operation         method  template                       resource            access  level
thing.read          GET     /things/{thing}                thing<path:thing    read    -
thing.write         POST    /things/{thing}                thing<path:thing    write   -
thing.stream        GET     /stream/{name}                 -                   read    -
thing.upload        PUT     /upload                        -                   write   -
model.chat          POST    /chat                          model<body:model    execute -
health.probe        GET     /health                        -                   read    -
`;

export interface ServiceSpec {
  readonly namespace: string;
  readonly kind: string;
  readonly name: string;
  readonly ports: readonly number[];
  /** Of every port; absent: http. */
  readonly protocol?: PortProtocol;
}

export interface TableSpec {
  readonly self: ServiceSpec;
  readonly policies?: readonly ProgramPolicy[];
  readonly services?: readonly {
    readonly service: ServiceSpec;
    readonly meshPort: number;
    /** Cluster IPs, with the ports that lead to the ports of `service`. */
    readonly addresses?: readonly string[];
    readonly servicePorts?: MeshService["ports"];
  }[];
  readonly settings?: Partial<SidecarTable["settings"]>;
  readonly defaultAction?: "Allow" | "Deny";
  readonly revision?: number;
  readonly bundle: string;
  readonly maxHops?: number;
  readonly routes?: readonly ServiceRoute[];
  readonly revocations?: Revocations;
  /** Text of the pack in place of `PACK`. */
  readonly pack?: string;
}

const portsOf = (spec: ServiceSpec): MeshService["ports"] =>
  spec.ports.map((port) => ({ port, protocol: spec.protocol ?? "http", packs: ["things"] }));

export function table(spec: TableSpec): SidecarTable {
  const { self } = spec;
  const services = new Map<string, MeshService>();
  const servicesByHost = new Map<string, MeshService>();
  const endpoints = new Map<string, readonly MeshEndpoint[]>();
  for (const { service, meshPort, addresses = [], servicePorts } of spec.services ?? []) {
    const id = `${service.namespace}/${service.name}`;
    const host = `${service.name}.${service.namespace}`;
    const entry: MeshService = { id, hosts: [host], addresses, ports: servicePorts ?? portsOf(service) };
    services.set(id, entry);
    servicesByHost.set(host, entry);
    endpoints.set(id, [
      {
        address: "127.0.0.1",
        meshPort,
        spiffeId: idOf(service.namespace, service.kind, service.name),
        ports: portsOf(service),
      },
    ]);
  }
  return {
    revision: spec.revision ?? 1,
    digest: "00",
    program: {
      id: `${self.namespace}/${self.name}`,
      spiffeId: idOf(self.namespace, self.kind, self.name),
      kind: self.kind,
      name: self.name,
      namespace: self.namespace,
      labels: new Map(),
      ports: portsOf(self),
      defaultAction: spec.defaultAction ?? "Deny",
      maxHops: spec.maxHops ?? 5,
      trustDomain: TRUST_DOMAIN,
      policies: spec.policies ?? [],
      features: [],
    },
    servicesByHost,
    services,
    endpoints,
    routes: new Map((spec.routes ?? []).map((route) => [route.service, route])),
    packs: new Map([["things", { name: "things", text: spec.pack ?? PACK }]]),
    trustBundle: spec.bundle,
    revocations: spec.revocations ?? Revocations.none,
    settings: {
      trustDomain: TRUST_DOMAIN,
      outbound: "Deny",
      proofs: "Optional",
      mtls: "Strict",
      maxHops: 5,
      explainDenials: false,
      cluster: "test",
      propagation: ["trace"],
      ...spec.settings,
    },
  };
}

/** An application: one callback per request head (everything is text), with the raw socket to answer on. */
export interface App {
  readonly port: number;
  /** Everything that arrived, over all connections. */
  readonly received: Buffer[];
  readonly heads: string[];
  close(): Promise<void>;
}

export type Answer = (head: string, socket: Socket, body: Buffer) => void;

/** @param onHead called with each complete head (no body handling beyond content-length) and then with the body. */
export async function startApp(answer: Answer): Promise<App> {
  const received: Buffer[] = [];
  const heads: string[] = [];
  const sockets = new Set<Socket>();
  const server: Server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    socket.on("close", () => sockets.delete(socket));
    let text = Buffer.alloc(0);
    socket.on("data", (chunk) => {
      received.push(chunk);
      text = Buffer.concat([text, chunk]);
      for (;;) {
        const end = text.indexOf("\r\n\r\n");
        if (end < 0) return;
        const head = text.toString("latin1", 0, end + 2);
        let size = end + 4;
        const length = /\r\ncontent-length: (\d+)\r\n/.exec(head)?.[1];
        if (length !== undefined) size += Number(length);
        else if (/\r\ntransfer-encoding: chunked\r\n/.test(head)) {
          const last = text.indexOf("\r\n0\r\n", end + 2);
          const done = last < 0 ? -1 : text.indexOf("\r\n\r\n", last + 2);
          if (done < 0) return;
          size = done + 4;
        }
        if (text.length < size) return;
        heads.push(head);
        const body = text.subarray(end + 4, size);
        text = text.subarray(size);
        answer(head, socket, body);
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    port: (server.address() as AddressInfo).port,
    received,
    heads,
    close: () =>
      new Promise((resolve) => {
        for (const socket of sockets) socket.destroy();
        server.close(() => resolve());
      }),
  };
}

export const hello: Answer = (_head, socket) => {
  socket.write("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello");
};

export interface Sidecar {
  readonly plane: DataPlane;
  readonly meshPort: number;
  readonly proxyPort: number;
  readonly localPorts: readonly (number | undefined)[];
  readonly captured: DataPlanePorts["captured"];
  readonly auditFile: string;
  /** Writes the trail out and reads it back. */
  audit(): Promise<readonly Record<string, unknown>[]>;
}

export class World {
  readonly authority: TestAuthority;
  readonly dir: string;
  readonly #closers: (() => Promise<void>)[] = [];
  #count = 0;

  private constructor(authority: TestAuthority, dir: string) {
    this.authority = authority;
    this.dir = dir;
  }

  static async create(): Promise<World> {
    return new World(
      await createTestAuthority(Date.now()),
      await mkdtemp(join(tmpdir(), "countersign-world-")),
    );
  }

  identity(spec: ServiceSpec, options?: { ttlMs?: number }): WorkloadIdentity {
    return issueTestIdentity(this.authority, idOf(spec.namespace, spec.kind, spec.name), Date.now(), options);
  }

  async app(answer: Answer): Promise<App> {
    const app = await startApp(answer);
    this.#closers.push(() => app.close());
    return app;
  }

  /** A data plane with an identity; without a table until `plane.setTable`. */
  async sidecar(
    spec: ServiceSpec,
    options: {
      app?: App;
      appPort?: number;
      config?: Partial<SidecarConfig>;
      resolve?: DataPlaneDeps["resolve"];
      meshNowMs?: () => number;
      capture?: CaptureDeps;
    } = {},
  ): Promise<Sidecar> {
    const auditFile = join(this.dir, `audit-${this.#count++}.jsonl`);
    const base = parseSidecarConfig([
      "--state-dir",
      this.dir,
      "--workload",
      `${spec.namespace}/${spec.name}`,
    ]);
    const config: SidecarConfig = {
      ...base,
      meshListen: { kind: "tcp", host: "127.0.0.1", port: 0 },
      outboundProxy: { kind: "tcp", host: "127.0.0.1", port: 0 },
      metricsListen: undefined,
      adminSocket: undefined,
      appPorts: new Map(
        spec.ports.map((port) => [
          port,
          { kind: "tcp", host: "127.0.0.1", port: options.app?.port ?? options.appPort ?? 1 },
        ]),
      ),
      auditFile,
      timeouts: DEFAULT_TIMEOUTS,
      limits: DEFAULT_LIMITS,
      ...options.config,
    };
    const plane = new DataPlane(config, {
      log: silentLogger,
      clock: systemClock,
      random: Math.random,
      meshNowMs: options.meshNowMs ?? (() => Date.now()),
      resolve: options.resolve ?? (() => Promise.resolve({ kind: "refused", reason: "UNKNOWN_DESTINATION" })),
      ...(options.capture === undefined ? {} : { capture: options.capture }),
    });
    const ports = await plane.start();
    const meshPort = await plane.setIdentity(this.identity(spec));
    this.#closers.push(() => plane.close(0));
    return {
      plane,
      meshPort,
      proxyPort: ports.outbound ?? 0,
      captured: ports.captured,
      localPorts: ports.local,
      auditFile,
      audit: async () => {
        await plane.flush();
        return readFileSync(auditFile, "utf8")
          .split("\n")
          .filter((line) => line !== "")
          .map((line) => JSON.parse(line) as Record<string, unknown>);
      },
    };
  }

  async close(): Promise<void> {
    for (const close of this.#closers.reverse()) await close();
    await this.authority.close();
    await rm(this.dir, { recursive: true, force: true });
  }
}

export interface RawAnswer {
  readonly status: number;
  readonly head: string;
  readonly body: string;
  readonly raw: string;
}

/** Sends bytes, reads until the answer to one request is complete (or the connection ends), and gives the text. */
export async function send(
  port: number | string,
  bytes: string | Buffer,
  done: (text: string) => boolean = complete,
): Promise<RawAnswer> {
  const socket = typeof port === "number" ? connect(port, "127.0.0.1") : connect(port);
  let text = "";
  socket.setEncoding("latin1");
  socket.write(bytes);
  await new Promise<void>((resolve) => {
    socket.on("data", (chunk: string) => {
      text += chunk;
      if (done(text)) resolve();
    });
    socket.on("error", () => resolve());
    socket.on("close", () => resolve());
  });
  socket.destroy();
  return parseAnswer(text);
}

export function parseAnswer(text: string): RawAnswer {
  const end = text.indexOf("\r\n\r\n");
  return {
    status: Number(text.slice(9, 12)),
    head: text.slice(0, end + 2),
    body: end < 0 ? "" : text.slice(end + 4),
    raw: text,
  };
}

/** Whether the text holds one whole answer. */
export function complete(text: string): boolean {
  const end = text.indexOf("\r\n\r\n");
  if (end < 0) return false;
  const head = text.slice(0, end + 2);
  if (/^HTTP\/1\.1 1\d\d/.test(head)) return complete(text.slice(end + 4));
  const length = /\r\ncontent-length: (\d+)\r\n/i.exec(head)?.[1];
  if (length !== undefined) return text.length >= end + 4 + Number(length);
  if (/\r\ntransfer-encoding: chunked\r\n/i.test(head))
    return /\r\n0\r\n(?:[^\r\n]+\r\n)*\r\n$/.test(text) || text.endsWith("\r\n\r\n0\r\n\r\n");
  return /^HTTP\/1\.1 (204|304)/.test(head);
}

export const ALLOW_READ: ProgramPolicy = {
  id: "ml/readers",
  name: "readers",
  cluster: false,
  source: "policy",
  action: "Allow",
  enforcement: "Enforce",
  rules: [
    {
      name: "notebooks",
      from: [{ workload: { kinds: ["notebook"] } }],
      operations: [{ op: "thing" }],
      with: { identity: { forward: ["caller"] } },
    },
  ],
};
