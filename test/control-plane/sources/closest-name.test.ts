import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { closestName, editDistance } from "../../../control-plane/sources/closest-name.ts";

describe("closestName", () => {
  test.each([
    ["form", ["from", "unless", "when"], "from"],
    ["AccesPolicy", ["AccessPolicy", "AccessGrant"], "AccessPolicy"],
    ["allow", ["Allow", "Deny"], "Allow"],
    ["role", ["roles", "ids"], "roles"],
    ["operation", ["operations", "name"], "operations"],
    ["operatoins", ["operations", "name"], "operations"],
    ["zzz", ["from", "name"], undefined],
    ["x", ["yz"], undefined],
    ["", ["a"], undefined],
    ["a".repeat(1000), ["a"], undefined],
  ])("for %s", (word, candidates, expected) => {
    expect(closestName(word, candidates)).toBe(expected);
  });

  test("the distance is symmetric, zero for equal words and never more than the longer word", () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 12 }), fc.string({ maxLength: 12 }), (a, b) => {
        const distance = editDistance(a, b);
        expect(editDistance(b, a)).toBe(distance);
        expect(distance).toBeLessThanOrEqual(Math.max(a.toLowerCase().length, b.toLowerCase().length));
        expect(editDistance(a, a)).toBe(0);
      }),
    );
  });
});
