import { describe, expect, test } from "@jest/globals";
import { jsonRpcCodeOf, readMcpMessage } from "../../../../sidecar/core/policy/mcp.ts";
import { run } from "../../../fuzz/sidecar/core/policy/mcp.fuzz.ts";

describe("readMcpMessage", () => {
  const facts = (headers: Record<string, string>) => ({
    contentType: "application/json",
    contentEncoding: undefined,
    truncated: false,
    header: (name: string) => headers[name],
  });

  test("a disagreeing header has the JSON-RPC code of HeaderMismatch, other faults Invalid Request", () => {
    const mismatch = readMcpMessage(
      Buffer.from('{"method":"tools/list"}'),
      facts({ "mcp-method": "tools/call" }),
    );
    const batch = readMcpMessage(Buffer.from("[]"), facts({}));
    expect(mismatch.ok ? 0 : jsonRpcCodeOf(mismatch.error)).toBe(-32020);
    expect(batch.ok ? 0 : jsonRpcCodeOf(batch.error)).toBe(-32600);
  });

  test("missing headers are refused before the body is looked at", () => {
    expect(
      readMcpMessage(Buffer.alloc(0), { ...facts({ "mcp-protocol-version": "2026-07-28" }), truncated: true })
        .ok,
    ).toBe(false);
  });

  test("the fuzz target runs", async () => {
    expect((await run({ seconds: 0.2, seed: 11 })).cases).toBeGreaterThan(0);
  });
});
