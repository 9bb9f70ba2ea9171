import { expect, test } from "@jest/globals";
import { resourceOf } from "../../../../sidecar/core/policy/resource-value.ts";

test.each([
  ["fraud", true],
  ["main.default.fraud_v2", true],
  ["meta-llama/Llama-3.1-8B", true],
  ["llama3:8b", true],
  ["/Users/alice/notebook", true],
  ["/", true],
  ["dir/", true],
  ["100%", true],
  ["file:///data/a.csv", true],
  ["s3://bucket/key", true],
  ["a..b", true],
  ["/Users/alice/../bob", false],
  ["/Users/alice/./x", false],
  ["/Users//alice", false],
  ["//Users", false],
  ["..", false],
  ["a\\..\\b", false],
  ["file:///a/%2e%2e/b", false],
  ["urn:a%2fb", false],
  ["file:///a//b", false],
  ["file:///../b", false],
  ["a\u0000b", false],
  ["a\nb", false],
  ["\ud800", false],
  ["", false],
  ["x".repeat(1025), false],
])("%j is known: %s", (value, known) => {
  expect(resourceOf("t", value).kind).toBe(known ? "known" : "unknown");
});

test("nothing is unknown", () => {
  expect(resourceOf("t", undefined)).toEqual({ kind: "unknown", type: "t" });
});
