import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { foldCase } from "../../../../sidecar/core/http/path.ts";
import {
  isIdentityEncoding,
  isJson,
  MAX_JSON_DEPTH,
  resourceText,
  scanJsonObject,
} from "../../../../sidecar/core/policy/json-key.ts";
import { run } from "../../../fuzz/sidecar/core/policy/json-key.fuzz.ts";

const kindOf = (text: string): string => scanJsonObject(Buffer.from(text)).kind;

describe("scanJsonObject", () => {
  test.each([
    ["{}", "object"],
    [' \t\r\n{ "a" : [ 1 , { "b" : "}" } ] } ', "object"],
    ['{"a":"\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9"}', "object"],
    ['{"a":-0.5e+10}', "object"],
    ["[]", "array"],
    ["[[],{}]", "array"],
    ["1", "other"],
    ['"x"', "other"],
    ["null", "other"],
    ["", "invalid"],
    [" ", "invalid"],
    ["{", "invalid"],
    ['{"a"}', "invalid"],
    ['{"a":}', "invalid"],
    ['{"a":1,}', "invalid"],
    ["{,}", "invalid"],
    ['{"a":[1,]}', "invalid"],
    ['{"a":[1}}', "invalid"],
    ['{"a":{"b":1]}', "invalid"],
    ["{a:1}", "invalid"],
    ["{'a':1}", "invalid"],
    ['{"a":1}//', "invalid"],
    ['{"a":NaN}', "invalid"],
    ['{"a":+1}', "invalid"],
    ['{"a":.5}', "invalid"],
    ['{"a":1.}', "invalid"],
    ['{"a":0x1}', "invalid"],
    ['{"a":truex}', "invalid"],
    ['{"a":"\\x"}', "invalid"],
    ['{"a":"\\u12g4"}', "invalid"],
    ['{"a":"\n"}', "invalid"],
    ['{"a":1}{}', "invalid"],
    ["\ufeff{}", "invalid"],
    ['{"a":1,"a":2}', "duplicate"],
    ['{"a":1,"A":2', "duplicate"],
    ['{"x":{"a":1,"a":2}}', "object"],
    [`{"a":${"[".repeat(MAX_JSON_DEPTH - 1)}${"]".repeat(MAX_JSON_DEPTH - 1)}}`, "object"],
    [`{"a":${"[".repeat(50_000)}`, "invalid"],
  ])("%.40j is %s", (text, kind) => {
    expect(kindOf(text)).toBe(kind);
  });

  test("agrees with JSON.parse on valid objects", () => {
    fc.assert(
      fc.property(
        fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 4 })),
        fc.constantFrom(undefined, 2, "\t"),
        (object, space) => {
          const text = JSON.stringify(object, null, space);
          const bytes = Buffer.from(text);
          const scan = scanJsonObject(bytes);
          const parsed = JSON.parse(text) as Record<string, unknown>;
          const keys = Object.keys(parsed);
          if (new Set(keys.map(foldCase)).size < keys.length) {
            expect(scan.kind).toBe("duplicate");
            return;
          }
          if (scan.kind !== "object") throw new Error(scan.kind);
          expect([...scan.members.keys()].sort()).toEqual(keys.sort());
          for (const [key, member] of scan.members) {
            if (member.kind === "string") expect(member.text).toEqual(parsed[key]);
            else if (member.kind === "number") expect(Number(member.literal)).toEqual(parsed[key]);
            else if (member.kind === "object" || member.kind === "array")
              expect(JSON.parse(bytes.toString("utf8", member.start, member.end))).toEqual(parsed[key]);
            else expect(JSON.parse(member.kind)).toEqual(parsed[key]);
          }
        },
      ),
    );
  });

  test("accepts nothing that JSON.parse refuses", () => {
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom(...'{}[]",:0123456789.-+eE\\utrfnalsx ') }), (text) => {
        const kind = kindOf(`{${text}`);
        if (kind === "object") expect(() => JSON.parse(`{${text}`)).not.toThrow();
      }),
      { numRuns: 2000 },
    );
  });

  test("reads a range", () => {
    const bytes = Buffer.from('{"params":{"name":"x"}}');
    const scan = scanJsonObject(bytes);
    const member = scan.kind === "object" ? scan.members.get("params") : undefined;
    if (member?.kind !== "object") throw new Error("no object");
    const inner = scanJsonObject(bytes, member.start, member.end);
    expect(inner.kind === "object" && inner.members.get("name")).toEqual({ kind: "string", text: "x" });
  });

  test("the fuzz target runs", async () => {
    expect((await run({ seconds: 0.2, seed: 3 })).cases).toBeGreaterThan(0);
  });
});

describe("facts about bodies", () => {
  test.each([
    ["application/json", true],
    ['Application/JSON ; Charset="UTF-8"; x=y', true],
    ["application/json; charset=latin1", false],
    ["application/problem+json", false],
    ["application/jsonx", false],
    [undefined, false],
  ])("%j is JSON: %s", (contentType, expected) => {
    expect(isJson(contentType)).toBe(expected);
  });

  test("only an absent or identity coding is none", () => {
    expect([undefined, "", "Identity", "gzip", "identity, gzip"].map(isIdentityEncoding)).toEqual([
      true,
      true,
      true,
      false,
      false,
    ]);
  });

  test("numbers count as their literal only in the plain form", () => {
    const of = (literal: string): string | undefined => resourceText({ kind: "number", literal });
    expect(["0", "10", "-0", "1.0", "1e1"].map(of)).toEqual(["0", "10", undefined, undefined, undefined]);
  });
});
