import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { ReceiveWindow } from "../../../../sidecar/wire/http2/flow.ts";
import { HeldBytes } from "../../../../sidecar/wire/http2/held-bytes.ts";

const INITIAL = 65_536;
const LEAST = 16_384;
const MOST = 4_194_304;
const SIZES = { initial: INITIAL, least: LEAST, most: MOST };
const GROWTH = 8 * INITIAL;

/** A budget that a test can tighten. */
function budgetOf() {
  return {
    isTight: false,
    taken: 0,
    add(bytes: number) {
      this.taken += bytes;
    },
    take(bytes: number) {
      if (this.taken + bytes > INITIAL + GROWTH) return false;
      this.taken += bytes;
      return true;
    },
    give(bytes: number) {
      this.taken -= bytes;
    },
  };
}

const step = fc.record({
  tight: fc.boolean(),
  ms: fc.nat(300),
  /** Parts of what may be sent, and of what is held. */
  sent: fc.double({ min: 0, max: 1, noNaN: true }),
  passed: fc.double({ min: 0, max: 1, noNaN: true }),
});

describe("a receive window", () => {
  test("never lets more be held than is counted, never stands still, and gives all back", () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const budget = budgetOf();
        let now = 0;
        const window = new ReceiveWindow(SIZES, now, budget);
        let held = 0;
        const pass = (bytes: number): void => {
          held -= bytes;
          window.consumed(bytes, () => now);
        };
        for (const { tight, ms, sent, passed } of steps) {
          budget.isTight = tight;
          now += ms;
          const bytes = Math.floor(sent * window.available);
          window.available -= bytes;
          held += bytes;
          pass(Math.floor(passed * held));
          expect(held + window.available).toBeLessThanOrEqual(budget.taken);
          expect(window.available).toBeGreaterThanOrEqual(0);
        }
        pass(held);
        expect(window.available).toBeGreaterThan(LEAST / 2);
        window.end();
        expect(budget.taken).toBe(0);
      }),
    );
  });

  test("shrinks to the least with what is returned while there is too much, and opens again", () => {
    const budget = budgetOf();
    const window = new ReceiveWindow(SIZES, 0, budget);
    const pass = (bytes: number): number => {
      window.available -= bytes;
      return window.consumed(bytes, () => 0);
    };
    for (let n = 0; n < 64; n++) pass(window.available);
    expect(window.available).toBe(GROWTH);
    budget.isTight = true;
    for (let n = 0; n < 64; n++) pass(Math.ceil(window.available / 2));
    expect([window.available, budget.taken]).toEqual([LEAST, LEAST]);
    budget.isTight = false;
    expect(pass(LEAST)).toBe(INITIAL);
    expect([window.available, budget.taken]).toEqual([INITIAL, INITIAL]);
  });

  test("does not take for reading what a kernel takes at once", () => {
    const budget = budgetOf();
    const window = new ReceiveWindow(SIZES, 0, budget);
    const halves = (count: number): void => {
      for (let n = 0; n < count; n++) {
        window.available -= INITIAL / 2;
        window.consumed(INITIAL / 2, () => 0);
      }
    };
    halves(3);
    expect(window.available).toBe(INITIAL);
    halves(1);
    expect(window.available).toBe(2 * INITIAL);
  });

  test("without a budget grows to its most", () => {
    const window = new ReceiveWindow(SIZES, 0, undefined);
    for (let n = 0; n < 64; n++) {
      const bytes = window.available;
      window.available = 0;
      window.consumed(bytes, () => 0);
    }
    expect(window.available).toBe(MOST);
  });
});

describe("held bytes", () => {
  test("are much from the mark on, until half of it is gone", () => {
    const held = new HeldBytes(100);
    const seen: boolean[] = [];
    for (const change of [99, 1, 50, -99, -1, -1, 50]) {
      if (change > 0) held.add(change);
      else held.remove(-change);
      seen.push(held.isMuch);
    }
    expect(seen).toEqual([false, true, true, true, true, false, false]);
    expect(held.bytes).toBe(99);
  });
});
