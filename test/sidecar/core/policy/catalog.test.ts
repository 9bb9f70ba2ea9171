import { describe, expect, test } from "@jest/globals";
import { loadBuiltInPacks } from "../../../../control-plane/policy/packs.ts";
import {
  buildCatalog,
  matchesAnyOperation,
  type Pack,
  packsDigest,
  parsePack,
  templatesOverlap,
} from "../../../../sidecar/core/policy/catalog.ts";

function rows(text: string): string[] {
  const parsed = parsePack("p", text);
  if (!parsed.ok) throw new Error(parsed.error);
  return parsed.value.rows.map((row) => `${row.operation} ${row.method} ${row.template}`);
}

describe("parsePack", () => {
  test("expands alternatives of operation and template by position", () => {
    expect(rows("a.(x,y) POST /v/(one,two/three) - read -")).toEqual([
      "a.x POST /v/one",
      "a.y POST /v/two/three",
    ]);
  });

  test("expands macros, other groups and methods in every combination", () => {
    expect(rows("@let v = (1,2)\na.(x,y) PUT,DELETE /{v}/(x,y) - read -")).toHaveLength(8);
    expect(rows("a GET /(a,b)/(c,d) - read -")).toEqual([
      "a GET /a/c",
      "a GET /a/d",
      "a GET /b/c",
      "a GET /b/d",
    ]);
  });

  test("ignores comments, blank lines and carriage returns", () => {
    expect(rows("# x\r\n\r\n  a GET /a - read -\r\n")).toEqual(["a GET /a"]);
  });

  test("an alternative without the variable has no resource", () => {
    const parsed = parsePack("p", "a GET /(v2,v2/models/{m}) model<path:m read -");
    expect(parsed.ok && parsed.value.rows.map((row) => row.resource?.type)).toEqual([undefined, "model"]);
  });

  test.each([
    ["a GET /a - read", "line 1: has 5 columns"],
    ["\n\na GET /a - look -", "line 3: access `look`"],
    ["a FETCH /a - read -", "method `FETCH`"],
    ["A GET /a - read -", "operation `A`"],
    ["a..b GET /a - read -", "operation `a..b`"],
    ["a GET a - read -", "must begin with `/`"],
    ["a GET /a//b - read -", "empty segment"],
    ["a GET /a/../b - read -", "no accepted path"],
    ["a GET /a%20 - read -", "no accepted path"],
    ["a GET /a;b - read -", "no accepted path"],
    ["a GET /{x**}/b - read -", "whole last segment"],
    ["a GET /{x****} - read -", "whole last segment"],
    ["a GET /{x}{y} - read -", "malformed segment"],
    ["a GET /{x - read -", "lacks a `}`"],
    ["a GET /(x - read -", "lacks a `)`"],
    ["a GET /(x,) - read -", "empty or nested"],
    ["a GET /{x}/{x} - read -", "names a variable twice"],
    ["a GET /{x} t<path:y read -", "no template has the variable `{y}`"],
    ["a GET /a t<cookie:y read -", "resource source"],
    ["a GET /a t<body:y read -", "cannot be used with GET"],
    ["a POST /a t<pb:1 read -", "cannot be used with POST"],
    ["a GRPC /a.S/M t<body:x read -", "cannot be used with GRPC"],
    ["a GRPC /a/b/c - read -", "is not `/package.Service/Method`"],
    ["a MCP tools/call t<path:x read -", "cannot be used with MCP"],
    ["a.(x,y) GET /(a,b,c) - read -", "exactly one group"],
    ["a.(x,y) GET /(a,b)/(c,d) - read -", "exactly one group"],
    ["@let v = ()\na GET /a - read -", "write `@let"],
    ["@let v = (1)\n@let v = (2)\na GET /a - read -", "defined twice"],
    ["@include x", "directive `@include`"],
    ["@optional-prefix /a/{x**}\na GET /a - read -", "without a tail"],
    ["", "has no rows"],
    ["a GET /a/{x} - read -\nb GET /a/{y} - read -", "line 2: `GET /a/{y}` (b) and `/a/{x}` (a, line 1)"],
    ["a GET /a/{x} - read -\nb GET /{y}/a - read -", "equally many literal segments"],
    ["a GET /a/{x} - read -\nb GET /a/{y**} - read -", "equally many literal segments"],
    ["a GET /a/{x}:go - read -\nb GET /a/s-{y} - read -", "equally many literal segments"],
    ["a GET /a - read -\na GET /a - read -", "equally many literal segments"],
    ["a MCP x/y - read -\nb MCP x/y - read -", "equally many literal segments"],
    [`a GET /${"(a,b,c,d)/".repeat(5)}x - read -`, "more than 256 alternatives"],
    [`a GET /${"a/".repeat(40)}x - read -`, "more than 32 segments"],
  ])("%j is refused", (text, message) => {
    const parsed = parsePack("p", text);
    expect(parsed.ok ? "" : parsed.error).toContain(message);
  });

  test("refuses a bad name and an overlong text", () => {
    expect(parsePack("P!", "a GET /a - read -").ok).toBe(false);
    expect(parsePack("p", " ".repeat(300_000)).ok).toBe(false);
  });

  test("the more specific of two templates is no tie", () => {
    expect(
      rows("a GET /a/{x} - read -\nb GET /a/b - read -\nc GET /a/{x}:go - read -\nd POST /a/{y} - read -"),
    ).toHaveLength(4);
  });
});

describe("templatesOverlap", () => {
  const segments = (template: string): Pack["rows"][number]["segments"] => {
    const parsed = parsePack("p", `a GET ${template} - read -`);
    if (!parsed.ok) throw new Error(parsed.error);
    return parsed.value.rows[0]!.segments;
  };
  test.each([
    ["/a/{x}", "/a/b", true],
    ["/a/{x}", "/a", false],
    ["/a/{x}", "/a/", false],
    ["/a/{x**}", "/a/b/c", true],
    ["/a/{x**}", "/a", false],
    ["/a/{x**}", "/a/b/", false],
    ["/{x}:p", "/{y}:e", false],
    ["/{x}:p", "/m:p", true],
    ["/{x}:p", "/:p", false],
  ])("%s and %s: %s", (a, b, expected) => {
    expect(templatesOverlap(segments(a), segments(b))).toBe(expected);
    expect(templatesOverlap(segments(b), segments(a))).toBe(expected);
  });
});

describe("catalog and digest", () => {
  const packs = [...loadBuiltInPacks()].map(([name, text]) => {
    const parsed = parsePack(name, text);
    if (!parsed.ok) throw new Error(parsed.error);
    return parsed.value;
  });

  test("knows every operation and what lies below a pattern", () => {
    const catalog = buildCatalog(packs);
    if (!catalog.ok) throw new Error(catalog.error);
    for (const pattern of ["serving.invoke", "serving", "jobs.runNow", "mcp.tool.list"])
      expect(matchesAnyOperation(catalog.value, pattern)).toBe(true);
    for (const pattern of ["serving.inv", "job", "serving.invoke.chat.x", ""])
      expect(matchesAnyOperation(catalog.value, pattern)).toBe(false);
  });

  test("a name given twice is refused", () => {
    expect(buildCatalog([...packs, packs[0]!]).ok).toBe(false);
  });

  test("the digest depends on every text, their order and where one ends", () => {
    const digests = [["a", "b"], ["b", "a"], ["ab"], ["a"], [], ["ab", ""]].map(packsDigest);
    expect(new Set(digests).size).toBe(digests.length);
    expect(packsDigest(["a", "b"])).toMatch(/^[A-Za-z0-9_-]{22}$/);
    expect(packsDigest(["a", "b"])).toBe(packsDigest(["a", "b"]));
  });
});
