// Processes that are killed in the middle of an answer: every client sees an error, none a truncation that looks complete.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { startControlPlane, startSidecar, until } from "../demo/mesh-processes.ts";
import { freePorts, type RunningProcess } from "../demo/process.ts";
import { policyYaml } from "../fakes/mesh.ts";
import { type App, startApp } from "./sidecar/world.ts";

const dir = mkdtempSync(join(tmpdir(), "countersign-killed-"));
const running: RunningProcess[] = [];
let app: App;
let proxyPort = 0;
let callee: () => Promise<RunningProcess>;

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
  const [meshPort = 0, callerMeshPort = 0, outboundPort = 0, metricsPort = 0, callerMetricsPort = 0] =
    await freePorts(5);
  proxyPort = outboundPort;
  const configDir = join(dir, "config");
  mkdirSync(configDir);
  writeFileSync(
    join(configDir, "mesh.yaml"),
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
---
${policyYaml("notebooks", "scorer", "notebook")}`,
  );
  const controlPlane = await startControlPlane(configDir, join(dir, "control-plane"), running);
  await startSidecar(
    controlPlane,
    {
      namespace: "lab",
      name: "notebook",
      dir: join(dir, "notebook"),
      meshPort: callerMeshPort,
      proxyPort,
      metricsPort: callerMetricsPort,
    },
    running,
  );
  callee = async () => {
    const spec = {
      namespace: "serving",
      name: "scorer",
      dir: join(dir, "scorer"),
      meshPort,
      proxyPort: 0,
      metricsPort,
      args: ["--app-port-map", `8080=127.0.0.1:${app.port}`],
    };
    return (await startSidecar(controlPlane, spec, running)).process;
  };
});
afterAll(async () => {
  await Promise.all(running.map((one) => one.stop()));
  await app?.close();
  rmSync(dir, { recursive: true, force: true });
});

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
  const closed = new Promise<void>((resolve) => socket.once("close", () => resolve()));
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
  );

  test(`the ${who} ends before an answer`, async () => {
    const process = await callee();
    const outcome = await ask("nothing", "1.1", () => kill(process));
    expect(outcome.text).toMatch(/^HTTP\/1\.1 502 /);
    expect(outcome.text).toContain("UPSTREAM_FAILED");
    await process.stop();
  });
}
