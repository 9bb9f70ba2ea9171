import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { ReceiveWindow } from "../../../../sidecar/wire/http2/flow.ts";
import { HeldBytes } from "../../../../sidecar/wire/http2/held-bytes.ts";

const INITIAL = 65_536;
const LEAST = 16_384;
const MOST = 4_194_304;

/** A budget that a test can tighten. */
function budgetOf(bytes: number) {
  return {
    isTight: false,
    left: bytes,
    take(wanted: number) {
      if (wanted > this.left) return false;
      this.left -= wanted;
      return true;
    },
    give(returned: number) {
      this.left += returned;
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
  test("never holds more than its size, never stands still, and gives back what it took", () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const budget = budgetOf(8 * INITIAL);
        const window = new ReceiveWindow(INITIAL, LEAST, 0);
        let held = 0;
        let now = 0;
        const pass = (bytes: number): void => {
          held -= bytes;
          window.consumed(bytes, MOST, () => now, budget);
        };
        for (const { tight, ms, sent, passed } of steps) {
          budget.isTight = tight;
          now += ms;
          const bytes = Math.floor(sent * window.available);
          window.available -= bytes;
          held += bytes;
          expect(held).toBeLessThanOrEqual(INITIAL + window.grown);
          pass(Math.floor(passed * held));
          expect(window.available).toBeGreaterThanOrEqual(0);
          expect(budget.left + window.grown).toBe(8 * INITIAL);
        }
        pass(held);
        expect(window.available).toBeGreaterThan(LEAST / 2);
      }),
    );
  });

  test("shrinks to the least with what is returned while much is held, and opens again", () => {
    const budget = budgetOf(MOST);
    const window = new ReceiveWindow(INITIAL, LEAST, 0);
    const pass = (bytes: number): number => {
      window.available -= bytes;
      return window.consumed(bytes, MOST, () => 0, budget);
    };
    for (let n = 0; n < 64; n++) pass(window.available);
    expect(window.available).toBe(MOST);
    budget.isTight = true;
    for (let n = 0; n < 64; n++) pass(Math.ceil(window.available / 2));
    expect(window.available).toBe(LEAST);
    expect([window.grown, budget.left]).toEqual([0, MOST]);
    budget.isTight = false;
    expect(pass(LEAST)).toBe(INITIAL);
    expect(window.available).toBe(INITIAL);
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
