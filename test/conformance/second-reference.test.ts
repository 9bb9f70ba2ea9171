import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { secondDisagreement } from "./second-agreement.ts";
import { wrongExplanation } from "./second-explanation.ts";
import { secondCidr, secondSchedule } from "./second-reference.ts";

const seeds = fc.integer({ min: 0, max: 0x7fffffff });

describe("the second reference", () => {
  test("agrees with the engine on random programs that went over the wire", () => {
    fc.assert(
      fc.property(seeds, (seed) => {
        expect(secondDisagreement(seed, 8)).toBeUndefined();
      }),
      { numRuns: 300 },
    );
  });

  test("meets every reason of a decision, so that agreeing says something", () => {
    const reasons = new Map<string, number>();
    for (let seed = 0; seed < 150; seed++) {
      const problem = secondDisagreement(seed, 8, ({ reason, would, winners }) => {
        const kinds = [
          reason,
          would && `would ${would.reason}`,
          winners.length > 1 ? "several winners" : undefined,
        ];
        for (const kind of kinds) if (kind !== undefined) reasons.set(kind, (reasons.get(kind) ?? 0) + 1);
      });
      expect(problem).toBeUndefined();
    }
    expect([...reasons.keys()].sort()).toEqual([
      "ALLOWED",
      "CHAIN_LOOP",
      "CHAIN_TOO_DEEP",
      "DEFAULT_ALLOW",
      "DEFAULT_DENY",
      "DENIED_BY_POLICY",
      "GRANTED",
      "NO_MATCHING_ALLOW",
      "SCOPE_EXCEEDED",
      "several winners",
      "would ALLOWED",
      "would DENIED_BY_POLICY",
      "would NO_MATCHING_ALLOW",
    ]);
  });

  test("finds every explanation right: the outcome of each rule, and the condition that decided it", () => {
    fc.assert(
      fc.property(seeds, (seed) => {
        expect(wrongExplanation(seed, 4)).toBeUndefined();
      }),
      { numRuns: 120 },
    );
  });

  test("reads schedules and blocks as the text says", () => {
    const night = { timeZone: "Europe/Berlin", days: ["Fri" as const], from: "22:00", to: "02:30" };
    const at = (time: string) => secondSchedule(night, Date.parse(time));
    // The clocks go back in the night of Sunday, 25 October 2026; this window began on Friday.
    expect(["2026-10-23T20:00:00Z", "2026-10-24T00:29:00Z", "2026-10-24T00:30:00Z"].map(at)).toEqual([
      true,
      true,
      false,
    ]);
    expect([
      secondCidr("10.0.0.0/8", "::ffff:10.1.1.1"),
      secondCidr("::/0", "10.1.1.1"),
      secondCidr("::/0", "x"),
    ]).toEqual(["true", "false", "error"]);
  });
});
