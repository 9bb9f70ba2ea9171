import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { parseDocument } from "yaml";
import { lineOfField, parseYamlText, splitDocuments } from "../../../control-plane/sources/yaml-files.ts";
import { run } from "../../fuzz/control-plane/sources/yaml-files.fuzz.ts";

describe("splitDocuments", () => {
  test.each([
    ["one document", "a: 1\n", [["a: 1\n", 1]]],
    [
      "markers with content behind them",
      "--- {a: 1}\n--- {b: 2}\n",
      [
        ["--- {a: 1}\n", 1],
        ["--- {b: 2}\n", 2],
      ],
    ],
    ["comments and empty documents", "# c\n---\n# d\n---\na: 1\n", [["---\na: 1\n", 4]]],
    [
      "a byte order mark and Windows line ends",
      "\ufeffa: 1\r\n---\r\nb: 2\r\n",
      [
        ["a: 1\r\n", 1],
        ["---\r\nb: 2\r\n", 2],
      ],
    ],
    ["dashes that are no marker", "a: b ---\n  ---\n----: 1\n", [["a: b ---\n  ---\n----: 1\n", 1]]],
    ["nothing", "\n\n", []],
  ])("%s", (_name, text, expected) => {
    expect(splitDocuments(text).map((part) => [part.text, part.line])).toEqual(expected);
  });

  test("gives the documents that a YAML parser gives", () => {
    const values = fc.array(
      fc.oneof(
        fc.constant("--- {a: 1}\n"),
        fc.constant("---\n- b\n"),
        fc.constant("---\nc: |\n  x\n  ---\n  y\n"),
        fc.constant("---\n# only a comment\n"),
      ),
      { maxLength: 6 },
    );
    fc.assert(
      fc.property(values, (parts) => {
        const expected = parts
          .filter((part) => !part.includes("#"))
          .map((part) => parseDocument(part).toJS() as unknown);
        const found = splitDocuments(parts.join("")).map((part) => parseYamlText(part.text));
        expect(found.map((result) => (result.ok ? result.value : result))).toEqual(expected);
      }),
    );
  });
});

describe("parseYamlText", () => {
  test.each([
    ["a boolean of YAML 1.1", "a: 1\nb: yes\n", 2, "boolean for kubectl"],
    ["another one in a flow list", "a: [x, off]\n", 1, "`off`"],
    ["a key that YAML 1.1 takes for a boolean", "on: 1\n", 1, "`on`"],
    ["a field given twice", "a: 1\nb: 2\na: 3\n", 3, "given twice"],
    ["a directive", "%YAML 1.1\n---\na: 1\n", 1, "directives"],
    ["an unknown tag", "a: !secret x\n", 1, "not YAML"],
    ["an unclosed bracket", "a: 1\nb: {c: [\n", 3, "not YAML"],
    ["a key that is a map", "{a: 1}: 2\n", 1, "not YAML"],
    [
      "too many aliases",
      `a: &a [1, 2, 3]\nb: &b [*a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b]\nd: [*c, *c, *c, *c, *c]\n`,
      1,
      "aliases",
    ],
    ["deep flow nesting", "[".repeat(100_000), 1, "nested too deeply"],
    ["a megabyte of commas", `a: [${"1,".repeat(500_000)}1]`, 1, "too large"],
    ["a megabyte of dashes", "-\n".repeat(500_000), 1, "too large"],
    // The parser alone takes 35 s for this one.
    ["a megabyte of quotes", '"'.repeat(1_000_000), 1, "too large"],
    ["a megabyte of closing brackets", "}".repeat(1_000_000), 1, "too large"],
    ["a megabyte of anchors", `a: [${"&a,".repeat(330_000)}1]`, 1, "anchors and aliases"],
    ["a great many tags", `a: [${"!x 1,".repeat(5_000)}1]`, 1, "too large"],
    ["deep sequences on one line", `${"- ".repeat(100_000)}x`, 1, "nested too deeply"],
  ])("refuses %s", (_name, text, line, says) => {
    const parsed = parseYamlText(text);
    expect(parsed.ok).toBe(false);
    if (!parsed.ok) expect(parsed.error[0]).toMatchObject({ line, message: expect.stringContaining(says) });
  });

  test.each([
    ["words in quotes", "a: \"yes\"\nb: 'no'\n", { a: "yes", b: "no" }],
    [
      "words that only begin so",
      "a: yesterday\nb: only\nc: not on\n",
      { a: "yesterday", b: "only", c: "not on" },
    ],
    ["globs that look like aliases", "paths: [/api/**, '*']\n", { paths: ["/api/**", "*"] }],
    ["a few aliases", "a: &x {b: 1}\nc: *x\n", { a: { b: 1 }, c: { b: 1 } }],
    ["hours without quotes", "from: 01:00\n", { from: "01:00" }],
    ["a block text with old booleans", "t: |\n  yes\n  no\n", { t: "yes\nno\n" }],
  ])("takes %s", (_name, text, value) => {
    expect(parseYamlText(text)).toEqual({ ok: true, value });
  });
});

describe("lineOfField", () => {
  const text = "---\nkind: X\nspec:\n  rules:\n  - name: a\n  - name: b\n    from:\n    - any: true\n";
  test.each([
    ["kind", 2],
    ["spec.rules", 4],
    ["spec.rules[1]", 6],
    ["spec.rules[1].from[0].any", 8],
    ["spec.rules[1].missing", 6],
    ["spec.other.deep", 3],
    ["", 2],
    ["spec.rules[9]", 4],
  ])("%s is on line %s", (path, line) => {
    expect(lineOfField(text, path)).toBe(line);
  });
});

test("the fuzz target finds nothing in half a second", async () => {
  expect((await run({ seconds: 0.5, seed: 1 })).cases).toBeGreaterThan(0);
});
