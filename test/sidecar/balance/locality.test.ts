import { expect, test } from "@jest/globals";
import { localShare } from "../../../sidecar/balance/locality.ts";
import { rampWeight } from "../../../sidecar/balance/slow-start.ts";

test.each([
  { usable: 0, endpoints: 0, share: 0 },
  { usable: 10, endpoints: 10, share: 1 },
  { usable: 8, endpoints: 10, share: 1 },
  { usable: 5, endpoints: 10, share: 0.7 },
  { usable: 0, endpoints: 10, share: 0 },
])(
  "with $usable of $endpoints usable, $share of the calls stay in the zone",
  ({ usable, endpoints, share }) => {
    expect(localShare(usable, endpoints)).toBeCloseTo(share);
  },
);

test.each([
  { sinceMs: 0, windowMs: 0, weight: 1 },
  { sinceMs: 0, windowMs: 1_000, weight: 0.1 },
  { sinceMs: 500, windowMs: 1_000, weight: 0.55 },
  { sinceMs: 1_000, windowMs: 1_000, weight: 1 },
  { sinceMs: 5_000, windowMs: 1_000, weight: 1 },
])("$sinceMs ms into a window of $windowMs it gets $weight of a share", ({ sinceMs, windowMs, weight }) => {
  expect(rampWeight(sinceMs, windowMs)).toBeCloseTo(weight);
});
