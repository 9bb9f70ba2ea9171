// Triton's client library against a server of the Open Inference Protocol over gRPC: the model that a call names in its
// protobuf decides, also in each message of a stream.
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import type { RunningProcess } from "../demo/process.ts";
import { type Mesh, startMesh } from "./mesh.ts";
import { pythonEnvironment } from "./python.ts";

const python = await pythonEnvironment("KServe's gRPC across the mesh");
const PORT = 8001;
const RULES = `  - name: models
    from: [{workload: {names: [friend]}}]
    operations: [{op: serving.invoke, resources: ["fraud-*"]}, {op: health.probe}]`;

(python ? describe : describe.skip)("KServe over gRPC", () => {
  let mesh: Mesh;
  let server: RunningProcess;

  beforeAll(async () => {
    if (!python) return;
    server = python.serve("kserve", []);
    const port = Number(await server.nextLine());
    mesh = await startMesh({
      kind: "serving",
      ports: [{ port: PORT, protocol: "grpc", packs: ["oip-v2"], app: port }],
      rules: RULES,
    });
  });
  afterAll(() => Promise.all([mesh?.close(), server?.stop()]));

  test("infers, streams, and is denied by the model that its messages name", async () => {
    const target = (caller: "friend" | "stranger") => `127.0.0.1:${mesh.port(caller, PORT)}`;
    const result = await python?.run("kserve_infer", [target("friend"), target("stranger")]);
    const denied = {
      status: "StatusCode.PERMISSION_DENIED",
      message: expect.stringContaining("NO_MATCHING_ALLOW"),
    };
    expect(result).toMatchObject({
      live: true,
      large: denied, // beyond 64 KiB it is unknown too
      compressed: denied, // the model in a compressed message is unknown
      library: Array(10).fill(56),
      stream: { status: "OK", answers: 3 },
      streamOfSecret: denied,
      secret: denied,
      details: { ...denied, domain: true, reason: true },
      unload: denied,
      deadline: { status: "StatusCode.DEADLINE_EXCEEDED" },
      stranger: denied,
    });
    // The answer to the first message may come before the end or not; what follows the secret one is never answered.
    expect((result as { streamOfSecret: { answers: number } }).streamOfSecret.answers).toBeLessThanOrEqual(1);
    await mesh.untilRecorded({ operation: "serving.invoke.predict", resource: "fraud-v1", effect: "Allow" });
    await mesh.untilRecorded({ operation: "serving.invoke.predict", resource: "secret", effect: "Deny" });
    await mesh.untilRecorded({ operation: "serving.admin", effect: "Deny" });
    await mesh.untilRecorded({ caller: "notebook/stranger", effect: "Deny", reason: "NO_MATCHING_ALLOW" });
  });

  test("messages of 16 MB pass where the rule names no model", async () => {
    await mesh.setRules(RULES.replace(', resources: ["fraud-*"]', ""));
    const target = `127.0.0.1:${mesh.port("friend", PORT)}`;
    expect(await python?.run("kserve_infer", [target, target, "large"])).toEqual({ large: true });
  });
});
