// Real processes under load: one endpoint of two ends, comes back, is killed; the caller ends last. No call may fail.
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { Agent, request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { get, until } from "../demo/mesh-processes.ts";
import { freePorts, type RunningProcess, repositoryRoot, startNode } from "../demo/process.ts";
import { policyYaml, TestMesh } from "../fakes/mesh.ts";
import { type App, hello, startApp } from "./sidecar/world.ts";

const CLI = join(repositoryRoot, "dist/control-plane/cli/main.js");
const dir = mkdtempSync(join(tmpdir(), "countersign-drain-"));
const mesh = new TestMesh();
const running: RunningProcess[] = [];
let app: App;
let meshPort = 0;
let proxyPort = 0;
let metricsPorts: number[] = [];

beforeAll(async () => {
  // Slow enough for requests to be under way whenever a process ends.
  app = await startApp((head, socket, body) => {
    setTimeout(() => {
      if (!socket.destroyed) hello(head, socket, body);
    }, 10);
  });
  [meshPort = 0, proxyPort = 0, ...metricsPorts] = await freePorts(5);
  mesh.write(
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
spec: {kind: serving, serviceAccount: scorer, addresses: [127.0.0.1, 127.0.0.2], meshPort: ${meshPort}, service: scorer, ports: [{port: 8080, packs: [mlflow-scoring]}]}
`,
  );
  mesh.write("policy.yaml", policyYaml("notebooks", "scorer", "notebook"));
  await mesh.start();
});
afterAll(async () => {
  await Promise.all(running.map((one) => one.stop()));
  await app?.close();
  await mesh.close();
  rmSync(dir, { recursive: true, force: true });
});

async function sidecar(
  index: number,
  workload: string,
  listen: string,
  extra: readonly string[],
): Promise<RunningProcess> {
  const { bootstrap, discovery } = mesh.handle.ports;
  const token = await mesh.api("POST", "/v1/join-tokens", { workload, ttlSeconds: 600 });
  const file = join(dir, `token-${index}`);
  writeFileSync(file, String(token.body["token"]), { mode: 0o600 });
  const started = startNode(`sidecar ${index}`, [
    ...[CLI, "sidecar", "--workload", workload, "--state-dir", join(dir, `state-${index}`)],
    ...["--control-plane", `127.0.0.1:${discovery}`, "--bootstrap", `127.0.0.1:${bootstrap}`],
    ...["--join-token-file", file, "--mesh-listen", listen],
    ...["--metrics-listen", `127.0.0.1:${metricsPorts[index] ?? 0}`, "--log-level", "warn", ...extra],
  ]);
  running.push(started);
  await until(`sidecar ${index}`, async () => {
    if (started.child.exitCode !== null) throw new Error(started.errors());
    return (await get(metricsPorts[index] ?? 0, "/readyz")).status === 200 ? true : undefined;
  });
  return started;
}

const callee = (index: 0 | 1): Promise<RunningProcess> =>
  sidecar(index, "serving/scorer", `127.0.0.${index + 1}:${meshPort}`, [
    ...["--outbound-proxy", "none", "--app-port-map", `8080=127.0.0.1:${app.port}`],
  ]);

interface Load {
  readonly failures: string[];
  /** Resolves when every call is over that is under way now. */
  settled(): Promise<unknown>;
  ok: number;
  closes: number;
  stop(): Promise<void>;
}

/** Kept-alive connections, each with one call at a time; ends by itself when the proxy accepts no more. */
function startLoad(connections: number): Load {
  let stopping = false;
  const agent = new Agent({ keepAlive: true, maxSockets: connections });
  const underWay = new Set<Promise<boolean>>();
  const load: Load = {
    failures: [],
    ok: 0,
    closes: 0,
    settled: () => Promise.all(underWay),
    stop: async () => {},
  };
  const one = (): Promise<boolean> =>
    new Promise((resolve) => {
      const outgoing = request(
        {
          host: "127.0.0.1",
          port: proxyPort,
          method: "POST",
          path: "http://scorer.serving:8080/invocations",
          agent,
          headers: { host: "scorer.serving:8080", "content-type": "application/json", "content-length": "2" },
        },
        (response) => {
          if (response.headers.connection === "close") load.closes++;
          response.resume();
          response.on("end", () => {
            if (response.statusCode === 200) load.ok++;
            else load.failures.push(`${response.statusCode} ${response.headers["proxy-status"]}`);
            resolve(true);
          });
        },
      );
      outgoing.on("error", (error: NodeJS.ErrnoException) => {
        // Nobody listens any more: the end of the caller's sidecar, not a call that was lost.
        if (error.code !== "ECONNREFUSED") load.failures.push(`${error.code} ${error.message}`);
        resolve(error.code !== "ECONNREFUSED");
      });
      outgoing.end("{}");
    });
  const call = async (): Promise<boolean> => {
    const made = one();
    underWay.add(made);
    const goesOn = await made;
    underWay.delete(made);
    return goesOn;
  };
  const loops = Array.from({ length: connections }, async () => {
    while (!stopping && (await call()));
  });
  load.stop = async () => {
    stopping = true;
    await Promise.all(loops);
    agent.destroy();
  };
  return load;
}

test("endpoints and callers end under load without a failed call", async () => {
  const first = await callee(0);
  await callee(1);
  const caller = await sidecar(2, "lab/notebook", "127.0.0.3:0", [
    "--outbound-proxy",
    `127.0.0.1:${proxyPort}`,
  ]);
  const load = startLoad(16);
  await until("load", () => (load.ok > 200 ? true : undefined));
  expect(await first.stop(100_000)).toBe(0);
  const after = load.ok;
  await until("calls on the other endpoint", () => (load.ok > after + 100 ? true : undefined));
  const again = await callee(0);
  await until("calls on both", () => (load.ok > after + 400 ? true : undefined));
  expect(load.failures).toEqual([]);
  // A killed process cannot say goodbye: what it was working on is lost, and nothing else.
  const exit = once(again.child, "exit");
  again.child.kill("SIGKILL");
  await exit;
  // What was under way at its end, and what was sent before the caller's sidecar had heard of that.
  await load.settled();
  await load.settled();
  const lost = load.failures.splice(0);
  expect(lost.length).toBeLessThanOrEqual(16);
  expect(lost.filter((one) => !one.startsWith("502 countersign-sidecar/notebook/notebook;"))).toEqual([]);
  const before = load.ok;
  await callee(0);
  await until("calls again", () => (load.ok > before + 200 ? true : undefined));
  expect(await caller.stop(100_000)).toBe(0);
  await load.stop();
  expect(load.failures).toEqual([]);
  expect(load.closes).toBeGreaterThan(0);
});
