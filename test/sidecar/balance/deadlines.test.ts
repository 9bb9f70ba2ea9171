import { afterEach, beforeEach, describe, expect, jest, test } from "@jest/globals";
import type { Timed } from "../../../sidecar/balance/deadline-wheel.ts";
import { Deadlines } from "../../../sidecar/balance/deadlines.ts";
import { FakeClock } from "../../fakes/clock.ts";

let clock: FakeClock;
let deadlines: Deadlines;
let told: number[];

/** Lets the time pass in which the loop turns `times`, `ms` each. */
function turn(times: number, ms: number): void {
  for (let i = 0; i < times; i++) {
    clock.advance(ms);
    jest.advanceTimersByTime(16);
  }
}

function add(deadlineMs: number): Timed {
  const entry: Timed = {
    deadlineMs,
    wheelSlot: -1,
    wheelIndex: -1,
    timeOut: () => told.push(deadlineMs),
  };
  deadlines.add(entry);
  return entry;
}

beforeEach(() => {
  jest.useFakeTimers();
  clock = new FakeClock(1_000);
  deadlines = new Deadlines(clock);
  told = [];
});
afterEach(() => {
  deadlines.close();
  jest.useRealTimers();
});

describe("Deadlines", () => {
  test("tells each within two ticks of its time, and those that are gone nothing", () => {
    for (const deadlineMs of [1_100, 1_300, 2_000]) add(deadlineMs);
    deadlines.remove(add(1_200));
    turn(5, 16);
    expect(told).toEqual([]);
    turn(4, 16);
    expect(told).toEqual([1_100]);
    turn(60, 16);
    expect(told).toEqual([1_100, 1_300, 2_000]);
    expect(jest.getTimerCount()).toBe(0);
  });

  test("reads what came during a standstill of ours before it calls it missing", () => {
    const answered = add(1_100);
    add(1_200);
    turn(1, 700);
    expect(told).toEqual([]);
    // The answer lay in the kernel.
    turn(2, 16);
    deadlines.remove(answered);
    turn(2, 16);
    expect(told).toEqual([1_200]);
  });

  test("is not put off by a process that is slow for ever", () => {
    add(1_100);
    turn(4, 700);
    expect(told).toEqual([]);
    turn(1, 700);
    expect(told).toEqual([1_100]);
  });
});
