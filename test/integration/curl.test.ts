// A client without a sidecar: curl with an exported SVID reaches a workload through its mesh port over HTTP/2 and is
// decided on as a caller with mutual TLS only.
import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { exportIdentity } from "../../control-plane/cli/identity.ts";
import { withMesh } from "../../control-plane/cli/mesh.ts";
import { until } from "../demo/mesh-processes.ts";
import { type AuditEvent, type Platform, removePlatformDir, startPlatform } from "../demo/platform.ts";
import { canTest } from "../left-out.ts";

const able = canTest("curl over HTTP/2 with an exported SVID", { curl: "Debian's package curl" });

(able ? describe : describe.skip)("curl with an exported SVID", () => {
  const dir = mkdtempSync(join(tmpdir(), "countersign-curl-"));
  let platform: Platform;

  beforeAll(async () => {
    platform = await startPlatform(dir, { windowFrom: "01:00", windowTo: "05:00" });
  });
  afterAll(async () => {
    await platform?.close();
    removePlatformDir(dir);
  });

  /** Status and protocol that curl saw, and the answer. */
  async function curl(
    workload: string,
    target: "llm-chat" | "fraud-scorer",
    path: string,
    body: string,
  ): Promise<{ code: string; version: string; text: string }> {
    const out = join(dir, workload.replace("/", "-"));
    await withMesh({ stateDir: platform.stateDir }, (mesh) =>
      exportIdentity(mesh, workload, { out, ttlSeconds: 600 }, { out: () => {}, err: () => {} }),
    );
    const port = platform.sidecars.get(target)?.meshPort;
    const { stdout } = await promisify(execFile)("curl", [
      ...["--silent", "--http2", "--insecure", "--max-time", "100"],
      ...["--cert", join(out, "svid.pem"), "--key", join(out, "key.pem")],
      ...["-H", "content-type: application/json", "-d", body],
      ...["-w", "\n%{http_code} %{http_version}", `https://127.0.0.1:${port}${path}`],
    ]);
    const end = stdout.lastIndexOf("\n");
    const [code = "", version = ""] = stdout.slice(end + 1).split(" ");
    return { code, version, text: stdout.slice(0, end) };
  }

  test("is allowed what its identity may do", async () => {
    const answer = await curl(
      "ml-dev/nb-alice",
      "llm-chat",
      "/v1/chat/completions",
      '{"model":"llm-chat","messages":[]}',
    );
    expect(answer).toMatchObject({ code: "200", version: "2" });
    expect(answer.text).toContain("chat.completion");
  });

  test("is denied the rest, with a reason, and recorded with its name and no chain", async () => {
    const answer = await curl("ml-dev/nb-alice", "fraud-scorer", "/invocations", "{}");
    expect(answer).toMatchObject({ code: "403", version: "2" });
    expect(JSON.parse(answer.text)).toMatchObject({
      reason: "NO_MATCHING_ALLOW",
      caller: "notebook/nb-alice",
      operation: "serving.invoke.predict",
    });
    const event = await until("the audit event", () => {
      const lines = readFileSync(platform.sidecars.get("fraud-scorer")?.auditFile ?? "", "utf8").split("\n");
      const line = lines.find((one) => one.includes("NO_MATCHING_ALLOW"));
      return line === undefined ? undefined : (JSON.parse(line) as AuditEvent);
    });
    expect(event.data.identityMetadata).toMatchObject({ caller: "notebook/nb-alice", hops: 1 });
  });
});
