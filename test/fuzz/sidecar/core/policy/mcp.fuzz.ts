// Fuzz target of the MCP body reader: whatever it takes for a call must be the call that JSON.parse sees, and headers that
// disagree must never pass.
import { readMcpMessage } from "../../../../../sidecar/core/policy/mcp.ts";
import { mulberry32 } from "./random.ts";

const METHODS = ["tools/call", "tools/list", "resources/read", "x"];
const NAMES = ["search", "delete", "é", "=?base64?eA==?=", ""];

export async function run(options: { seconds: number; seed: number }): Promise<{ cases: number }> {
  const random = mulberry32(options.seed);
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)] as T;
  const end = performance.now() + options.seconds * 1000;
  let cases = 0;
  while (performance.now() < end) {
    for (let i = 0; i < 100; i++, cases++) {
      const keys = ["method", "params", "id", "Method", "result", "jsonrpc"].filter(() => random() < 0.6);
      const members = keys.map(
        (key) =>
          `"${key}":${key === "params" ? `{"${pick(["name", "uri", "Name"])}":${JSON.stringify(pick(NAMES))}}` : JSON.stringify(pick(METHODS))}`,
      );
      let text = `{${members.join(",")}}`;
      if (random() < 0.2)
        text = text.slice(0, Math.floor(random() * text.length)) + pick(["", "}", ',"method":"x"}', "\\"]);
      if (random() < 0.05) text = `[${text}]`;
      const headers = new Map<string, string>();
      if (random() < 0.5)
        headers.set("mcp-protocol-version", pick(["2026-07-28", "2025-11-25", "2027-01-01"]));
      if (random() < 0.5) headers.set("mcp-method", pick(METHODS));
      if (random() < 0.5) headers.set("mcp-name", pick(NAMES));
      check(text, headers);
    }
  }
  return { cases };
}

function check(text: string, headers: ReadonlyMap<string, string>): void {
  const facts = {
    contentType: "application/json",
    contentEncoding: undefined,
    truncated: false,
    header: (name: string) => headers.get(name),
  };
  const read = readMcpMessage(Buffer.from(text), facts);
  if (!read.ok || read.value.kind === "undetermined") return;
  const parsed = JSON.parse(text) as { method?: unknown; params?: { name?: unknown; uri?: unknown } };
  if (read.value.kind === "response") {
    if (parsed.method !== undefined) throw new Error(`takes a call for a response: ${text}`);
    return;
  }
  const { method, name } = read.value;
  const expected = method.startsWith("resources/") ? parsed.params?.uri : parsed.params?.name;
  if (parsed.method !== method || expected !== name) throw new Error(`reads another call: ${text}`);
  if (headers.has("mcp-method") && headers.get("mcp-method") !== method)
    throw new Error(`lets a header disagree: ${text}`);
  if ((headers.get("mcp-protocol-version") ?? "") >= "2026-07-28" && !headers.has("mcp-method"))
    throw new Error(`lets a header be missing: ${text}`);
}
