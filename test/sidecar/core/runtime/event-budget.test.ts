import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { EventBudget } from "../../../../sidecar/core/runtime/event-budget.ts";

describe("what strangers can make a gateway write down", () => {
  test("ten of a kind and place, then one that says how many more there were", () => {
    const budget = new EventBudget<number>();
    budget.due(0);
    const written = Array.from({ length: 500 }, (_, i) => budget.admits(i, "login X 203.0.113.7", "login X"));
    expect(written.filter(Boolean)).toHaveLength(10);
    expect(budget.admits(0, "login X 203.0.113.8", "login X")).toBe(true);
    expect(budget.due(59_999)).toEqual([]);
    expect(budget.due(60_000)).toEqual([{ event: 499, count: 490 }]);
    expect(budget.admits(0, "login X 203.0.113.7", "login X")).toBe(true);
    expect(budget.due(120_000)).toEqual([]);
  });

  test("no more than so many lines a minute, from however many addresses, and none is forgotten", () => {
    fc.assert(
      fc.property(fc.array(fc.nat(5_000), { minLength: 10_000, maxLength: 20_000 }), (addresses) => {
        const budget = new EventBudget<number>();
        budget.due(0);
        const written = addresses.filter((address) =>
          budget.admits(address, `login X ${address}`, "login X"),
        );
        const held = budget.due(60_000);
        expect(written.length + held.length).toBeLessThanOrEqual(4_001);
        expect(held.reduce((sum, { count }) => sum + count, written.length)).toBe(addresses.length);
      }),
      { numRuns: 10 },
    );
  });
});
