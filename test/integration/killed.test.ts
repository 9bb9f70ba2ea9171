// Processes that are killed in the middle of an answer: every client sees an error, none a truncation that looks complete.
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { get, until } from "../demo/platform.ts";
import { freePorts, type RunningProcess, repositoryRoot, startNode } from "../demo/process.ts";
import { policyYaml, TestMesh } from "../fakes/mesh.ts";
import { type App, startApp } from "./sidecar/world.ts";

const CLI = join(repositoryRoot, "dist/control-plane/cli/main.js");
const dir = mkdtempSync(join(tmpdir(), "countersign-killed-"));
const mesh = new TestMesh();
const running: RunningProcess[] = [];
let app: App;
let meshPort = 0;
let proxyPort = 0;
let metricsPorts: number[] = [];

/** What the application writes of an answer before it stops. */
const PARTS: Readonly<Record<string, string>> = {
  length: "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nfirst part",
  chunked: "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\na\r\nfirst part\r\n",
  nothing: "",
};
let application: Socket | undefined;

beforeAll(async () => {
  app = await startApp((_head, socket, body) => {
    application = socket;
    socket.write(PARTS[body.toString()] ?? "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
  });
  [meshPort = 0, proxyPort = 0, ...metricsPorts] = await freePorts(4);
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
spec: {kind: serving, serviceAccount: scorer, addresses: [127.0.0.1], meshPort: ${meshPort}, service: scorer, ports: [{port: 8080, packs: [mlflow-scoring]}]}
`,
  );
  mesh.write("policy.yaml", policyYaml("notebooks", "scorer", "notebook"));
  await mesh.start();
  await sidecar(0, "lab/notebook", [
    "--outbound-proxy",
    `127.0.0.1:${proxyPort}`,
    "--mesh-listen",
    "127.0.0.3:0",
  ]);
}, 60_000);
afterAll(async () => {
  await Promise.all(running.map((one) => one.stop()));
  await app?.close();
  await mesh.close();
  rmSync(dir, { recursive: true, force: true });
}, 30_000);

async function sidecar(index: number, workload: string, extra: readonly string[]): Promise<RunningProcess> {
  const { bootstrap, discovery } = mesh.handle.ports;
  const token = await mesh.api("POST", "/v1/join-tokens", { workload, ttlSeconds: 60 });
  const file = join(dir, `token-${running.length}`);
  writeFileSync(file, String(token.body["token"]), { mode: 0o600 });
  const started = startNode(`sidecar ${index}`, [
    ...[CLI, "sidecar", "--workload", workload, "--state-dir", join(dir, `state-${index}`)],
    ...["--control-plane", `127.0.0.1:${discovery}`, "--bootstrap", `127.0.0.1:${bootstrap}`],
    ...["--join-token-file", file, "--log-level", "warn"],
    ...["--metrics-listen", `127.0.0.1:${metricsPorts[index] ?? 0}`, ...extra],
  ]);
  running.push(started);
  await until(`sidecar ${index}`, async () => {
    if (started.child.exitCode !== null) throw new Error(started.errors());
    return (await get(metricsPorts[index] ?? 0, "/readyz")).status === 200 ? true : undefined;
  });
  return started;
}

const callee = (): Promise<RunningProcess> =>
  sidecar(1, "serving/scorer", [
    ...["--mesh-listen", `127.0.0.1:${meshPort}`, "--outbound-proxy", "none"],
    ...["--app-port-map", `8080=127.0.0.1:${app.port}`],
  ]);

interface Outcome {
  readonly text: string;
  readonly wasReset: boolean;
}

/** Asks, lets `kill` happen when the first part (or the request) has arrived, and says how the connection ended. */
async function ask(body: string, version: "1.0" | "1.1", kill: () => void): Promise<Outcome> {
  const socket = connect(proxyPort, "127.0.0.1");
  let text = "";
  let wasReset = false;
  let killed = false;
  application = undefined;
  socket.setEncoding("latin1").on("data", (chunk: string) => {
    text += chunk;
    if (text.includes("first part") && !killed) {
      killed = true;
      kill();
    }
  });
  socket.on("error", (error: NodeJS.ErrnoException) => {
    wasReset = error.code === "ECONNRESET";
  });
  socket.write(
    `POST http://scorer.serving:8080/invocations HTTP/${version}\r\nhost: scorer.serving:8080\r\nconnection: close\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
  );
  const closed = once(socket, "close");
  if (PARTS[body] === "") {
    await until("the request at the application", () => (application === undefined ? undefined : true));
    kill();
  }
  await closed;
  return { text, wasReset };
}

/** Whether a client would take the text for a whole answer, going by its framing. */
function looksWhole({ text, wasReset }: Outcome): boolean {
  const end = text.indexOf("\r\n\r\n");
  if (end < 0 || wasReset) return false;
  const length = /\r\ncontent-length: (\d+)\r\n/.exec(text.slice(0, end + 2))?.[1];
  const received = text.slice(end + 4);
  if (length !== undefined) return received.length === Number(length);
  if (/\r\ntransfer-encoding: chunked\r\n/.test(text.slice(0, end + 2)))
    return received.endsWith("0\r\n\r\n");
  return true;
}

const killers = [
  {
    who: "callee's sidecar",
    kill: (process: RunningProcess) => process.child.kill("SIGKILL"),
  },
  { who: "application", kill: () => application?.resetAndDestroy() },
];
for (const { who, kill } of killers) {
  test.each([
    { body: "length", version: "1.1" },
    { body: "chunked", version: "1.1" },
    { body: "length", version: "1.0" },
    { body: "chunked", version: "1.0" },
  ] as const)(
    `the ${who} ends in the middle of an answer ($body, HTTP/$version)`,
    async ({ body, version }) => {
      const process = await callee();
      expect((await ask("fine", version, () => {})).text).toContain("200 OK");
      const outcome = await ask(body, version, () => kill(process));
      expect(outcome.text).toContain("first part");
      expect(looksWhole(outcome)).toBe(false);
      await process.stop();
    },
    60_000,
  );

  test(`the ${who} ends before an answer`, async () => {
    const process = await callee();
    const outcome = await ask("nothing", "1.1", () => kill(process));
    expect(outcome.text).toMatch(/^HTTP\/1\.1 502 /);
    expect(outcome.text).toContain("UPSTREAM_FAILED");
    await process.stop();
  }, 60_000);
}
