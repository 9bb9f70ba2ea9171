// The HTTP/2 conformance suite against our codec, a sidecar's mesh port and its applications' side.
import { describe, expect, test } from "@jest/globals";
import { startAppSide } from "../h2spec/app-side.ts";
import { createCodecServer } from "../h2spec/codec-server.ts";
import { installH2spec, runH2spec } from "../h2spec/main.ts";
import { startForwardedMeshPort } from "../h2spec/mesh-port.ts";
import { canTest } from "../left-out.ts";

const CASES = 145;
const able = canTest("HTTP/2 conformance (h2spec)", { go: "go.dev", haproxy: "Debian's package haproxy" });

(able ? describe : describe.skip)("h2spec", () => {
  test("passes every case against the codec", async () => {
    const binary = await installH2spec();
    const server = await createCodecServer();
    try {
      expect(await runH2spec(binary, "127.0.0.1", server.port)).toMatchObject({
        tests: CASES,
        passed: CASES,
      });
    } finally {
      await server.close();
    }
  }, 400_000);

  test("passes every case against the mesh port", async () => {
    const binary = await installH2spec();
    const forwarded = await startForwardedMeshPort();
    try {
      expect(await runH2spec(binary, "127.0.0.1", forwarded.port)).toMatchObject({
        tests: CASES,
        passed: CASES,
      });
    } finally {
      await forwarded.close();
    }
  }, 400_000);

  test("passes every case against the side that applications speak to", async () => {
    const binary = await installH2spec();
    const side = await startAppSide();
    try {
      expect(await runH2spec(binary, "127.0.0.1", side.port)).toMatchObject({ tests: CASES, passed: CASES });
    } finally {
      await side.close();
    }
  }, 400_000);
});
