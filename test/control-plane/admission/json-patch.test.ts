import { describe, expect, test } from "@jest/globals";
import { applyPatch, mapPatch, pointerToken } from "../../../control-plane/admission/json-patch.ts";
import type { JsonPatchOperation } from "../../../control-plane/admission/review.ts";

describe("applyPatch", () => {
  // Examples of RFC 6902, appendix A.
  test.each([
    {
      name: "A.1",
      object: { foo: "bar" },
      patch: { op: "add", path: "/baz", value: "qux" },
      result: { foo: "bar", baz: "qux" },
    },
    {
      name: "A.2",
      object: { foo: ["bar", "baz"] },
      patch: { op: "add", path: "/foo/1", value: "qux" },
      result: { foo: ["bar", "qux", "baz"] },
    },
    {
      name: "A.3",
      object: { baz: "qux", foo: "bar" },
      patch: { op: "remove", path: "/baz" },
      result: { foo: "bar" },
    },
    {
      name: "A.4",
      object: { foo: ["bar", "qux", "baz"] },
      patch: { op: "remove", path: "/foo/1" },
      result: { foo: ["bar", "baz"] },
    },
    {
      name: "A.5",
      object: { baz: "qux", foo: "bar" },
      patch: { op: "replace", path: "/baz", value: "boo" },
      result: { baz: "boo", foo: "bar" },
    },
    {
      name: "A.10",
      object: { foo: "bar" },
      patch: { op: "add", path: "/child", value: { grandchild: {} } },
      result: { foo: "bar", child: { grandchild: {} } },
    },
    {
      name: "A.14",
      object: { "/": 9, "~1": 10 },
      patch: { op: "replace", path: "/~01", value: 11 },
      result: { "/": 9, "~1": 11 },
    },
    {
      name: "A.16",
      object: { foo: ["bar"] },
      patch: { op: "add", path: "/foo/-", value: ["abc", "def"] },
      result: { foo: ["bar", ["abc", "def"]] },
    },
    {
      name: "deeper",
      object: { a: [{ b: { c: 1 } }] },
      patch: { op: "replace", path: "/a/0/b/c", value: 2 },
      result: { a: [{ b: { c: 2 } }] },
    },
    { name: "whole", object: { a: 1 }, patch: { op: "replace", path: "", value: {} }, result: {} },
  ])("does as RFC 6902 says: $name", ({ object, patch, result }) => {
    expect(applyPatch(object, [patch as JsonPatchOperation])).toEqual(result);
  });

  test.each([
    { name: "A.12", patch: { op: "add", path: "/baz/bat", value: "qux" } },
    { name: "a missing key", patch: { op: "replace", path: "/x", value: 1 } },
    { name: "removal of a missing key", patch: { op: "remove", path: "/x" } },
    { name: "a place behind the list", patch: { op: "add", path: "/list/2", value: 1 } },
    { name: "a place that is none", patch: { op: "replace", path: "/list/01", value: 1 } },
    { name: "the end of a list to be replaced", patch: { op: "replace", path: "/list/-", value: 1 } },
    { name: "a key of a text", patch: { op: "add", path: "/foo/x", value: 1 } },
    { name: "no object left", patch: { op: "replace", path: "", value: 1 } },
  ])("refuses $name", ({ patch }) => {
    expect(() => applyPatch({ foo: "bar", list: [1] }, [patch as JsonPatchOperation])).toThrow(
      expect.objectContaining({ code: "bad_object" }),
    );
  });

  test("sets a key that means something to JavaScript as data", () => {
    const result = applyPatch({}, [{ op: "add", path: "/__proto__", value: { a: 1 } }]);
    expect(Object.keys(result)).toEqual(["__proto__"]);
    expect(Object.getPrototypeOf(result)).toBe(Object.prototype);
  });
});

describe("mapPatch", () => {
  test("adds the whole map where there is none", () => {
    const changes = new Map([
      ["a/b", "1"],
      ["c", undefined],
    ]);
    expect(mapPatch("/m", undefined, changes)).toEqual([{ op: "add", path: "/m", value: { "a/b": "1" } }]);
    expect(mapPatch("/m", undefined, new Map([["c", undefined]]))).toEqual([]);
  });

  test("changes only what differs", () => {
    const changes = new Map([
      ["same", "1"],
      ["new", "2"],
      ["old", undefined],
      ["gone", undefined],
      ["x/y", "3"],
    ]);
    expect(mapPatch("/m", { same: "1", old: "1", "x/y": "1" }, changes)).toEqual([
      { op: "add", path: "/m/new", value: "2" },
      { op: "remove", path: "/m/old" },
      { op: "replace", path: "/m/x~1y", value: "3" },
    ]);
  });

  test("escapes keys", () => {
    expect(pointerToken("a/b~c")).toBe("a~1b~0c");
  });
});
