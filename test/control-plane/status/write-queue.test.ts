// In which order and how fast objects are written.
import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { type Urgency, WriteQueue } from "../../../control-plane/status/write-queue.ts";

const LIMITS = { ratePerSecond: 10, burst: 5, urgentEveryMs: 2_000, countsEveryMs: 10_000 };

/** Writes what may be written now. */
function drain(queue: WriteQueue, nowMs: number): string[] {
  const keys: string[] = [];
  for (let next = queue.next(nowMs); next.kind === "write"; next = queue.next(nowMs)) keys.push(next.key);
  return keys;
}

describe("WriteQueue", () => {
  test("what people wait for goes first, the oldest first", () => {
    const queue = new WriteQueue(LIMITS);
    for (const key of ["c1", "c2"]) queue.add(key, "counts");
    for (const key of ["u1", "u2"]) queue.add(key, "urgent");
    queue.add("u1", "urgent");
    queue.add("c2", "urgent");
    expect(drain(queue, 1_000)).toEqual(["u1", "u2", "c2", "c1"]);
  });

  test("what was just edited overtakes a mass that waits", () => {
    const queue = new WriteQueue(LIMITS);
    for (let i = 0; i < 100; i++) queue.add(`k${i}`, "urgent");
    drain(queue, 1_000);
    queue.add("k99", "edited");
    queue.add("new", "edited");
    expect(drain(queue, 1_300)).toEqual(["k99", "new", "k5"]);
    expect(queue.size).toBe(93);
  });

  test("an object rests after a write, longer where only counts moved", () => {
    const queue = new WriteQueue(LIMITS);
    queue.add("a", "urgent");
    queue.add("b", "urgent");
    expect(drain(queue, 1_000)).toEqual(["a", "b"]);
    queue.add("a", "urgent");
    queue.add("b", "counts");
    expect(queue.next(1_500)).toEqual({ kind: "wait", ms: 1_500 });
    expect(drain(queue, 3_000)).toEqual(["a"]);
    expect(drain(queue, 10_999)).toEqual([]);
    expect(drain(queue, 11_000)).toEqual(["b"]);
  });

  test("a mass is spread", () => {
    const queue = new WriteQueue(LIMITS);
    for (let i = 0; i < 100; i++) queue.add(`k${i}`, "urgent");
    const first = drain(queue, 1_000);
    expect(first).toEqual(["k0", "k1", "k2", "k3", "k4"]);
    expect(queue.next(1_000)).toEqual({ kind: "wait", ms: 100 });
    expect(drain(queue, 1_500)).toHaveLength(5);
    expect(queue.size).toBe(90);
  });

  test("never faster than its rate and burst, none of an object too soon, and nothing is lost", () => {
    const step = fc.record({
      afterMs: fc.integer({ min: 0, max: 900 }),
      key: fc.constantFrom("a", "b", "c", "d", "e", "f"),
      urgency: fc.constantFrom<Urgency>("edited", "urgent", "counts"),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
        const queue = new WriteQueue(LIMITS);
        const wanted = new Set<string>();
        const last = new Map<string, number>();
        const writes: number[] = [];
        let nowMs = 1_000;
        const write = (): void => {
          for (const key of drain(queue, nowMs)) {
            expect(wanted.delete(key)).toBe(true);
            expect(nowMs - (last.get(key) ?? Number.NEGATIVE_INFINITY)).toBeGreaterThanOrEqual(2_000);
            last.set(key, nowMs);
            writes.push(nowMs);
          }
        };
        for (const { afterMs, key, urgency } of steps) {
          nowMs += afterMs;
          queue.add(key, urgency);
          wanted.add(key);
          write();
        }
        for (const [i, atMs] of writes.entries()) {
          const within = writes.filter((other, j) => j <= i && atMs - other < 1_000).length;
          expect(within).toBeLessThanOrEqual(LIMITS.burst + LIMITS.ratePerSecond);
        }
        nowMs += 20_000;
        write();
        nowMs += 1_000;
        write();
        expect([...wanted]).toEqual([]);
      }),
    );
  });
});
