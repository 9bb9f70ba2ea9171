import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { RetryBudget } from "../../../sidecar/balance/budget.ts";

test("three retries a second are always there", () => {
  const budget = new RetryBudget();
  expect([0, 1, 2, 3].map(() => budget.retry(500, 20))).toEqual([true, true, true, false]);
  expect(budget.retry(1_500, 20)).toBe(true);
});

test("more are a part of the requests of ten seconds", () => {
  const budget = new RetryBudget();
  for (let i = 0; i < 100; i++) budget.request(0);
  let taken = 0;
  while (budget.retry(100, 20)) taken++;
  expect(taken).toBe(20);
  // The requests have left the window.
  taken = 0;
  while (budget.retry(10_100, 20)) taken++;
  expect(taken).toBe(3);
});

test("a service that fails altogether gets its own load, the part, and three a second", () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 0, max: 100 }), { minLength: 20, maxLength: 60 }),
      fc.integer({ min: 0, max: 100 }),
      (gaps, percent) => {
        const budget = new RetryBudget();
        let nowMs = 0;
        let requests = 0;
        let retries = 0;
        for (const gap of gaps) {
          nowMs += gap;
          budget.request(nowMs);
          requests++;
          while (budget.retry(nowMs, percent)) retries++;
        }
        expect(retries).toBeLessThanOrEqual(
          (requests * percent) / 100 + 3 * (Math.floor(nowMs / 1_000) + 1) + 1,
        );
      },
    ),
  );
});

test("a clock that stands still or jumps far ahead does no harm", () => {
  const budget = new RetryBudget();
  for (const nowMs of [5, 5, 1e12, 1e12 - 5_000]) budget.request(nowMs);
  expect(budget.retry(1e12, 100)).toBe(true);
});
