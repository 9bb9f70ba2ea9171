// The OpenAI client library against a model server: whole and streamed answers, and what it shows of a refusal.
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import type { RunningProcess } from "../demo/process.ts";
import { type Mesh, startMesh } from "./mesh.ts";
import { pythonEnvironment } from "./python.ts";

const python = await pythonEnvironment("the OpenAI client across the mesh");
const PORT = 8000;
const RULES = `  - name: chat
    from: [{workload: {names: [friend]}}]
    operations: [{op: serving.invoke.chat, resources: ["llama-*"]}, {op: serving.metadata}]`;

(python ? describe : describe.skip)("OpenAI", () => {
  let mesh: Mesh;
  let server: RunningProcess;

  beforeAll(async () => {
    if (!python) return;
    server = python.serve("model", []);
    const port = Number(await server.nextLine());
    mesh = await startMesh({
      kind: "serving",
      ports: [{ port: PORT, protocol: "http", packs: ["openai"], app: port }],
      rules: RULES,
    });
  });
  afterAll(() => Promise.all([mesh?.close(), server?.stop()]));

  test("chats, streams without delay, and is refused by model, by operation and as a stranger", async () => {
    const result = await python?.run("openai_chat", [
      `${mesh.url("friend", PORT)}/v1`,
      `${mesh.url("stranger", PORT)}/v1`,
    ]);
    const denial = {
      type: "PermissionDeniedError",
      status: 403,
      body: { reason: "NO_MATCHING_ALLOW" },
      message: expect.stringMatching(/^Error code: 403 - NO_MATCHING_ALLOW: .* \(decision d-/),
    };
    expect(result).toMatchObject({
      text: "word-0 word-1 word-2 word-3 word-4",
      usage: 7,
      streamed: ["word-0", "word-1", "word-2", "word-3"],
      streamedUsage: 6,
      firstBeforeLast: true,
      atOnce: 210,
      secret: denial,
      embed: denial,
      stranger: denial,
    });

    const chats = mesh.recorded().filter((one) => one.operation === "serving.invoke.chat");
    expect(chats.filter((one) => one.effect === "Allow")).toHaveLength(42);
    expect(new Set(chats.map((one) => `${one.effect} ${one.caller} ${one.resource}`))).toEqual(
      new Set(["Allow notebook/friend llama-3", "Deny notebook/friend gpt-secret"]),
    );
    await mesh.untilRecorded({ operation: "serving.invoke.embed", effect: "Deny", status: 403 });
    // Its own sidecar refuses it, which knows nothing of a service that this workload may not call.
    await mesh.untilRecorded({ caller: "notebook/stranger", effect: "Deny", reason: "NO_MATCHING_ALLOW" });
  });
});
