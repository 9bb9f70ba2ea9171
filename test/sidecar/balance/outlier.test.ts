import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { isPanic, mayEject, OutlierRecord } from "../../../sidecar/balance/outlier.ts";

const settings = { consecutive5xx: 3, ejectForMs: 1_000 };

function failTimes(record: OutlierRecord, times: number): boolean {
  let due = false;
  for (let i = 0; i < times; i++) due = record.fail(settings);
  return due;
}

describe("an outlier record", () => {
  test("asks for ejection at the n-th failure in a row, not before", () => {
    const record = new OutlierRecord();
    expect(failTimes(record, 2)).toBe(false);
    record.succeed();
    expect(failTimes(record, 2)).toBe(false);
    expect(record.fail(settings)).toBe(true);
  });

  test("rests longer each time, and forgives with quiet time", () => {
    const record = new OutlierRecord();
    record.eject(settings, 0);
    expect(record.sweep(settings, 999)).toBe(false);
    expect(record.sweep(settings, 1_000)).toBe(true);
    record.eject(settings, 1_000);
    expect(record.untilMs).toBe(3_000);
    expect(record.sweep(settings, 3_000)).toBe(true);
    record.sweep(settings, 4_000);
    record.sweep(settings, 5_000);
    record.eject(settings, 5_000);
    expect(record.untilMs).toBe(6_000);
  });

  test("never rests longer than five minutes", () => {
    const record = new OutlierRecord();
    for (let i = 0; i < 1_000; i++) record.eject(settings, 0);
    expect(record.untilMs).toBe(300_000);
  });

  test("counts nothing that fails during the rest", () => {
    const record = new OutlierRecord();
    record.eject(settings, 0);
    expect(failTimes(record, 10)).toBe(false);
    record.sweep(settings, 1_000);
    expect(failTimes(record, 2)).toBe(false);
  });
});

test.each([
  { ejected: 0, endpoints: 1, percent: 100, may: false },
  { ejected: 0, endpoints: 3, percent: 10, may: true },
  { ejected: 1, endpoints: 3, percent: 10, may: false },
  { ejected: 4, endpoints: 10, percent: 50, may: true },
  { ejected: 5, endpoints: 10, percent: 50, may: false },
  { ejected: 0, endpoints: 10, percent: 0, may: false },
])("with $ejected of $endpoints ejected at most $percent %: $may", ({ ejected, endpoints, percent, may }) => {
  expect(mayEject(ejected, endpoints, percent)).toBe(may);
});

test("ejecting while allowed never passes the bound", () => {
  fc.assert(
    fc.property(fc.integer({ min: 2, max: 100 }), fc.integer({ min: 0, max: 100 }), (endpoints, percent) => {
      let ejected = 0;
      while (mayEject(ejected, endpoints, percent)) ejected++;
      expect(ejected).toBeLessThanOrEqual(percent === 0 ? 0 : Math.max(1, (endpoints * percent) / 100));
    }),
  );
});

test.each([
  { usable: 5, endpoints: 10, panic: false },
  { usable: 4, endpoints: 10, panic: true },
  { usable: 0, endpoints: 1, panic: true },
  { usable: 0, endpoints: 0, panic: false },
])("with $usable of $endpoints usable, panic below a half: $panic", ({ usable, endpoints, panic }) => {
  expect(isPanic(usable, endpoints, 50)).toBe(panic);
  expect(isPanic(usable, endpoints, 0)).toBe(false);
});
