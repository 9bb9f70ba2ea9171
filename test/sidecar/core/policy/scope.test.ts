import { describe, expect, test } from "@jest/globals";
import { intersectScopes, withinScope } from "../../../../sidecar/core/policy/scope.ts";

const known = {
  kind: "known" as const,
  name: "serving.invoke.chat",
  access: "execute" as const,
  template: "",
};

describe("withinScope", () => {
  test.each([
    [undefined, true],
    [[], false],
    [["serving"], true],
    [["serving.invoke.chat"], true],
    [["serving.invoke.c"], false],
    [["mlflow"], false],
  ])("%j: %s", (scope, want) => {
    expect(withinScope(known, scope)).toBe(want);
  });
  test("holds no operation that is not known while a scope is set", () => {
    expect(withinScope({ kind: "unknown" }, ["serving"])).toBe(false);
    expect(withinScope({ kind: "undetermined" }, ["serving"])).toBe(false);
    expect(withinScope({ kind: "unknown" }, undefined)).toBe(true);
  });
});

describe("intersectScopes", () => {
  test.each([
    [undefined, ["a"], ["a"]],
    [["a.b"], ["a"], ["a.b"]],
    [
      ["a", "c"],
      ["a.b", "a.d"],
      ["a.b", "a.d"],
    ],
    [["a"], ["b"], []],
    [["a"], ["ab"], []],
  ])("%j with %j is %j", (a, b, want) => {
    expect(intersectScopes(a, b)).toEqual(want);
  });
});
