import { describe, expect, test } from "@jest/globals";
import type { Schedule } from "../../../../sidecar/core/policy/rule.ts";
import {
  compileSchedule,
  isOpen,
  parseTimeOfDay,
  ZoneClock,
} from "../../../../sidecar/core/policy/schedule.ts";

const at = (text: string): number => {
  const ms = Date.parse(text);
  if (Number.isNaN(ms)) throw new Error(`no time: ${text}`);
  return ms;
};

function openAt(schedule: Schedule, instant: string): boolean {
  const compiled = compileSchedule(schedule, new Map());
  if (compiled === undefined) throw new Error("schedule does not compile");
  return isOpen(compiled, at(instant));
}

const berlin = (rest: Omit<Schedule, "timeZone">): Schedule => ({ timeZone: "Europe/Berlin", ...rest });
const newYork = (rest: Omit<Schedule, "timeZone">): Schedule => ({ timeZone: "America/New_York", ...rest });

describe("isOpen", () => {
  // 2026-06-01 is a Monday; Berlin is then two hours ahead of UTC, New York four hours behind.
  test.each([
    ["before from", berlin({ from: "08:00", to: "18:00" }), "2026-06-01T05:59:59.999Z", false],
    ["from is inclusive", berlin({ from: "08:00", to: "18:00" }), "2026-06-01T06:00:00Z", true],
    ["the last minute", berlin({ from: "08:00", to: "18:00" }), "2026-06-01T15:59:59.999Z", true],
    ["to is exclusive", berlin({ from: "08:00", to: "18:00" }), "2026-06-01T16:00:00Z", false],
    ["24:00 is the end of the day", berlin({ from: "08:00", to: "24:00" }), "2026-06-01T21:59:59Z", true],
    ["24:00 ends with the day", berlin({ from: "08:00", to: "24:00" }), "2026-06-01T22:00:00Z", false],
    ["without from, the day begins at midnight", berlin({ to: "01:00" }), "2026-05-31T22:00:00Z", true],
    ["without to, the day lasts until midnight", berlin({ from: "23:00" }), "2026-06-01T21:59:00Z", true],
    ["without anything it is always open", berlin({}), "2026-06-03T12:34:56Z", true],
    [
      "equal from and to is never open",
      berlin({ from: "08:00", to: "08:00" }),
      "2026-06-01T06:00:00Z",
      false,
    ],
    ["a zone behind UTC", newYork({ from: "08:00", to: "18:00" }), "2026-06-01T12:00:00Z", true],
    ["a zone behind UTC, too early", newYork({ from: "08:00", to: "18:00" }), "2026-06-01T11:59:00Z", false],
    [
      "a zone with half an hour",
      { timeZone: "Asia/Kolkata", from: "09:00", to: "10:00" },
      "2026-06-01T03:30:00Z",
      true,
    ],
  ] as const)("%s", (_name, schedule, instant, open) => {
    expect(openAt(schedule, instant)).toBe(open);
  });

  test.each([
    ["a listed day", berlin({ days: ["Mon", "Tue"] }), "2026-06-02T10:00:00Z", true],
    ["another day", berlin({ days: ["Mon", "Tue"] }), "2026-06-03T10:00:00Z", false],
    ["Sunday is the last day", berlin({ days: ["Sun"] }), "2026-06-07T10:00:00Z", true],
    ["the local day counts, not that of UTC", berlin({ days: ["Tue"] }), "2026-06-01T22:30:00Z", true],
    ["the local day has ended, UTC's has not", berlin({ days: ["Mon"] }), "2026-06-01T22:30:00Z", false],
    ["the local day has not begun yet", newYork({ days: ["Tue"] }), "2026-06-02T03:59:00Z", false],
    ["the local day lasts longer", newYork({ days: ["Mon"] }), "2026-06-02T03:59:00Z", true],
  ] as const)("days: %s", (_name, schedule, instant, open) => {
    expect(openAt(schedule, instant)).toBe(open);
  });

  const night = { from: "22:00", to: "06:00" };
  test.each([
    ["evening of the day it starts on", berlin({ ...night, days: ["Fri"] }), "2026-06-05T20:00:00Z", true],
    ["before it starts", berlin({ ...night, days: ["Fri"] }), "2026-06-05T19:59:59Z", false],
    [
      "the night after belongs to that day",
      berlin({ ...night, days: ["Fri"] }),
      "2026-06-06T03:59:59Z",
      true,
    ],
    [
      "to is exclusive in the morning too",
      berlin({ ...night, days: ["Fri"] }),
      "2026-06-06T04:00:00Z",
      false,
    ],
    [
      "the morning of the day itself is not open",
      berlin({ ...night, days: ["Fri"] }),
      "2026-06-05T01:00:00Z",
      false,
    ],
    ["the next evening is not open", berlin({ ...night, days: ["Fri"] }), "2026-06-06T21:00:00Z", false],
    ["Sunday's night ends on Monday", berlin({ ...night, days: ["Sun"] }), "2026-06-08T01:00:00Z", true],
    [
      "Monday's night does not begin on Sunday",
      berlin({ ...night, days: ["Mon"] }),
      "2026-06-08T01:00:00Z",
      false,
    ],
  ] as const)("over midnight: %s", (_name, schedule, instant, open) => {
    expect(openAt(schedule, instant)).toBe(open);
  });

  // The wall clock decides: an hour that is skipped is never open, an hour that comes twice is open twice.
  test.each([
    ["Berlin, spring: before the jump", berlin({ from: "01:00", to: "02:00" }), "2026-03-29T00:30:00Z", true],
    [
      "Berlin, spring: 02:30 does not exist",
      berlin({ from: "02:00", to: "03:00" }),
      "2026-03-29T01:00:00Z",
      false,
    ],
    [
      "Berlin, spring: straight to 03:00",
      berlin({ from: "03:00", to: "04:00" }),
      "2026-03-29T01:00:00Z",
      true,
    ],
    ["Berlin, spring: 08:00 comes an hour earlier", berlin({ from: "08:00" }), "2026-03-29T06:00:00Z", true],
    ["Berlin, the day before: 08:00 in winter", berlin({ from: "08:00" }), "2026-03-28T06:00:00Z", false],
    [
      "Berlin, autumn: 02:30 the first time",
      berlin({ from: "02:00", to: "03:00" }),
      "2026-10-25T00:30:00Z",
      true,
    ],
    [
      "Berlin, autumn: 02:30 the second time",
      berlin({ from: "02:00", to: "03:00" }),
      "2026-10-25T01:30:00Z",
      true,
    ],
    ["Berlin, autumn: then 03:00", berlin({ from: "02:00", to: "03:00" }), "2026-10-25T02:00:00Z", false],
    [
      "New York, spring: 02:30 does not exist",
      newYork({ from: "02:00", to: "03:00" }),
      "2026-03-08T07:00:00Z",
      false,
    ],
    [
      "New York, spring: straight to 03:00",
      newYork({ from: "03:00", to: "04:00" }),
      "2026-03-08T07:00:00Z",
      true,
    ],
    [
      "New York, spring: before the jump",
      newYork({ from: "01:00", to: "02:00" }),
      "2026-03-08T06:59:59Z",
      true,
    ],
    [
      "New York, autumn: 01:30 the first time",
      newYork({ from: "01:00", to: "02:00" }),
      "2026-11-01T05:30:00Z",
      true,
    ],
    [
      "New York, autumn: 01:30 the second time",
      newYork({ from: "01:00", to: "02:00" }),
      "2026-11-01T06:30:00Z",
      true,
    ],
    ["New York, autumn: then 02:00", newYork({ from: "01:00", to: "02:00" }), "2026-11-01T07:00:00Z", false],
    [
      "a night over the jump keeps its starting day",
      berlin({ from: "22:00", to: "06:00", days: ["Sat"] }),
      "2026-03-29T03:59:59Z",
      true,
    ],
    [
      "a night over the jump ends by the wall clock",
      berlin({ from: "22:00", to: "06:00", days: ["Sat"] }),
      "2026-03-29T04:00:00Z",
      false,
    ],
  ] as const)("%s", (_name, schedule, instant, open) => {
    expect(openAt(schedule, instant)).toBe(open);
  });
});

describe("ZoneClock", () => {
  test("counts minutes from Monday 00:00 and follows the clock in both directions", () => {
    const clock = new ZoneClock("UTC");
    const monday = at("2026-06-01T00:00:00Z");
    const minutes = [0, 1, 1439, 1440, 10_079, 5, 5, 10_080];
    expect(minutes.map((minute) => clock.weekMinute(monday + minute * 60_000))).toEqual([
      0, 1, 1439, 1440, 10_079, 5, 5, 0,
    ]);
  });

  test("agrees on a whole minute", () => {
    const clock = new ZoneClock("Europe/Berlin");
    const start = at("2026-10-25T00:59:00Z");
    expect(clock.weekMinute(start)).toBe(clock.weekMinute(start + 59_999));
    expect(clock.weekMinute(start + 60_000)).toBe(6 * 1440 + 120);
  });

  test("throws on a zone that does not exist", () => {
    expect(() => new ZoneClock("Mars/Olympus")).toThrow(RangeError);
  });
});

describe("compileSchedule", () => {
  test.each([
    ["an unknown zone", { timeZone: "Mars/Olympus" }],
    ["an empty zone", { timeZone: "" }],
    ["an odd from", { timeZone: "UTC", from: "8:00" }],
    ["an odd to", { timeZone: "UTC", to: "25:00" }],
  ])("refuses %s", (_name, schedule) => {
    expect(compileSchedule(schedule, new Map())).toBeUndefined();
  });

  test("shares one clock per zone", () => {
    const zones = new Map<string, ZoneClock>();
    const first = compileSchedule(berlin({ from: "08:00" }), zones);
    const second = compileSchedule(berlin({ to: "09:00" }), zones);
    expect(first?.zone).toBe(second?.zone);
    expect(zones.size).toBe(1);
  });
});

describe("parseTimeOfDay", () => {
  test.each([
    ["00:00", 0],
    ["00:01", 1],
    ["09:05", 545],
    ["23:59", 1439],
    ["24:00", 1440],
    ["24:01", undefined],
    ["25:00", undefined],
    ["12:60", undefined],
    ["9:05", undefined],
    ["09:5", undefined],
    ["09:05:00", undefined],
    [" 09:05", undefined],
    ["09-05", undefined],
    ["", undefined],
    ["٠٩:٠٥", undefined],
  ])("%j is %j", (text, minutes) => {
    expect(parseTimeOfDay(text)).toBe(minutes);
  });
});
