import { describe, expect, test } from "@jest/globals";
import { AddressLimiter } from "../../../../sidecar/core/runtime/address-limiter.ts";

describe("AddressLimiter", () => {
  test("admits a burst, then so many per second, each address for itself", () => {
    const limiter = new AddressLimiter(3, 2);
    const admitted = (address: string, nowMs: number) => limiter.admit(address, nowMs);
    expect([1, 2, 3, 4].map(() => admitted("a", 0))).toEqual([true, true, true, false]);
    expect(admitted("b", 0)).toBe(true);
    expect([1, 2, 3].map(() => admitted("a", 1_000))).toEqual([true, true, false]);
  });

  test("gives addresses beyond its bound one bucket together, and forgets the quiet ones", () => {
    const limiter = new AddressLimiter(1, 1);
    for (let index = 0; index < 4_096; index++) expect(limiter.admit(`a${index}`, 0)).toBe(true);
    expect(limiter.admit("new", 0)).toBe(true);
    expect(limiter.admit("newer", 0)).toBe(false);
    expect(limiter.admit("newest", 70_000)).toBe(true);
    expect(limiter.admit("another", 70_000)).toBe(true);
  });
});
