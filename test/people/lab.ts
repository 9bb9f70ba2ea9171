// A small platform as people meet it, as processes: control plane, gateway, a notebook with a page and a kernel's WebSocket,
// and a model that the notebook's code calls. Applications pass on the trace that they were called with, and know no users.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, request as httpRequest, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo, Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { WebSocketServer } from "ws";
import { type RunningControlPlane, startControlPlane, startSidecar } from "../demo/mesh-processes.ts";
import { freePorts, type RunningProcess } from "../demo/process.ts";
import { type EdgeMaterial, writeSecret } from "../fakes/edge-certificate.ts";
import type { AuditData } from "../integration/gateway/people-mesh.ts";

/** Asks its own server, as a notebook's page does, and shows what it got. */
const PAGE = `<!doctype html><html lang="en"><meta charset="utf-8"><title>Notebook</title><h1>Notebook</h1>
<p>Score: <output id="score"></output></p><p>Kernel: <output id="kernel"></output></p>
<script>
const show = (id, text) => { document.getElementById(id).textContent = text; };
const run = () => fetch("/run", {method: "POST"}).then(async (answer) => show("score", answer.status + " " + await answer.text()));
const kernel = new WebSocket("wss://" + location.host + "/kernel");
kernel.onmessage = ({data}) => show("kernel", data);
kernel.onclose = ({code, reason}) => show("kernel", "closed " + code + " " + reason);
run();
</script></html>`;

export interface LabInput {
  /** Where the browser finds it. */
  readonly host: string;
  readonly certificate: EdgeMaterial;
  readonly gatewayPort: number;
  /** IdentityProvider, roles and their bindings, YAML. */
  readonly identities: string;
  /** More of MeshGateway's `spec.routes`, before the one that takes all; YAML, one line each. */
  readonly routes: readonly string[];
  readonly providers: readonly string[];
  /** By name of the Secret, its files. */
  readonly secrets: Readonly<Record<string, Readonly<Record<string, string>>>>;
}

export interface Lab {
  readonly controlPlane: RunningControlPlane;
  readonly stateDir: string;
  /** What the model's sidecar recorded so far. */
  recorded(): AuditData[];
  /** What the gateway logged so far. */
  gatewayLog(): string;
  close(): Promise<void>;
}

function objects(input: LabInput, ports: Readonly<Record<string, number>>): string {
  const workload = (name: string, namespace: string, spec: string): string =>
    `---\napiVersion: countersign.dev/v1alpha1\nkind: Workload\nmetadata: {name: ${name}, namespace: ${namespace}}\nspec: {addresses: [127.0.0.1], ${spec}}\n`;
  return `apiVersion: countersign.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec: {trustDomain: lake.example}
---
${input.identities}
${workload("people", "edge", `kind: gateway, serviceAccount: gateway, meshPort: ${ports["gateway"]}`)}
${workload("nb", "ml-dev", `kind: notebook, serviceAccount: nb, meshPort: ${ports["notebook"]}, service: nb, ports: [{port: 8888, protocol: http}]`)}
${workload("scorer", "ml-serving", `kind: serving, serviceAccount: scorer, meshPort: ${ports["model"]}, service: scorer, ports: [{port: 8080, protocol: http, packs: [mlflow-scoring]}]`)}
---
apiVersion: countersign.dev/v1alpha1
kind: MeshGateway
metadata: {name: people, namespace: edge}
spec:
  tier: internal
  identityProviders: [${input.providers.join(", ")}]
  listeners: [{name: main, port: 8443, hosts: [${input.host}], tls: {secretName: edge-tls}}]
  routes:
${input.routes.map((line) => `  - ${line}\n`).join("")}  - {name: lab, hosts: [${input.host}], path: {prefix: /}, backend: {service: nb, namespace: ml-dev}}
---
apiVersion: countersign.dev/v1alpha1
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
    from:
    - {workload: {kinds: [notebook]}, user: {roles: [fraud-ds]}, via: {origin: {kinds: [gateway]}}}
    - {workload: {kinds: [gateway]}, user: {roles: [fraud-ds]}}
    operations: [{op: serving.invoke}]
`;
}

async function listen(server: Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return (server.address() as AddressInfo).port;
}

/** Starts it; resolves when everything is ready. */
export async function startLab(input: LabInput): Promise<Lab> {
  const dir = mkdtempSync(join(tmpdir(), "countersign-lab-"));
  const running: RunningProcess[] = [];
  const [gateway = 0, notebook = 0, model = 0, proxy = 0, ...status] = await freePorts(7);
  const configDir = join(dir, "config");
  mkdirSync(configDir);
  writeFileSync(join(configDir, "objects.yaml"), objects(input, { gateway, notebook, model }));
  const secrets = join(dir, "secrets");
  writeSecret(secrets, "edge-tls", input.certificate);
  for (const [name, files] of Object.entries(input.secrets)) {
    mkdirSync(join(secrets, name), { recursive: true });
    for (const [file, text] of Object.entries(files)) writeFileSync(join(secrets, name, file), text);
  }
  const scorer = createServer((request, response) => {
    request.resume().on("end", () => response.end('{"score":0.1}'));
  });
  const lab = createServer((request, response) => serveNotebook(proxy, request, response));
  const kernels = new WebSocketServer({ server: lab, path: "/kernel" });
  kernels.on("connection", (socket) => socket.send("idle"));
  const [scorerPort, labPort] = await Promise.all([listen(scorer), listen(lab)]);
  const close = async (): Promise<void> => {
    await Promise.all(running.map((process) => process.stop()));
    for (const socket of kernels.clients) socket.terminate();
    for (const server of [scorer, lab]) {
      server.closeAllConnections();
      server.close();
    }
    rmSync(dir, { recursive: true, force: true });
  };
  try {
    const stateDir = join(dir, "control-plane");
    const controlPlane = await startControlPlane(configDir, stateDir, running);
    const sidecar = (
      i: number,
      [namespace, name]: readonly [string, string],
      ports: { readonly meshPort: number; readonly proxyPort: number },
      args: readonly string[],
    ) =>
      startSidecar(
        controlPlane,
        {
          ...{ namespace, name, dir: join(dir, name), metricsPort: status[i] ?? 0, ...ports },
          args: ["--token-service", `127.0.0.1:${controlPlane.ports.tokens}`, ...args],
        },
        running,
      );
    const edge = `8443=127.0.0.1:${input.gatewayPort}`;
    const [front, , modelSidecar] = await Promise.all([
      sidecar(0, ["edge", "people"], { meshPort: gateway, proxyPort: 0 }, [
        ...["--gateway-secrets", secrets, "--gateway-port-map", edge],
      ]),
      sidecar(1, ["ml-dev", "nb"], { meshPort: notebook, proxyPort: proxy }, [
        ...["--app-port-map", `8888=127.0.0.1:${labPort}`],
      ]),
      sidecar(2, ["ml-serving", "scorer"], { meshPort: model, proxyPort: 0 }, [
        ...["--app-port-map", `8080=127.0.0.1:${scorerPort}`],
      ]),
    ]);
    return {
      ...{ controlPlane, stateDir, close },
      recorded: () =>
        readFileSync(modelSidecar.auditFile, "utf8")
          .split("\n")
          .slice(0, -1)
          .map((line) => (JSON.parse(line) as { data: AuditData }).data),
      gatewayLog: () => front.process.errors(),
    };
  } catch (error) {
    await close();
    throw error;
  }
}

function serveNotebook(proxyPort: number, request: IncomingMessage, response: ServerResponse): void {
  request.resume();
  if (request.url?.startsWith("/run") !== true) {
    const isPage = request.method === "GET" && request.headers.accept?.includes("text/html") === true;
    response.writeHead(isPage ? 200 : 404, { "content-type": "text/html; charset=utf-8" });
    response.end(isPage ? PAGE : "");
    return;
  }
  const { traceparent } = request.headers;
  const outgoing = httpRequest(
    {
      ...{ host: "127.0.0.1", port: proxyPort, method: "POST", agent: false },
      path: "http://scorer.ml-serving:8080/invocations",
      headers: {
        ...{ host: "scorer.ml-serving:8080", "content-type": "application/json" },
        ...(typeof traceparent === "string" ? { traceparent } : {}),
      },
    },
    (answer) => {
      const type = answer.headers["content-type"] ?? "text/plain";
      response.writeHead(answer.statusCode ?? 502, { "content-type": type });
      answer.pipe(response);
    },
  );
  outgoing.on("error", (error) => response.writeHead(502).end(error.message));
  outgoing.end("{}");
}
