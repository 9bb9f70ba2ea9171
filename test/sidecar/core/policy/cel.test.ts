import { describe, expect, test } from "@jest/globals";
import { createCelCompiler } from "../../../../sidecar/core/policy/cel.ts";

describe("createCelCompiler", () => {
  const compiler = createCelCompiler();
  test.each([
    { source: "user.id.matches('^(a+)+$')", problem: "`matches` is not available" },
    { source: "user.nope == 'x'", problem: "nope" },
    { source: "op", problem: "must be a bool" },
    { source: "op == 1", problem: "" },
    { source: "unknown == 'x'", problem: "" },
    { source: "chain.exists(c, chain.exists(d, c == d))", problem: "inside another comprehension" },
    { source: "op ==", problem: "" },
    { source: `op == '${"x".repeat(1100)}'`, problem: "at most 1024" },
    { source: Array(300).fill("true").join("&&"), problem: "1024" },
    { source: `${"(".repeat(60)}true${")".repeat(60)}`, problem: "" },
  ])("refuses $source", ({ source, problem }) => {
    const result = compiler.compile(source);
    expect(result).toMatchObject({ ok: false, error: expect.stringContaining(problem) });
  });

  test("reads a missing field as an error and never as a value", () => {
    const result = compiler.compile("user.id == caller.owner");
    if (!result.ok) throw new Error(result.error);
    expect(() => result.value({ user: {}, caller: {} })).toThrow();
    expect(result.value({ user: { id: "a" }, caller: { owner: "a" } })).toBe(true);
  });
});
