// A mesh with people for the tracing suite: a gateway with a real OpenID Provider, an Express agent, a FastAPI model and a
// feature store behind it, each with a sidecar; a courier, which is the same agent without instrumentation; and Bob's
// notebook, which acts for him alone. Applications are processes that know nothing of the mesh but an address to call.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type IncomingHttpHeaders } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { get, type Sidecar, startControlPlane, startSidecar, until } from "../demo/mesh-processes.ts";
import { freePorts, type RunningProcess, startNode } from "../demo/process.ts";
import { edgeCertificate, writeSecret } from "../fakes/edge-certificate.ts";
import { startOpenIdProvider } from "../fakes/openid-provider.ts";
import { HOST, NetBrowser } from "../integration/gateway/people-mesh.ts";
import type { Python } from "./python.ts";

const CLIENT_SECRET = "a secret of the client, thirty-two bytes";
const EXPRESS = fileURLToPath(new URL("servers/express", import.meta.url));
const SERVERS = fileURLToPath(new URL("servers", import.meta.url));

const WORKLOADS = ["people", "agent", "courier", "model", "store", "nb-bob"] as const;
export type Workload = (typeof WORKLOADS)[number];

/** What a sidecar wrote down of one call. */
export interface TracedCall {
  /** The last part of the path, up to a dot: `alice-17`. Whoever made the request, it names who it was. */
  readonly id: string;
  readonly user: string | null;
  readonly effect: string;
  readonly reason: string;
  readonly chain: readonly string[];
  readonly txn: string | null;
}

export interface TracedMesh {
  readonly ca: string;
  readonly gatewayPort: number;
  /** Where Bob's notebook reaches the agent, the model, and any service (its proxy). */
  readonly notebook: { readonly agent: number; readonly proxy: number };
  browser(user: string): NetBrowser;
  /** What this workload's sidecar recorded of calls to it. */
  recorded(workload: Workload): TracedCall[];
  /** What a workload's application was called with, by id. */
  heads(
    workload: "agent" | "courier" | "model" | "store",
  ): Promise<Readonly<Record<string, IncomingHttpHeaders>>>;
  /** Asks the agent's application itself, past the mesh. */
  askAgent(path: string): Promise<{ readonly status: number; readonly body: string }>;
  /** Calls of a workload that went on as nobody's, for this reason. */
  fallbacks(workload: Workload, reason: string): Promise<number>;
  close(): Promise<void>;
}

interface AuditLine {
  readonly data: {
    readonly userIdentity: { readonly id: string } | null;
    readonly identityMetadata: { readonly chain: readonly { readonly s: string }[] };
    readonly decision: { readonly effect: string; readonly reason: string };
    readonly request: { readonly pathTemplate: string };
    readonly txn: string | null;
  };
}

function callOf({ data }: AuditLine): TracedCall {
  const { userIdentity, identityMetadata, decision, request, txn } = data;
  return {
    id: (request.pathTemplate.split("/").at(-1) ?? "").split(".")[0] ?? "",
    user: userIdentity?.id ?? null,
    effect: decision.effect,
    reason: decision.reason,
    chain: identityMetadata.chain.map(({ s }) => s),
    txn,
  };
}

const HEAD = "apiVersion: countersign.dev/v1alpha1";

function workload(name: Workload, namespace: string, kind: string, meshPort: number, more: string): string {
  return `${HEAD}
kind: Workload
metadata: {name: ${name}, namespace: ${namespace}}
spec: {kind: ${kind}, serviceAccount: ${name}, addresses: [127.0.0.1], meshPort: ${meshPort}${more}}
---
`;
}

function objects(issuer: string, at: Readonly<Record<Workload, number>>): string {
  const serves = (name: string): string => `, service: ${name}, ports: [{port: 8080, protocol: http}]`;
  return `${HEAD}
kind: MeshConfig
metadata: {name: default}
spec: {trustDomain: lake.example}
---
${HEAD}
kind: IdentityProvider
metadata: {name: acme}
spec:
  type: oidc
  displayName: Acme
  issuer: ${issuer}
  clientID: gateway
  clientSecretRef: {name: oidc}
  scopes: [openid, email, profile]
  algorithms: [ES256]
  allowInsecureIssuer: true
---
${workload("people", "edge", "gateway", at.people, "")}${workload("agent", "ml", "agent", at.agent, serves("agent"))}${workload("courier", "ml", "agent", at.courier, `${serves("courier")}, propagation: [forward]`)}${workload("model", "ml", "serving", at.model, serves("model"))}${workload("store", "ml", "service", at.store, serves("store"))}${workload("nb-bob", "ml", "notebook", at["nb-bob"], ", owner: acme|bob, propagation: [forward, session]")}${HEAD}
kind: MeshGateway
metadata: {name: people, namespace: edge}
spec:
  tier: internal
  identityProviders: [acme]
  listeners: [{name: main, port: 8443, hosts: [${HOST}], tls: {secretName: edge-tls}}]
  routes:
  - {name: courier, hosts: [${HOST}], path: {prefix: /carry}, backend: {service: courier, namespace: ml}}
  - {name: agent, hosts: [${HOST}], path: {prefix: /}, backend: {service: agent, namespace: ml}}
---
${HEAD}
kind: AccessPolicy
metadata: {name: people-alone, namespace: ml}
spec:
  action: Allow
  targets: [{kinds: [agent, serving, service]}]
  rules: [{name: people, from: [{user: {presence: Required}}], operations: [{any: true}]}]
`;
}

/** Starts it. @param modules folder with the Node packages of the agent. */
export async function startTracedMesh(modules: string, python: Python): Promise<TracedMesh> {
  const dir = mkdtempSync(join(tmpdir(), "countersign-traced-"));
  const running: RunningProcess[] = [];
  const heads: Record<string, IncomingHttpHeaders> = {};
  const store = createServer((request, response) => {
    heads[(request.url ?? "").split("/").at(-1) ?? ""] = request.headers;
    request.resume().on("end", () => response.end("{}"));
  });
  await new Promise<void>((resolve) => store.listen(0, "127.0.0.1", resolve));
  const op = await startOpenIdProvider({
    ...{ clientId: "gateway", clientSecret: CLIENT_SECRET },
    redirectUris: [`https://${HOST}/.countersign/callback/acme`],
  });
  const close = async (): Promise<void> => {
    await Promise.all(running.map((process) => process.stop()));
    store.closeAllConnections();
    store.close();
    await op.close();
    rmSync(dir, { recursive: true, force: true });
  };
  try {
    const ports = await freePorts(2 * WORKLOADS.length + 7);
    const take = (): number => ports.pop() ?? 0; // as many as were asked for
    const at = Object.fromEntries(WORKLOADS.map((name) => [name, take()])) as Record<Workload, number>; // each of them
    const toModel = { agent: take(), courier: take() };
    const [edge, fastapi, toStore, toAgent, proxy] = [take(), take(), take(), take(), take()];

    const trace = { OTEL_TRACES_EXPORTER: "none", OTEL_METRICS_EXPORTER: "none", OTEL_LOGS_EXPORTER: "none" };
    const express = (name: "agent" | "courier", args: readonly string[]): Promise<number> => {
      const env = { ...trace, NODE_PATH: modules, MODEL_URL: `http://127.0.0.1:${toModel[name]}` };
      const process = startNode(name, [...args, join(EXPRESS, "app.cjs")], env);
      running.push(process);
      return process.nextLine().then(Number);
    };
    running.push(
      python.start("opentelemetry-instrument", ["uvicorn", "fastapi_app:app", "--port", String(fastapi)], {
        ...{ ...trace, PYTHONPATH: SERVERS, STORE_URL: `http://127.0.0.1:${toStore}` },
      }),
    );
    const apps = {
      agent: await express("agent", ["--require", "@opentelemetry/auto-instrumentations-node/register"]),
      courier: await express("courier", []),
      model: fastapi,
      store: (store.address() as AddressInfo).port,
    };

    const configDir = join(dir, "config");
    mkdirSync(configDir);
    writeFileSync(join(configDir, "objects.yaml"), objects(op.issuer, at));
    const secrets = join(dir, "secrets");
    const certificate = await edgeCertificate([HOST], Date.now());
    writeSecret(secrets, "edge-tls", certificate);
    mkdirSync(join(secrets, "oidc"), { recursive: true });
    writeFileSync(join(secrets, "oidc", "client-secret"), CLIENT_SECRET);

    const controlPlane = await startControlPlane(configDir, join(dir, "control-plane"), running);
    const local = (port: number, service: string): string[] => [
      ...["--local-service", `127.0.0.1:${port}=ml/${service}:8080`],
    ];
    const args: Readonly<Record<Workload, readonly string[]>> = {
      people: ["--gateway-secrets", secrets, "--gateway-port-map", `8443=127.0.0.1:${edge}`],
      agent: ["--app-port-map", `8080=127.0.0.1:${apps.agent}`, ...local(toModel.agent, "model")],
      courier: ["--app-port-map", `8080=127.0.0.1:${apps.courier}`, ...local(toModel.courier, "model")],
      model: ["--app-port-map", `8080=127.0.0.1:${apps.model}`, ...local(toStore, "store")],
      store: ["--app-port-map", `8080=127.0.0.1:${apps.store}`],
      "nb-bob": local(toAgent, "agent"),
    };
    const start = async (name: Workload): Promise<readonly [Workload, Sidecar]> => {
      const namespace = name === "people" ? "edge" : "ml";
      const place = { meshPort: at[name], metricsPort: take(), proxyPort: name === "nb-bob" ? proxy : 0 };
      const tokens = ["--token-service", `127.0.0.1:${controlPlane.ports.tokens}`];
      const spec = { namespace, name, dir: join(dir, name), ...place, args: [...tokens, ...args[name]] };
      return [name, await startSidecar(controlPlane, spec, running)];
    };
    // All of them: what is not yet started cannot be stopped.
    const started = await Promise.allSettled(WORKLOADS.map(start));
    const sidecars = new Map(
      started.map((one) => {
        if (one.status === "rejected") throw one.reason;
        return one.value;
      }),
    );
    const sidecar = (name: Workload): Sidecar => {
      const found = sidecars.get(name);
      if (found === undefined) throw new Error(`no sidecar \`${name}\` was started`);
      return found;
    };
    await until(
      "FastAPI",
      async () => ((await get(fastapi, "/heads")).status === 200 ? true : undefined),
      100_000,
    );
    return {
      ...{ ca: certificate.ca, gatewayPort: edge, notebook: { agent: toAgent, proxy } },
      browser: (user) => new NetBrowser([edge], certificate.ca, user),
      recorded: (name) =>
        readFileSync(sidecar(name).auditFile, "utf8")
          .split("\n")
          .slice(0, -1)
          .map((line) => callOf(JSON.parse(line) as AuditLine)),
      heads: async (name) =>
        name === "store" ? { ...heads } : JSON.parse((await get(apps[name], "/heads")).body),
      askAgent: (path) => get(apps.agent, path),
      fallbacks: async (name, reason) => {
        const { body } = await get(sidecar(name).metricsPort, "/metrics");
        const line = new RegExp(
          `^countersign_propagation_fallbacks_total\\{[^}]*reason="${reason}"[^}]*\\} (\\d+)`,
          "m",
        );
        return Number(line.exec(body)?.[1] ?? 0);
      },
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}
