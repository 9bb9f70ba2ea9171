// A real MLflow tracking server and its own client: a run with parameters, metrics and artifacts, a registered model, and
// the promotion that policy keeps to others.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { get, until } from "../demo/mesh-processes.ts";
import { freePorts, type RunningProcess } from "../demo/process.ts";
import { type Mesh, SERVICE_HOST, startMesh } from "./mesh.ts";
import { pythonEnvironment } from "./python.ts";

const python = await pythonEnvironment("MLflow across the mesh");
const PORT = 5000;
const WEIGHTS_BYTES = 32 * 1024 * 1024;
/** Nothing is told to others, and no Git is looked for. */
const ALONE = { MLFLOW_DISABLE_TELEMETRY: "true", GIT_PYTHON_REFRESH: "quiet" };
const RULES = `  - name: trainers
    from: [{workload: {names: [friend]}}]
    operations: [{op: mlflow.experiment}, {op: mlflow.run}, {op: mlflow.log}, {op: mlflow.read}, {op: mlflow.register, resources: ["fraud*"]}]`;

(python ? describe : describe.skip)("MLflow", () => {
  let mesh: Mesh;
  let server: RunningProcess;
  let dir: string;

  beforeAll(async () => {
    if (!python) return;
    dir = mkdtempSync(join(tmpdir(), "countersign-mlflow-"));
    const [port = 0] = await freePorts(1);
    const args = [
      ...["server", "--host", "127.0.0.1", "--port", String(port), "--workers", "1"],
      ...["--backend-store-uri", `sqlite:///${join(dir, "store.db")}`],
      ...["--artifacts-destination", join(dir, "artifacts")],
      ...["--allowed-hosts", `${SERVICE_HOST}:${PORT},localhost:*`],
    ];
    server = python.start("mlflow", args, { ...ALONE, MLFLOW_SERVER_ENABLE_JOB_EXECUTION: "false" });
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
  });

  test("logs a run with artifacts and registers its model, but may not promote it", async () => {
    const result = await python?.run("mlflow_run", [`http://${SERVICE_HOST}:${PORT}`], {
      env: { ...ALONE, http_proxy: mesh.proxy("friend") },
      timeoutMs: 280_000,
    });
    expect(result).toEqual({
      runId: expect.any(String),
      status: "FINISHED",
      params: { depth: "7", rate: "0.1", trees: "300" },
      auc: expect.closeTo(0.84),
      history: 5,
      team: "fraud",
      artifacts: ["model/weights.bin"],
      same: true,
      text: "name,score\na,1\n",
      version: "1",
      runs: 1,
      promoted: expect.stringContaining("NO_MATCHING_ALLOW"),
    });
    const { runId } = result as { runId: string };
    const allowed = { caller: "notebook/friend", effect: "Allow", reason: "ALLOWED" } as const;
    const weights = { ...allowed, resource: `1/${runId}/artifacts/model/weights.bin` };
    await mesh.untilRecorded({ ...weights, operation: "mlflow.log.artifact", requestBytes: WEIGHTS_BYTES });
    await mesh.untilRecorded({ ...weights, operation: "mlflow.read.artifact", responseBytes: WEIGHTS_BYTES });
    await mesh.untilRecorded({ ...allowed, operation: "mlflow.read.metric", resource: runId });
    await mesh.untilRecorded({ ...allowed, operation: "mlflow.register", resource: "fraud-scorer" });
    await mesh.untilRecorded({ operation: "mlflow.promote", effect: "Deny", status: 403 });
    const unknown = mesh.recorded().filter((one) => one.operation === "unknown");
    expect(unknown).toEqual([]); // the pack knows every call of the client
  }, 300_000);
});
