// A rolling restart under load: real sidecar processes before one application, restarted one after the other while calls at
// a fixed rate and long answers go through them. Counts what failed, which is to be nothing.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { Agent, createServer, type IncomingMessage, request, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { get, until } from "../demo/mesh-processes.ts";
import { freePorts, type RunningProcess, repositoryRoot, startNode } from "../demo/process.ts";
import { policyYaml, TestMesh } from "../fakes/mesh.ts";

const CLI = join(repositoryRoot, "dist/control-plane/cli/main.js");
const STREAM_CHUNKS = 20;
const STREAM_EVERY_MS = 100;
const CHUNK = `data: ${"x".repeat(1_000)}\n\n`;
const MAX_KEPT_FAILURES = 20;
/** Calls at once: more only queue, and a slow machine would never catch up. */
const MAX_OPEN = 100;

export interface RestartOptions {
  readonly upstreams: number;
  readonly rounds: number;
  /** Requests per second. */
  readonly rate: number;
  /** Long answers open at any time; each lasts two seconds. */
  readonly streams: number;
  /** Every other restart also takes the endpoint out of the table first. */
  readonly leavesTable: boolean;
  readonly onRestart?: (restarts: number, report: RestartReport) => void;
}

export interface RestartReport {
  requests: number;
  streams: number;
  restarts: number;
  failed: number;
  /** The first ones. */
  readonly failures: string[];
}

/** The application: answers at once, or over two seconds when the request asks for a stream. */
function startApplication(): Promise<Server> {
  const server = createServer((incoming, response) => {
    let body = "";
    incoming.setEncoding("utf8").on("data", (text: string) => {
      body += text;
    });
    incoming.on("end", () => {
      if (!body.includes("stream")) {
        response.end(`{"got":${body.length}}`);
        return;
      }
      let left = STREAM_CHUNKS;
      response.writeHead(200, { "content-type": "text/event-stream" });
      const timer = setInterval(() => {
        response.write(CHUNK);
        left--;
        if (left > 0) return;
        clearInterval(timer);
        response.end();
      }, STREAM_EVERY_MS);
      response.on("close", () => clearInterval(timer));
    });
  });
  server.keepAliveTimeout = 60_000;
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server)));
}

class Platform {
  readonly #dir = mkdtempSync(join(tmpdir(), "countersign-restarts-"));
  readonly #mesh = new TestMesh();
  readonly #options: RestartOptions;
  #appPort = 0;
  readonly #callees: RunningProcess[] = [];
  readonly #metricsPorts: number[] = [];
  #caller: RunningProcess | undefined;
  #application: Server | undefined;
  #meshPort = 0;
  proxyPort = 0;
  #tokens = 0;

  constructor(options: RestartOptions) {
    this.#options = options;
  }

  async start(): Promise<void> {
    const { upstreams } = this.#options;
    this.#application = await startApplication();
    // A server's address is an object once it listens.
    this.#appPort = (this.#application.address() as AddressInfo).port;
    const [meshPort = 0, proxyPort = 0, ...metrics] = await freePorts(upstreams + 3);
    this.#meshPort = meshPort;
    this.proxyPort = proxyPort;
    this.#metricsPorts.push(...metrics);
    this.writeMesh(undefined);
    this.#mesh.write("policy.yaml", policyYaml("notebooks", "scorer", "notebook"));
    await this.#mesh.start();
    for (let index = 0; index < upstreams; index++) this.#callees.push(await this.#startCallee(index));
    this.#caller = await this.#sidecar(upstreams, "lab/notebook", "127.0.0.1:0", [
      ...["--outbound-proxy", `127.0.0.1:${proxyPort}`],
    ]);
  }

  /** @param without index of the endpoint that is about to go. */
  writeMesh(without: number | undefined): void {
    const addresses = Array.from({ length: this.#options.upstreams }, (_, index) => addressOf(index));
    const named = addresses.filter((_, index) => index !== without);
    this.#mesh.write(
      "mesh.yaml",
      `
apiVersion: countersign.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec: {trustDomain: test.example}
---
apiVersion: countersign.dev/v1alpha1
kind: Workload
metadata: {name: notebook, namespace: lab}
spec: {kind: notebook, serviceAccount: notebook}
---
apiVersion: countersign.dev/v1alpha1
kind: Workload
metadata: {name: scorer, namespace: serving}
spec: {kind: serving, serviceAccount: scorer, addresses: [${named.join(", ")}], meshPort: ${this.#meshPort}, service: scorer, ports: [{port: 8080, packs: [mlflow-scoring]}]}
`,
    );
  }

  async restart(index: number): Promise<void> {
    const before = this.#callees[index];
    const code = await before?.stop(100_000);
    if (code !== 0) throw new Error(`sidecar ${index} ended with ${code}: ${before?.errors()}`);
    this.#callees[index] = await this.#startCallee(index);
  }

  async stop(): Promise<void> {
    await this.#caller?.stop(10_000);
    await Promise.all(this.#callees.map((callee) => callee.stop(10_000)));
    this.#application?.closeAllConnections();
    this.#application?.close();
    await this.#mesh.close();
    rmSync(this.#dir, { recursive: true, force: true });
  }

  #startCallee(index: number): Promise<RunningProcess> {
    return this.#sidecar(index, "serving/scorer", `${addressOf(index)}:${this.#meshPort}`, [
      ...["--outbound-proxy", "none", "--app-port-map", `8080=127.0.0.1:${this.#appPort}`],
    ]);
  }

  async #sidecar(
    index: number,
    workload: string,
    listen: string,
    extra: readonly string[],
  ): Promise<RunningProcess> {
    const { bootstrap, discovery } = this.#mesh.handle.ports;
    const token = await this.#mesh.api("POST", "/v1/join-tokens", { workload, ttlSeconds: 600 });
    const file = join(this.#dir, `token-${this.#tokens++}`);
    writeFileSync(file, String(token.body["token"]), { mode: 0o600 });
    const metricsPort = this.#metricsPorts[index] ?? 0;
    const started = startNode(`sidecar ${index}`, [
      ...[CLI, "sidecar", "--workload", workload, "--state-dir", join(this.#dir, `state-${index}`)],
      ...["--control-plane", `127.0.0.1:${discovery}`, "--bootstrap", `127.0.0.1:${bootstrap}`],
      ...["--join-token-file", file, "--mesh-listen", listen, "--log-level", "warn"],
      ...["--metrics-listen", `127.0.0.1:${metricsPort}`, ...extra],
    ]);
    await until(`sidecar ${index}`, async () => {
      if (started.child.exitCode !== null) throw new Error(started.errors());
      return (await get(metricsPort, "/readyz")).status === 200 ? true : undefined;
    });
    return started;
  }
}

const addressOf = (index: number): string => `127.0.0.${index + 11}`;

class Load {
  readonly #agent = new Agent({ keepAlive: true });
  readonly #port: number;
  readonly #report: RestartReport;
  readonly #running = new Set<Promise<void>>();
  #stopping = false;

  constructor(port: number, report: RestartReport) {
    this.#port = port;
    this.#report = report;
  }

  start(rate: number, streams: number): void {
    this.#track(this.#requests(rate));
    for (let i = 0; i < streams; i++) this.#track(this.#streams(i));
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    while (this.#running.size > 0) await Promise.all(this.#running);
    this.#agent.destroy();
  }

  #track(work: Promise<void>): void {
    this.#running.add(work);
    void work.finally(() => this.#running.delete(work));
  }

  /** At a fixed rate, whatever the answers do, as far as the machine can keep up. */
  async #requests(rate: number): Promise<void> {
    let dueMs = performance.now();
    while (!this.#stopping) {
      const waitMs = dueMs - performance.now();
      if (waitMs > 1) await delay(waitMs);
      dueMs += 1_000 / rate;
      if (this.#running.size > MAX_OPEN) {
        dueMs = performance.now() + 10;
        continue;
      }
      this.#report.requests++;
      this.#track(this.#call("{}", (body) => body === '{"got":2}'));
    }
  }

  async #streams(index: number): Promise<void> {
    await delay(index * 40);
    while (!this.#stopping) {
      this.#report.streams++;
      await this.#call('{"stream":true}', (body) => body.length === STREAM_CHUNKS * CHUNK.length);
    }
  }

  #call(body: string, isWhole: (answer: string) => boolean): Promise<void> {
    return new Promise((resolve) => {
      const fail = (what: string): void => {
        this.#report.failed++;
        if (this.#report.failures.length < MAX_KEPT_FAILURES) this.#report.failures.push(`${body}: ${what}`);
        resolve();
      };
      const outgoing = request(
        {
          host: "127.0.0.1",
          port: this.#port,
          method: "POST",
          path: "http://scorer.serving:8080/invocations",
          agent: this.#agent,
          headers: {
            host: "scorer.serving:8080",
            "content-type": "application/json",
            "content-length": String(body.length),
          },
        },
        (response: IncomingMessage) => {
          let text = "";
          response.setEncoding("utf8").on("data", (chunk: string) => {
            text += chunk;
          });
          response.on("error", (error) => fail(error.message));
          response.on("end", () => {
            if (response.statusCode !== 200)
              fail(`${response.statusCode} ${response.headers["proxy-status"]}`);
            else if (!response.complete || !isWhole(text)) fail(`${text.length} characters of an answer`);
            else resolve();
          });
        },
      );
      outgoing.on("error", (error) => fail(error.message));
      outgoing.end(body);
    });
  }
}

/** Runs the restarts under load and says what failed. Needs dist/. */
export async function runRestarts(options: RestartOptions): Promise<RestartReport> {
  const report: RestartReport = { requests: 0, streams: 0, restarts: 0, failed: 0, failures: [] };
  const platform = new Platform(options);
  try {
    await platform.start();
    const load = new Load(platform.proxyPort, report);
    load.start(options.rate, options.streams);
    await delay(500);
    for (let round = 0; round < options.rounds; round++) {
      for (let index = 0; index < options.upstreams; index++) {
        const leaves = options.leavesTable && (round + index) % 2 === 1;
        if (leaves) {
          platform.writeMesh(index);
          await delay(300);
        }
        await platform.restart(index);
        if (leaves) platform.writeMesh(undefined);
        report.restarts++;
        options.onRestart?.(report.restarts, report);
      }
    }
    await load.stop();
  } finally {
    await platform.stop();
  }
  return report;
}
