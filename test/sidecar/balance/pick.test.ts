import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { pickLeastRequest } from "../../../sidecar/balance/pick.ts";

test("picks a usable candidate that no other one undercuts, never a skipped one", () => {
  const candidate = fc.record({ load: fc.nat(5), usable: fc.boolean() });
  fc.assert(
    fc.property(
      fc.array(candidate, { maxLength: 6 }),
      fc.nat(10),
      fc.nat(6),
      (candidates, offset, skipped) => {
        const skip = new Set(candidates.slice(0, skipped));
        const open = candidates.filter((each) => each.usable && !skip.has(each));
        const picked = pickLeastRequest(candidates, skip, offset);
        if (open.length === 0) expect(picked).toBeUndefined();
        else expect(picked?.load).toBe(Math.min(...open.map((each) => each.load)));
      },
    ),
  );
});
