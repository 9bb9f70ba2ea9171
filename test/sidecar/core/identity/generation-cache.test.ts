import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { GenerationCache } from "../../../../sidecar/core/identity/generation-cache.ts";

describe("GenerationCache", () => {
  test("keeps what is used and lets go of what is not", () => {
    const cache = new GenerationCache<number>({ maxEntries: 8, maxWeight: 1000 });
    cache.set("kept", 1, 1);
    cache.set("left", 2, 1);
    for (let i = 0; i < 20; i++) {
      cache.set(`other-${i}`, i, 1);
      expect(cache.get("kept")).toBe(1);
    }
    expect(cache.get("left")).toBeUndefined();
    cache.clear();
    expect(cache.size).toBe(0);
  });

  test("never holds more than its limits, and never another value than the last one set", () => {
    const step = fc.record({
      key: fc.constantFrom(..."abcdefghij"),
      value: fc.nat(),
      weight: fc.integer({ min: 1, max: 60 }),
      read: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 100 }), (steps) => {
        const cache = new GenerationCache<{ key: string; value: number; weight: number }>({
          maxEntries: 6,
          maxWeight: 100,
        });
        const last = new Map<string, object>();
        for (const { key, value, weight, read } of steps) {
          if (read) {
            const found = cache.get(key);
            if (found !== undefined) expect(found).toBe(last.get(key));
          } else {
            const entry = { key, value, weight };
            cache.set(key, entry, weight);
            // An entry too heavy to keep must not leave an older value behind.
            last.set(key, entry);
          }
          expect(cache.size).toBeLessThanOrEqual(6);
          let held = 0;
          for (const name of "abcdefghij") held += cache.get(name)?.weight ?? 0;
          expect(held).toBeLessThanOrEqual(100);
        }
      }),
    );
  });
});
