// A whole small mesh with people, as processes: control plane with its token service, a gateway, a notebook and a model,
// and a real OpenID Provider. The notebook's application calls the model with the trace that it was called with, as any
// OpenTelemetry library does; it knows nothing of users.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import {
  createServer,
  request as httpRequest,
  type IncomingMessage,
  type Server,
  type ServerResponse,
} from "node:http";
import { request as httpsRequest } from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { WebSocketServer } from "ws";
import { systemCodeOf } from "../../../sidecar/core/runtime/errors.ts";
import type { EdgeAnswer } from "../../../sidecar/gateway/people.ts";
import {
  type RunningControlPlane,
  type Sidecar,
  startControlPlane,
  startSidecar,
} from "../../demo/mesh-processes.ts";
import { freePorts, type RunningProcess } from "../../demo/process.ts";
import { edgeCertificate, writeSecret } from "../../fakes/edge-certificate.ts";
import { type OpenIdProvider, startOpenIdProvider } from "../../fakes/openid-provider.ts";
import { type Asked, BaseBrowser, NAVIGATION } from "../../sidecar/gateway/login/browser.ts";

/** The trust domain, and by default the host of the token service's issuer. */
export const ISSUER_HOST = "lake.example";
export const HOST = "nb.acme.example";
const CLIENT_SECRET = "a secret of the client, thirty-two bytes";

/** One line of an audit file, as far as the tests look. */
export interface AuditData {
  readonly actionName: string;
  readonly serviceName: string;
  readonly userIdentity: {
    readonly id: string;
    readonly roles: readonly string[];
    readonly email?: string;
  } | null;
  readonly identityMetadata: {
    readonly caller: string | null;
    readonly origin: string | null;
    readonly hops: number;
    readonly chain: readonly { readonly s: string; readonly o: string }[];
  };
  readonly txn: string | null;
  readonly decision: { readonly effect: string; readonly reason: string; readonly rule: string | null };
}

export interface PeopleMeshOptions {
  /** Gateways, all of the same workload; 1 when omitted. */
  readonly replicas?: number;
  /** Redis that they keep sessions in; in memory when omitted. */
  readonly redisUrl?: string;
  /**
   * Also served as `localhost`, for programs that look names up; people sign in there. The model is at `/invocations` of it, for
   * scientists' programs, too.
   */
  readonly localhost?: boolean;
  /** Issuer of a second provider, `robots`, whose access tokens for `https://api.acme.example` count below `/api`. */
  readonly robots?: string;
}

export interface PeopleMesh {
  readonly op: OpenIdProvider;
  readonly controlPlane: RunningControlPlane;
  readonly gateways: readonly MeshGatewayProcess[];
  /** Root of the gateway's certificate, PEM. */
  readonly ca: string;
  readonly gatewayPort: number;
  browser(user?: string): NetBrowser;
  /** What the model's sidecar recorded so far. */
  recorded(): AuditData[];
  /** What the model's application got last. */
  readonly seen: { headers: Readonly<Record<string, string | string[] | undefined>> };
  /** Rewrites the policies. */
  setPolicies(text: string): void;
  close(): Promise<void>;
}

export interface MeshGatewayProcess {
  /** Where clients come in. */
  readonly port: number;
  readonly process: RunningProcess;
  /** Events of what it decided by itself. */
  edgeEvents(): EdgeEventData[];
}

/** `data` of an event of a gateway, as far as the tests look. */
export interface EdgeEventData {
  readonly actionName: string;
  readonly userIdentity: { readonly id: string } | null;
  readonly session: string | null;
  readonly decision: { readonly effect: string; readonly reason: string };
  readonly request: { readonly sourceIp: string | null; readonly pathTemplate: string | null } | null;
  readonly repeated: number;
}

function linesOf(file: string): { readonly type: string; readonly data: unknown }[] {
  const lines = readFileSync(file, "utf8").split("\n").slice(0, -1);
  return lines.map((line) => JSON.parse(line));
}

/** A browser that speaks to a gateway over TLS; where that one is gone, to the next, as behind a balancer. */
export class NetBrowser extends BaseBrowser {
  readonly #ports: readonly number[];
  readonly #ca: string;
  /** Which of the gateways it speaks to. */
  at = 0;

  readonly #host: string;

  /** @param host address of the gateways. */
  constructor(ports: readonly number[], ca: string, user?: string, host = "127.0.0.1") {
    super(user);
    this.#ports = ports;
    this.#ca = ca;
    this.#host = host;
  }

  get port(): number {
    return this.#ports[this.at] ?? 0;
  }

  async ask(target: string, asked: Asked = {}): Promise<EdgeAnswer> {
    try {
      return await this.#ask(target, asked);
    } catch (error) {
      const isGone = systemCodeOf(error) === "ECONNREFUSED" || systemCodeOf(error) === "ECONNRESET";
      if (!isGone || this.#ports.length < 2) throw error;
      this.at = (this.at + 1) % this.#ports.length;
      return await this.#ask(target, asked);
    }
  }

  async #ask(target: string, asked: Asked): Promise<EdgeAnswer> {
    const { method = "GET", host = HOST, fields = NAVIGATION, body = "" } = asked;
    const cookie = this.jar.field(host);
    const answer = await new Promise<EdgeAnswer>((resolve, reject) => {
      const outgoing = httpsRequest(
        {
          ...{
            host: this.#host,
            port: this.port,
            servername: host.replace(/:\d+$/, ""),
            ca: this.#ca,
            agent: false,
          },
          ...{ method, path: target, timeout: 60_000 },
          headers: { host, ...(cookie === undefined ? {} : { cookie }), ...fields },
        },
        (response) => {
          const chunks: Buffer[] = [];
          response.on("data", (chunk: Buffer) => chunks.push(chunk));
          response.on("end", () => resolve(answerOf(response, Buffer.concat(chunks))));
        },
      );
      outgoing.on("timeout", () => outgoing.destroy(new Error("no answer from the gateway")));
      outgoing.on("error", reject);
      outgoing.end(body);
    });
    this.jar.take(
      host,
      answer.fields.filter(([name]) => name === "set-cookie").map(([, value]) => value),
    );
    return answer;
  }
}

function answerOf(response: IncomingMessage, body: Buffer): EdgeAnswer {
  const fields: [string, string][] = [];
  for (let i = 0; i < response.rawHeaders.length; i += 2)
    fields.push([(response.rawHeaders[i] ?? "").toLowerCase(), response.rawHeaders[i + 1] ?? ""]);
  return { kind: "answer", status: response.statusCode ?? 0, fields, body: body.toString("utf8") };
}

async function listen(server: Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return (server.address() as AddressInfo).port;
}

const robotsProvider = (issuer: string): string => `---
apiVersion: countersign.dev/v1alpha1
kind: IdentityProvider
metadata: {name: robots}
spec:
  type: oidc
  displayName: Robots
  issuer: ${issuer}
  clientID: gateway
  groupsClaim: groups
  audiences: [https://api.acme.example]
  algorithms: [ES256]
  allowInsecureIssuer: true
---
apiVersion: countersign.dev/v1alpha1
kind: MeshRoleBinding
metadata: {name: robots}
spec: {roles: [fraud-ds], subjects: [{idp: robots, group: fraud}]}
`;

const MODEL_ROUTE =
  "{name: model, hosts: [localhost], path: {exact: /invocations}, access: LoginOrBearer, backend: {service: scorer, namespace: ml-serving}}, ";

const MODEL_POLICY = `---
apiVersion: countersign.dev/v1alpha1
kind: AccessPolicy
metadata: {name: scientists-programs-score, namespace: ml-serving}
spec:
  action: Allow
  targets: [{names: [scorer]}]
  rules: [{name: programs, from: [{workload: {kinds: [gateway]}, user: {roles: [fraud-ds]}}], operations: [{op: serving.invoke}]}]
`;

const ROBOTS_ROUTE =
  "{name: api, hosts: [nb.acme.example], path: {prefix: /api}, access: LoginOrBearer, backend: {service: nb, namespace: ml-dev}}, ";

function objects(
  issuer: string,
  ports: Readonly<Record<string, number>>,
  { redisUrl, robots }: PeopleMeshOptions,
  hosts: readonly string[],
): string {
  const store = redisUrl !== undefined ? "{type: redis, secretRef: {name: sessions}}" : "{type: memory}";
  return `apiVersion: countersign.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec: {trustDomain: lake.example}
---
apiVersion: countersign.dev/v1alpha1
kind: IdentityProvider
metadata: {name: acme}
spec:
  type: oidc
  displayName: Acme
  issuer: ${issuer}
  clientID: gateway
  clientSecretRef: {name: oidc}
  scopes: [openid, email, profile, groups]
  groupsClaim: groups
  algorithms: [ES256]
  allowInsecureIssuer: true
  offlineAccess: true
---
apiVersion: countersign.dev/v1alpha1
kind: MeshRoleBinding
metadata: {name: fraud}
spec: {roles: [fraud-ds], subjects: [{idp: acme, group: fraud}]}
---
apiVersion: countersign.dev/v1alpha1
kind: MeshRole
metadata: {name: fraud-ds}
spec: {}
---
apiVersion: countersign.dev/v1alpha1
kind: Workload
metadata: {name: people, namespace: edge}
spec: {kind: gateway, serviceAccount: gateway, addresses: [127.0.0.1], meshPort: ${ports["gateway"]}}
---
apiVersion: countersign.dev/v1alpha1
kind: Workload
metadata: {name: nb, namespace: ml-dev}
spec: {kind: notebook, serviceAccount: nb, addresses: [127.0.0.1], meshPort: ${ports["notebook"]}, service: nb, ports: [{port: 8888, protocol: http}]}
---
apiVersion: countersign.dev/v1alpha1
kind: Workload
metadata: {name: scorer, namespace: ml-serving}
spec: {kind: serving, serviceAccount: scorer, addresses: [127.0.0.1], meshPort: ${ports["model"]}, service: scorer, ports: [{port: 8080, protocol: http, packs: [mlflow-scoring]}]}
---
apiVersion: countersign.dev/v1alpha1
kind: MeshGateway
metadata: {name: people, namespace: edge}
spec:
  tier: internal
  identityProviders: [acme${robots === undefined ? "" : ", robots"}]
  listeners: [{name: main, port: 8443, hosts: [${hosts.join(", ")}], tls: {secretName: edge-tls}}]
  routes: [${robots === undefined ? "" : ROBOTS_ROUTE}${hosts.includes("localhost") ? MODEL_ROUTE : ""}{name: lab, hosts: [${hosts.join(", ")}], path: {prefix: /}, backend: {service: nb, namespace: ml-dev}}]
  session: {store: ${store}${hosts.includes("localhost") ? ", loginHost: localhost" : ""}}
${robots === undefined ? "" : robotsProvider(robots)}`;
}

export const POLICIES = `apiVersion: countersign.dev/v1alpha1
kind: AccessPolicy
metadata: {name: people-open-notebooks, namespace: ml-dev}
spec:
  action: Allow
  targets: [{kinds: [notebook]}]
  rules: [{name: people, from: [{workload: {kinds: [gateway]}, user: {presence: Required}}], operations: [{any: true}]}]
---
apiVersion: countersign.dev/v1alpha1
kind: AccessPolicy
metadata: {name: scientists-score, namespace: ml-serving}
spec:
  action: Allow
  targets: [{names: [scorer]}]
  rules:
  - name: scientists
    from: [{workload: {kinds: [notebook]}, user: {roles: [fraud-ds]}, via: {origin: {kinds: [gateway]}}}]
    operations: [{op: serving.invoke}]
    with: {identity: {forward: [user, email, roles]}}
`;

/** Starts it; resolves when everything is ready. */
export async function startPeopleMesh(options: PeopleMeshOptions = {}): Promise<PeopleMesh> {
  const { replicas = 1, redisUrl } = options;
  const root = mkdtempSync(join(tmpdir(), "countersign-people-"));
  const running: RunningProcess[] = [];
  const ports = await freePorts(5 + 3 * replicas);
  const [notebook = 0, model = 0, proxy = 0, ...status] = ports.splice(0, 5);
  const edges = ports.splice(0, replicas);
  const gateway = ports[0] ?? 0;
  const hosts = options.localhost === true ? [HOST, "localhost", ISSUER_HOST] : [HOST];
  const op = await startOpenIdProvider({
    ...{ clientId: "gateway", clientSecret: CLIENT_SECRET, refreshTokens: true },
    redirectUris: [HOST, `localhost:${edges[0]}`].map((host) => `https://${host}/.countersign/callback/acme`),
    postLogoutRedirectUris: [`https://${HOST}/.countersign/signed-out`],
  });
  const configDir = join(root, "config");
  mkdirSync(configDir);
  const declared = objects(op.issuer, { gateway, notebook, model }, options, hosts);
  writeFileSync(join(configDir, "objects.yaml"), declared);
  writeFileSync(
    join(configDir, "policies.yaml"),
    options.localhost === true ? `${POLICIES}${MODEL_POLICY}` : POLICIES,
  );
  const secrets = join(root, "secrets");
  const certificate = await edgeCertificate(hosts, Date.now());
  writeSecret(secrets, "edge-tls", certificate);
  mkdirSync(join(secrets, "oidc"), { recursive: true });
  writeFileSync(join(secrets, "oidc", "client-secret"), CLIENT_SECRET);
  if (redisUrl !== undefined) {
    mkdirSync(join(secrets, "sessions"));
    writeFileSync(join(secrets, "sessions", "url"), redisUrl);
  }
  const seen: PeopleMesh["seen"] = { headers: {} };
  const scorer = createServer((request, response) => {
    seen.headers = request.headers;
    request.resume().on("end", () => response.end('{"score":0.1}'));
  });
  // Calls the model as a cell would; what it was called with but the trace it does not look at.
  const lab = createServer((request, response) => {
    if (request.url === "/events")
      response.writeHead(200, { "content-type": "text/event-stream" }).write("data: hello\n\n");
    else callModel(proxy, request, response);
  });
  new WebSocketServer({ server: lab }).on("connection", (socket) =>
    socket.on("message", (message) => socket.send(String(message))),
  );
  const [scorerPort, labPort] = await Promise.all([listen(scorer), listen(lab)]);
  const close = async (): Promise<void> => {
    await Promise.all(running.map((process) => process.stop()));
    for (const server of [scorer, lab]) {
      server.closeAllConnections();
      server.close();
    }
    await op.close();
    rmSync(root, { recursive: true, force: true });
  };
  try {
    const controlPlane = await startControlPlane(configDir, join(root, "control-plane"), running);
    const tokens = ["--token-service", `127.0.0.1:${controlPlane.ports.tokens}`];
    const start = (
      [namespace, name]: readonly [string, string],
      [meshPort, metricsPort, proxyPort]: readonly [number, number, number],
      args: readonly string[],
      dir = join(root, name),
    ): Promise<Sidecar> =>
      startSidecar(
        controlPlane,
        { namespace, name, dir, meshPort, proxyPort, metricsPort, args: [...tokens, ...args] },
        running,
      );
    const startGateway = (edge: number, i: number): Promise<Sidecar> =>
      start(
        ["edge", "people"],
        [ports[2 * i] ?? 0, ports[2 * i + 1] ?? 0, 0],
        ["--gateway-secrets", secrets, "--gateway-port-map", `8443=127.0.0.1:${edge}`],
        join(root, `people-${i}`),
      );
    const [modelSidecar, , ...gateways] = await Promise.all([
      start(
        ["ml-serving", "scorer"],
        [model, status[0] ?? 0, 0],
        ["--app-port-map", `8080=127.0.0.1:${scorerPort}`],
      ),
      start(
        ["ml-dev", "nb"],
        [notebook, status[1] ?? 0, proxy],
        ["--app-port-map", `8888=127.0.0.1:${labPort}`],
      ),
      ...edges.map(startGateway),
    ]);
    return {
      ...{ op, controlPlane, ca: certificate.ca, gatewayPort: edges[0] ?? 0, seen },
      gateways: gateways.map(({ process, auditFile }, i) => ({
        ...{ process, port: edges[i] ?? 0 },
        edgeEvents: () =>
          linesOf(auditFile)
            .filter(({ type }) => type === "dev.countersign.edge.v1")
            .map(({ data }) => data as EdgeEventData),
      })),
      browser: (user) => new NetBrowser(edges, certificate.ca, user),
      recorded: () => linesOf(modelSidecar.auditFile).map(({ data }) => data as AuditData),
      setPolicies: (text) => writeFileSync(join(configDir, "policies.yaml"), text),
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

function callModel(proxyPort: number, request: IncomingMessage, response: ServerResponse): void {
  const { traceparent } = request.headers;
  const outgoing = httpRequest(
    {
      ...{ host: "127.0.0.1", port: proxyPort, method: "POST", agent: false },
      path: "http://scorer.ml-serving:8080/invocations",
      headers: {
        ...{ host: "scorer.ml-serving:8080", "content-type": "application/json" },
        ...(typeof traceparent === "string" && request.url !== "/untraced" ? { traceparent } : {}),
      },
    },
    (answer) => {
      response.writeHead(answer.statusCode ?? 502, {
        "content-type": answer.headers["content-type"] ?? "text/plain",
      });
      answer.pipe(response);
    },
  );
  outgoing.on("error", (error) => response.writeHead(502).end(error.message));
  outgoing.end("{}");
}
