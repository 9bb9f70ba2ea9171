import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { DeadlineWheel, type Timed } from "../../../sidecar/balance/deadline-wheel.ts";

class Entry implements Timed {
  deadlineMs: number;
  wheelSlot = -1;
  wheelIndex = -1;
  toldMs = -1;
  readonly onTold: () => void;

  constructor(deadlineMs: number, onTold: () => void = () => undefined) {
    this.deadlineMs = deadlineMs;
    this.onTold = onTold;
  }

  timeOut(nowMs: number): void {
    expect(this.toldMs).toBe(-1);
    this.toldMs = nowMs;
    this.onTold();
  }
}

describe("a deadline wheel", () => {
  test("tells every entry once, not before its deadline, at most a tick and a turn late", () => {
    const operation = fc.record({
      at: fc.nat(20_000),
      for: fc.nat(30_000),
      extend: fc.option(fc.record({ after: fc.nat(5_000), by: fc.nat(10_000) })),
      removeAfter: fc.option(fc.nat(20_000)),
    });
    fc.assert(
      fc.property(
        fc.array(operation, { maxLength: 40 }),
        fc.integer({ min: 1, max: 40 }),
        (operations, step) => {
          const wheel = new DeadlineWheel(16, 0);
          const entries = new Map(operations.map((each) => [each, new Entry(each.at + each.for)]));
          const removed = new Set<Entry>();
          for (let nowMs = 0; nowMs <= 70_000; nowMs += step * 5) {
            for (const [each, entry] of entries) {
              if (each.at <= nowMs && each.at > nowMs - step * 5) wheel.add(entry, nowMs);
              const { extend, removeAfter } = each;
              if (
                extend !== null &&
                entry.toldMs < 0 &&
                nowMs >= each.at + extend.after &&
                nowMs < each.at + extend.after + step * 5
              )
                entry.deadlineMs = Math.max(entry.deadlineMs, nowMs + extend.by);
              if (
                removeAfter !== null &&
                entry.toldMs < 0 &&
                nowMs >= each.at + removeAfter &&
                !removed.has(entry)
              ) {
                wheel.remove(entry);
                removed.add(entry);
              }
            }
            wheel.expire(nowMs);
          }
          for (const entry of entries.values()) {
            if (removed.has(entry)) expect(entry.toldMs).toBe(-1);
            else {
              expect(entry.toldMs).toBeGreaterThanOrEqual(entry.deadlineMs);
              expect(entry.toldMs).toBeLessThanOrEqual(entry.deadlineMs + 16 + step * 10);
            }
          }
          expect(wheel.size).toBe(0);
        },
      ),
      { numRuns: 40 },
    );
  });

  test("does not put back what another entry ended in the same tick", () => {
    const wheel = new DeadlineWheel(10, 0);
    const other = new Entry(5_200);
    const first = new Entry(80, () => wheel.remove(other));
    wheel.add(first, 0);
    // Shares the slot of the first, a round later.
    wheel.add(other, 0);
    expect(other.wheelSlot).toBe(first.wheelSlot);
    wheel.expire(100);
    expect(wheel.size).toBe(0);
    wheel.expire(20_000);
    expect(other.toldMs).toBe(-1);
  });

  test("takes an entry again after it was told", () => {
    const wheel = new DeadlineWheel(10, 0);
    const entry = new Entry(50);
    wheel.add(entry, 0);
    wheel.expire(60);
    expect(entry.toldMs).toBe(60);
    entry.toldMs = -1;
    entry.deadlineMs = 100;
    wheel.add(entry, 60);
    wheel.expire(110);
    expect(entry.toldMs).toBe(110);
  });
});
