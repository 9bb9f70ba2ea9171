import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { hundredthsText, threeDigits, UnixMsTexts } from "../../../sidecar/telemetry/number-texts.ts";

describe("hundredths", () => {
  test.each([
    [0, "0"],
    [0.004, "0"],
    [0.005, "0.01"],
    [1, "1"],
    [1.5, "1.5"],
    [12.07, "12.07"],
    [99.995, "100"],
    [300_000, "300000"],
    [-0.2, "-0.2"],
    [1e12, "1000000000000"],
    [1e300, "1e+300"],
  ])("of %d are %s", (ms, text) => {
    expect(hundredthsText(ms)).toBe(text);
  });

  test("are what JSON writes of the rounded number", () => {
    fc.assert(
      fc.property(fc.double({ noNaN: true, min: 0, max: 1e9 }), (ms) => {
        expect(hundredthsText(ms)).toBe(JSON.stringify(Math.round(ms * 100) / 100));
      }),
    );
  });
});

test("three digits are padded", () => {
  expect([0, 7, 42, 999].map(threeDigits)).toEqual(["000", "007", "042", "999"]);
});

test("points in time are whole milliseconds, in any order", () => {
  const texts = new UnixMsTexts();
  fc.assert(
    fc.property(fc.double({ noNaN: true, min: 0, max: 8e15 }), (unixMs) => {
      expect(Number(texts.of(unixMs))).toBe(Math.floor(unixMs));
    }),
  );
  expect([1_760_000_000_000, 1_760_000_000_009.7, 1_760_000_001_000].map((ms) => texts.of(ms))).toEqual([
    "1760000000000",
    "1760000000009",
    "1760000001000",
  ]);
});
