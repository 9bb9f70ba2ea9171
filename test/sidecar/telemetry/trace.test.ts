import { describe, expect, test } from "@jest/globals";
import { RandomIds } from "../../../sidecar/telemetry/random-ids.ts";
import { createTraceparent, isTraceparent, traceIdOf } from "../../../sidecar/telemetry/trace.ts";

const ID = "4bf92f3577b34da6a3ce929d0e0e4736";
const GOOD = `00-${ID}-00f067aa0ba902b7-01`;

describe("traceparent", () => {
  test.each([
    [GOOD, true],
    [`01-${ID}-00f067aa0ba902b7-01-more`, true],
    [`00-${ID}-00f067aa0ba902b7-01-more`, false],
    [`ff-${ID}-00f067aa0ba902b7-01`, false],
    [GOOD.toUpperCase(), false],
    [`00-${"0".repeat(32)}-00f067aa0ba902b7-01`, false],
    [`00-${ID}-${"0".repeat(16)}-01`, false],
    ["", false],
    [`${GOOD}"`, false],
  ])("%s is valid: %s", (value, valid) => {
    expect(isTraceparent(value)).toBe(valid);
  });

  test("that we make are valid and differ", () => {
    const ids = new RandomIds();
    const made = new Set(Array.from({ length: 2_000 }, () => createTraceparent(ids)));
    expect(made.size).toBe(2_000);
    expect([...made].every(isTraceparent)).toBe(true);
    expect(traceIdOf(GOOD)).toBe(ID);
  });
});
