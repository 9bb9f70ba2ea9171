// A gateway in front of one service of a small mesh, with somebody who knows people as the test says.
import { mkdirSync } from "node:fs";
import { type ClientHttp2Session, connect as connectHttp2, type IncomingHttpHeaders } from "node:http2";
import { join } from "node:path";
import { connect as connectTls, type TLSSocket } from "node:tls";
import type { SidecarConfig } from "../../../sidecar/config.ts";
import type { Gateway, GatewayRoute } from "../../../sidecar/core/gateway/gateway.ts";
import type { ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import { systemClock } from "../../../sidecar/core/runtime/clock.ts";
import { silentLogger } from "../../../sidecar/core/runtime/log.ts";
import type { People } from "../../../sidecar/gateway/people.ts";
import { GatewayPlane } from "../../../sidecar/gateway-plane.ts";
import { type EdgeMaterial, edgeCertificate, writeSecret } from "../../fakes/edge-certificate.ts";
import { type Answer, type App, type ServiceSpec, type Sidecar, table, World } from "../sidecar/world.ts";

export const FRONT: ServiceSpec = { namespace: "edge", kind: "gateway", name: "front", ports: [] };
export const APP: ServiceSpec = { namespace: "ml", kind: "notebook", name: "app", ports: [8888] };

/** Gateways may do everything. */
export const ALLOW_GATEWAYS: ProgramPolicy = {
  id: "ml/all",
  name: "all",
  cluster: false,
  source: "policy",
  action: "Allow",
  enforcement: "Enforce",
  rules: [{ name: "gateways", from: [{ workload: { kinds: ["gateway"] } }], operations: [{ any: true }] }],
};

export const route = (over: Partial<GatewayRoute> = {}): GatewayRoute => ({
  name: "app",
  hosts: ["app.example.com"],
  path: { kind: "prefix", value: "/" },
  backend: { kind: "service", id: "ml/app", port: 8888 },
  access: "Public",
  stepUp: undefined,
  rewrite: undefined,
  cors: undefined,
  owner: undefined,
  ...over,
});

export const gatewayOf = (over: Partial<Gateway> = {}): Gateway => ({
  id: "edge/front",
  tier: "internal",
  listeners: [
    { name: "main", port: 8443, hosts: ["app.example.com", "*.nb.example.com"], secretName: "edge-tls" },
  ],
  redirectPort: 8080,
  idps: [],
  routes: [route()],
  session: {
    idleMs: 3_600_000,
    absoluteMs: 43_200_000,
    cookieName: "__Host-session",
    loginHost: undefined,
    store: "memory",
    storeSecretName: undefined,
  },
  trustedHops: [],
  limits: { perUser: undefined, perIp: undefined },
  securityHeaders: {
    hstsMaxAgeSeconds: 31_536_000,
    hstsIncludeSubDomains: false,
    hstsPreload: false,
    contentSecurityPolicy: undefined,
    frameOptions: "SAMEORIGIN",
    referrerPolicy: undefined,
    noSniff: true,
  },
  ...over,
});

export interface Answered {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}

export class Edge {
  readonly world: World;
  readonly app: App;
  readonly front: Sidecar;
  readonly callee: Sidecar;
  readonly gateway: GatewayPlane;
  readonly material: EdgeMaterial;
  readonly secretsDir: string;
  readonly #sessions: ClientHttp2Session[] = [];
  #revision = 1;

  private constructor(
    parts: Pick<Edge, "world" | "app" | "front" | "callee" | "gateway" | "material" | "secretsDir">,
  ) {
    this.world = parts.world;
    this.app = parts.app;
    this.front = parts.front;
    this.callee = parts.callee;
    this.gateway = parts.gateway;
    this.material = parts.material;
    this.secretsDir = parts.secretsDir;
  }

  static async create(
    answer: Answer,
    gateway: Gateway = gatewayOf(),
    people?: People,
    config: Partial<SidecarConfig> = {},
  ): Promise<Edge> {
    const world = await World.create();
    const app = await world.app(answer);
    const callee = await world.sidecar(APP, { app });
    const front = await world.sidecar(FRONT, { config });
    const bundle = world.authority.bundle.json;
    callee.plane.setTable(table({ self: APP, policies: [ALLOW_GATEWAYS], bundle }));
    front.plane.setTable(
      table({ self: FRONT, services: [{ service: APP, meshPort: callee.meshPort }], bundle }),
    );
    const secretsDir = join(world.dir, "secrets");
    mkdirSync(secretsDir);
    const material = await edgeCertificate(["app.example.com", "*.nb.example.com"], Date.now());
    writeSecret(secretsDir, "edge-tls", material);
    const any = { host: "127.0.0.1", port: 0 };
    const settings = {
      secretsDir,
      address: "127.0.0.1",
      ports: new Map([8443, 8080].map((port) => [port, any])),
    };
    const plane = new GatewayPlane({ plane: front.plane, settings, clock: systemClock, log: silentLogger });
    if (people !== undefined) plane.people = people;
    await plane.adopt(gateway);
    return new Edge({ world, app, front, callee, gateway: plane, material, secretsDir });
  }

  get port(): number {
    return this.gateway.portOf(8443) ?? 0;
  }

  get redirectPort(): number {
    return this.gateway.portOf(8080) ?? 0;
  }

  /** Connects with a server name. */
  socket(name = "app.example.com", alpn: readonly string[] = ["http/1.1"]): Promise<TLSSocket> {
    const socket = connectTls({
      host: "127.0.0.1",
      port: this.port,
      servername: name,
      ca: this.material.ca,
      ALPNProtocols: [...alpn],
    });
    return new Promise((resolve, reject) => {
      socket.once("secureConnect", () => resolve(socket));
      socket.once("error", reject);
    });
  }

  /** One request over a connection of its own; lines without CRLF. */
  async send(lines: readonly string[], body = "", name?: string): Promise<string> {
    const socket = await this.socket(name);
    socket.setEncoding("latin1");
    socket.write(`${lines.join("\r\n")}\r\nconnection: close\r\n\r\n${body}`);
    let text = "";
    socket.on("data", (chunk: string) => {
      text += chunk;
    });
    await new Promise<void>((resolve) => socket.once("close", () => resolve()));
    return text;
  }

  session(name = "app.example.com"): ClientHttp2Session {
    const session = connectHttp2(`https://${name}:${this.port}`, {
      createConnection: () =>
        connectTls({
          host: "127.0.0.1",
          port: this.port,
          servername: name,
          ca: this.material.ca,
          ALPNProtocols: ["h2"],
        }),
    });
    session.on("error", () => {});
    this.#sessions.push(session);
    return session;
  }

  ask(session: ClientHttp2Session, headers: Record<string, string>, body?: Buffer): Promise<Answered> {
    const stream = session.request(
      { ":authority": "app.example.com", ...headers },
      { endStream: body === undefined },
    );
    if (body !== undefined) stream.end(body);
    const chunks: Buffer[] = [];
    let answered: IncomingHttpHeaders = {};
    stream.on("response", (each) => {
      answered = each;
    });
    stream.on("data", (chunk: Buffer) => chunks.push(chunk));
    stream.on("error", () => {});
    return new Promise((resolve) =>
      stream.on("close", () =>
        resolve({
          status: Number(answered[":status"] ?? 0),
          headers: answered,
          body: Buffer.concat(chunks).toString(),
        }),
      ),
    );
  }

  get revision(): number {
    return this.#revision;
  }

  async close(): Promise<void> {
    for (const session of this.#sessions) session.destroy();
    await this.world.close();
  }
}
