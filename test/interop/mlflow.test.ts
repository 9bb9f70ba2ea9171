// A real MLflow tracking server and its own client: a run with parameters, metrics and artifacts, a registered model, and
// the promotion that policy keeps to others.

import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { get, until } from "../demo/mesh-processes.ts";
import { freePorts, type RunningProcess } from "../demo/process.ts";
import { interopCache } from "./installed.ts";
import { type Mesh, SERVICE_HOST, startMesh } from "./mesh.ts";
import { pythonEnvironment } from "./python.ts";

const python = await pythonEnvironment("MLflow across the mesh");
const PORT = 5000;
const RULES = `  - name: trainers
    from: [{workload: {names: [friend]}}]
    operations: [{op: mlflow.experiment}, {op: mlflow.run}, {op: mlflow.log}, {op: mlflow.read}, {op: mlflow.register, resources: ["fraud*"]}]`;

(python ? describe : describe.skip)("MLflow", () => {
  let mesh: Mesh;
  let server: RunningProcess;
  let dir: string;

  beforeAll(async () => {
    if (!python) return;
    dir = mkdtempSync(join(interopCache(), "mlflow-"));
    const [port = 0] = await freePorts(1);
    server = python.start("mlflow", [
      ...["server", "--host", "127.0.0.1", "--port", String(port), "--workers", "1"],
      ...["--backend-store-uri", `sqlite:///${join(dir, "store.db")}`],
      ...[
        "--artifacts-destination",
        join(dir, "artifacts"),
        "--allowed-hosts",
        `${SERVICE_HOST}:${PORT},localhost:*`,
      ],
    ]);
    mesh = await startMesh({
      kind: "service",
      ports: [{ port: PORT, protocol: "http", packs: ["mlflow"], app: port }],
      rules: RULES,
    });
    await until(
      "MLflow",
      async () => ((await get(port, "/health")).status === 200 ? true : undefined),
      90_000,
    );
  }, 180_000);
  afterAll(async () => {
    await Promise.all([mesh?.close(), server?.stop()]);
    rmSync(dir, { recursive: true, force: true });
  }, 30_000);

  test("logs a run with artifacts and registers its model, but may not promote it", async () => {
    const result = await python?.run("mlflow_run", [`http://${SERVICE_HOST}:${PORT}`], {
      env: { http_proxy: mesh.proxy("friend"), GIT_PYTHON_REFRESH: "quiet" },
      timeoutMs: 120_000,
    });
    console.log(
      JSON.stringify(
        mesh.recorded().map((o) => [o.operation, o.resource, o.method, o.path, o.effect, o.reason, o.status]),
        null,
        0,
      ).replaceAll("],[", "],\n["),
    );
    expect(result).toMatchObject({ status: "FINISHED" });
    console.log(result);
  }, 150_000);
});
