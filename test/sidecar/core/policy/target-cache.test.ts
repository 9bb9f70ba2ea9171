import { expect, test } from "@jest/globals";
import { TargetCache } from "../../../../sidecar/core/policy/target-cache.ts";

test("keeps what is used through a flood, drops what is not, and never mixes groups", () => {
  const cache = new TargetCache<number>(2, 4);
  cache.set(0, "/hot", 1);
  cache.set(1, "/hot", 2);
  cache.set(0, "/cold", 3);
  for (let i = 0; i < 20; i++) {
    cache.set(0, `/x${i}`, i);
    expect(cache.get(0, "/hot")).toBe(1);
  }
  expect(cache.get(0, "/cold")).toBeUndefined();
  expect(cache.get(1, "/hot")).toBeUndefined();
});

test("does not keep long targets", () => {
  const cache = new TargetCache<number>(1);
  cache.set(0, `/${"x".repeat(600)}`, 1);
  expect(cache.get(0, `/${"x".repeat(600)}`)).toBeUndefined();
});
