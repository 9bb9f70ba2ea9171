import { describe, expect, test } from "@jest/globals";
import { BodyRate } from "../../../sidecar/inbound/body-rate.ts";

const PACE = { bodyRate: 240, bodyMs: 20_000 };

/** Whether a body that gains `perSecond` bytes is cut off within a minute; `held` from second to second. */
function cutOff(perSecond: number, held: (second: number) => boolean = () => false, pace = PACE): boolean {
  const rate = new BodyRate(1_000, 0);
  for (let half = 1; half <= 120; half++) {
    const second = half / 2;
    if (rate.isTooSlow(1_000 + second * 1_000, Math.floor(perSecond * second), held(second), pace))
      return true;
  }
  return false;
}

describe("the pace of a body", () => {
  test.each([
    { name: "nothing comes", perSecond: 0, expected: true },
    { name: "it drips", perSecond: 10, expected: true },
    { name: "it is just below the least rate", perSecond: 239, expected: true },
    { name: "it has the least rate", perSecond: 241, expected: false },
    { name: "it is fast", perSecond: 1e6, expected: false },
  ])("where $name: too slow is $expected", ({ perSecond, expected }) => {
    expect(cutOff(perSecond)).toBe(expected);
  });

  test("is not measured while we hold the caller back", () => {
    expect(cutOff(0, () => true)).toBe(false);
    expect(cutOff(0, (second) => Math.floor(second) % 15 === 0)).toBe(false);
    expect(cutOff(0, (second) => second < 10)).toBe(true);
  });

  test("is not measured where any pace will do", () => {
    expect(cutOff(0, undefined, { ...PACE, bodyRate: 0 })).toBe(false);
  });

  test("is measured again after a fast beginning", () => {
    const rate = new BodyRate(0, 0);
    expect(rate.isTooSlow(20_000, 1_000_000, false, PACE)).toBe(false);
    expect(rate.isTooSlow(39_000, 1_000_100, false, PACE)).toBe(false);
    expect(rate.isTooSlow(40_000, 1_000_100, false, PACE)).toBe(true);
  });
});
