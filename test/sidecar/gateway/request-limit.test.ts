import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { Places } from "../../../sidecar/gateway/places.ts";
import { RequestLimit } from "../../../sidecar/gateway/request-limit.ts";

describe("a limit of requests", () => {
  test("admits a burst, then the rate, and tells how long to wait", () => {
    const limit = new RequestLimit({ requests: 60, perMs: 60_000, burst: 3 });
    expect([1, 2, 3].map(() => limit.take("a", 0))).toEqual([0, 0, 0]);
    expect(limit.take("a", 0)).toBe(1);
    expect(limit.take("b", 0)).toBe(0);
    expect(limit.take("a", 1_000)).toBe(0);
    expect(limit.take("a", 1_000)).toBe(1);
  });

  test("never admits more than burst and rate, whatever the gaps, and forgets nobody early", () => {
    fc.assert(
      fc.property(fc.array(fc.nat(4_000), { maxLength: 60 }), (gaps) => {
        const limit = new RequestLimit({ requests: 10, perMs: 10_000, burst: 4 });
        let nowMs = 0;
        let admitted = 0;
        for (const gap of gaps) {
          nowMs += gap;
          if (limit.take("a", nowMs) === 0) admitted++;
        }
        expect(admitted).toBeLessThanOrEqual(4 + nowMs / 1_000);
      }),
    );
  });
});

test("however many addresses come, what is remembered is bounded, and who was known keeps their own bucket", () => {
  const limit = new RequestLimit({ requests: 1, perMs: 60_000, burst: 2 });
  expect(limit.take("known", 0)).toBe(0);
  for (let i = 0; i < 60_000; i++) limit.take(`10.0.${i >> 8}.${i & 255}`, 0);
  // Strangers share one bucket by now, which is empty.
  expect(limit.take("203.0.113.9", 0)).toBeGreaterThan(0);
  expect(limit.take("known", 0)).toBe(0);
});

test("an address has so many places, and gets them back", () => {
  const places = new Places(2);
  expect([places.take("a"), places.take("a"), places.take("a"), places.take("b")]).toEqual([
    true,
    true,
    false,
    true,
  ]);
  places.leave("a");
  expect(places.take("a")).toBe(true);
});
