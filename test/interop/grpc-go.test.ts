// The interoperation client and server of grpc-go: every case that needs no credentials of a cloud.
import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { freePorts, type RunningProcess, startProgram } from "../demo/process.ts";
import { connects } from "./connects.ts";
import { goTools } from "./go.ts";
import { type Mesh, startMesh } from "./mesh.ts";

const VERSION = "v1.85.0";
const tools = await goTools(
  "grpc-interop",
  "gRPC interoperation",
  ["client", "server"].map((name) => `google.golang.org/grpc/interop/${name}@${VERSION}`),
);
const PORT = 10_000;
const RULES = `  - name: tests
    from: [{workload: {names: [friend]}}]
    operations: [{grpc: {service: grpc.testing.TestService}}, {grpc: {service: grpc.testing.UnimplementedService}}]`;
const outsideOf = (port: number): string => `apiVersion: countersign.dev/v1alpha1
kind: ExternalService
metadata: {name: outside, namespace: ml-dev}
spec: {hosts: [localhost], port: ${port}, plaintext: grpc}
---
apiVersion: countersign.dev/v1alpha1
kind: AccessPolicy
metadata: {name: outside, namespace: ml-dev}
spec:
  action: Allow
  targets: [{external: outside}]
  rules:
${RULES}
`;
const CASES = [
  "empty_unary",
  "large_unary",
  "client_streaming",
  "server_streaming",
  "ping_pong",
  "empty_stream",
  "timeout_on_sleeping_server",
  "cancel_after_begin",
  "cancel_after_first_response",
  "status_code_and_message",
  "special_status_message",
  "custom_metadata",
  "unimplemented_method",
  "unimplemented_service",
];

(tools === undefined ? describe.skip : describe)("grpc-go", () => {
  let mesh: Mesh;
  let server: RunningProcess;
  /** Of the same server, as a host outside the mesh. */
  let outside = 0;

  beforeAll(async () => {
    const [port = 0] = await freePorts(1);
    outside = port;
    server = startProgram("interop server", join(tools ?? "", "server"), ["-port", String(port)]);
    mesh = await startMesh({
      kind: "service",
      ports: [{ port: PORT, protocol: "grpc", app: port }],
      rules: RULES,
      objects: outsideOf(port),
      outside: [{ id: "ml-dev/outside", port }],
    });
    await connects(port);
  });
  afterAll(() => Promise.all([mesh?.close(), server?.stop()]));

  const call = (caller: "friend" | "stranger", name: string, port = PORT): Promise<unknown> =>
    promisify(execFile)(
      join(tools ?? "", "client"),
      ["-server_host", "127.0.0.1", "-server_port", String(mesh.port(caller, port)), "-test_case", name],
      { timeout: 110_000 },
    );

  test.each(CASES)("%s", async (name) => {
    await expect(call("friend", name)).resolves.toBeDefined(); // ends with 1 when the case fails
  });

  test.each(CASES)("%s, at a host outside the mesh", async (name) => {
    await expect(call("friend", name, outside)).resolves.toBeDefined();
  });

  test("a stranger is told by its own sidecar that it may not call outside", async () => {
    await expect(call("stranger", "empty_unary", outside)).rejects.toMatchObject({
      stderr: expect.stringContaining("PermissionDenied"),
    });
  });

  test("a stranger is told that it may not", async () => {
    await expect(call("stranger", "empty_unary")).rejects.toMatchObject({
      stderr: expect.stringContaining("PermissionDenied"),
    });
    await mesh.untilRecorded({ caller: "notebook/stranger", effect: "Deny" });
  });
});
