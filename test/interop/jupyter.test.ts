// A real Jupyter server with a Python kernel: code runs through the mesh, a quiet kernel stays connected, and terminals
// are kept from those who may run code.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { get, until } from "../demo/mesh-processes.ts";
import { freePorts, type RunningProcess } from "../demo/process.ts";
import { type Mesh, startMesh } from "./mesh.ts";
import { pythonEnvironment } from "./python.ts";

const python = await pythonEnvironment("Jupyter across the mesh");
const PORT = 8888;
const TOKEN = "only-on-loopback";
const RULES = `  - name: notebook
    from: [{workload: {names: [friend]}}]
    operations: [{op: notebook.session}, {op: notebook.kernel}, {op: notebook.view}]`;

(python ? describe : describe.skip)("Jupyter", () => {
  let mesh: Mesh;
  let server: RunningProcess;
  let dir: string;

  beforeAll(async () => {
    if (!python) return;
    dir = mkdtempSync(join(tmpdir(), "countersign-jupyter-"));
    const [port = 0] = await freePorts(1);
    const settings = {
      "ServerApp.ip": "127.0.0.1",
      "ServerApp.port": String(port),
      "ServerApp.allow_root": "True",
      "ServerApp.allow_remote_access": "True",
      "ServerApp.root_dir": dir,
      "IdentityProvider.token": TOKEN,
      "ZMQChannelsWebsocketConnection.iopub_data_rate_limit": "1000000000", // of its own, 1 MB/s
    };
    server = python.start(
      "jupyter-server",
      Object.entries(settings).map(([name, value]) => `--${name}=${value}`),
      { HOME: dir, JUPYTER_RUNTIME_DIR: join(dir, "runtime"), IPYTHONDIR: join(dir, "ipython") },
    );
    mesh = await startMesh({
      kind: "notebook",
      ports: [{ port: PORT, protocol: "http", packs: ["jupyter"], app: port }],
      rules: RULES,
    });
    await until(
      "Jupyter",
      async () => ((await get(port, "/api")).status === 200 ? true : undefined),
      100_000,
    );
  });
  afterAll(async () => {
    await Promise.all([mesh?.close(), server?.stop(10_000)]);
    rmSync(dir, { recursive: true, force: true });
  });

  test("runs code, survives a silent minute, and has no terminal", async () => {
    const [url, stranger] = [mesh.url("friend", PORT), mesh.url("stranger", PORT)];
    const result = (await python?.run("jupyter_session", [url, TOKEN, stranger], { timeoutMs: 280_000 })) as {
      kernelId: string;
    };
    expect(result).toEqual({
      kernels: 0,
      first: { status: "ok", text: "42\n" },
      large: 5_000_001,
      interrupted: "error",
      afterSilence: "still here\n",
      terminal: [403, "NO_MATCHING_ALLOW"],
      terminalSocket: 403,
      stranger: 403,
      deleted: 204,
      kernelId: expect.any(String),
    });
    const kernel = { operation: "notebook.kernel", resource: result.kernelId };
    await mesh.untilRecorded({ ...kernel, effect: "Allow", caller: "notebook/friend", status: 101 });
    await mesh.untilRecorded({ caller: "notebook/stranger", effect: "Deny", status: 403 });
    await mesh.untilRecorded({ operation: "notebook.terminal", method: "GET", effect: "Deny", status: 403 });
    await mesh.untilRecorded({ operation: "notebook.terminal", method: "POST", effect: "Deny", status: 403 });
  }, 300_000);
});
