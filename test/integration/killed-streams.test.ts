// Sidecars that are killed under open connections: the side that lives on resets what it cannot complete, so that nobody
// takes a broken stream for a whole one.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { startControlPlane, startSidecar, until } from "../demo/mesh-processes.ts";
import { freePorts, type RunningProcess } from "../demo/process.ts";

const dir = mkdtempSync(join(tmpdir(), "countersign-killed-streams-"));
const running: RunningProcess[] = [];
let server: Server;
/** The application's end of the newest connection. */
let far: Socket | undefined;
let localPort = 0;
let caller: () => Promise<RunningProcess>;
let callee: () => Promise<RunningProcess>;

beforeAll(async () => {
  server = createServer({ allowHalfOpen: true }, (socket) => {
    far = socket;
    socket.write("ready");
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const appPort = (server.address() as AddressInfo).port;
  const ports = await freePorts(6);
  const [meshPort = 0, callerMeshPort = 0, proxyPort = 0, metricsPort = 0, callerMetricsPort = 0] = ports;
  localPort = ports[5] ?? 0;
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
metadata: {name: db, namespace: data}
spec: {kind: service, serviceAccount: db, addresses: [127.0.0.1], meshPort: ${meshPort}, service: db, ports: [{port: 5432, protocol: tcp}]}
---
apiVersion: countersign.dev/v1alpha1
kind: AccessPolicy
metadata: {name: notebooks, namespace: data}
spec:
  action: Allow
  targets: [{names: [db]}]
  rules: [{name: only, from: [{workload: {kinds: [notebook]}}], operations: [{any: true}]}]
`,
  );
  const controlPlane = await startControlPlane(configDir, join(dir, "control-plane"), running);
  caller = async () => {
    const spec = {
      namespace: "lab",
      name: "notebook",
      dir: join(dir, "notebook"),
      meshPort: callerMeshPort,
      proxyPort,
      metricsPort: callerMetricsPort,
      args: ["--local-service", `127.0.0.1:${localPort}=data/db:5432`],
    };
    return (await startSidecar(controlPlane, spec, running)).process;
  };
  callee = async () => {
    const spec = {
      namespace: "data",
      name: "db",
      dir: join(dir, "db"),
      meshPort,
      proxyPort: 0,
      metricsPort,
      args: ["--app-port-map", `5432=127.0.0.1:${appPort}`],
    };
    return (await startSidecar(controlPlane, spec, running)).process;
  };
});
afterAll(async () => {
  await Promise.all(running.map((one) => one.stop()));
  far?.destroy();
  server?.close();
  rmSync(dir, { recursive: true, force: true });
});

/** How a socket ends from now on. */
async function endOf(socket: Socket): Promise<{ ended: boolean; code: string | undefined }> {
  let ended = false;
  let code: string | undefined;
  socket.on("end", () => {
    ended = true;
  });
  socket.on("error", (error: NodeJS.ErrnoException) => {
    code = error.code;
  });
  socket.resume();
  await new Promise<void>((resolve) => socket.once("close", () => resolve()));
  return { ended, code };
}

test.each(["callee", "caller"] as const)(
  "a connection whose %s's sidecar is killed is reset at the other end",
  async (which) => {
    const processes = { callee: await callee(), caller: await caller() };
    far = undefined;
    const near = await until("a connection across the mesh", async () => {
      const socket = connect({ port: localPort, host: "127.0.0.1", allowHalfOpen: true });
      const first = await new Promise<string>((resolve) => {
        socket.once("data", (chunk) => resolve(chunk.toString()));
        socket.once("error", () => resolve(""));
        socket.once("close", () => resolve(""));
      });
      return first === "ready" ? socket : undefined;
    });
    const other = which === "callee" ? near : far;
    if (other === undefined) throw new Error("the application has no connection");
    const end = endOf(other);
    processes[which].child.kill("SIGKILL");
    expect(await end).toEqual({ ended: false, code: "ECONNRESET" });
    near.destroy();
    for (const one of Object.values(processes)) await one.stop();
  },
);
