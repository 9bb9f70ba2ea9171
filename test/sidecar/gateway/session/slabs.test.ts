import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { type Place, Slabs } from "../../../../sidecar/gateway/session/slabs.ts";

const MIB = 1024 * 1024;

describe("slabs", () => {
  test("give back what was put, whatever was freed and moved meanwhile", () => {
    const step = fc.record({
      bytes: fc.integer({ min: 1, max: 200_000 }),
      frees: fc.nat(9),
      sweeps: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const slabs = new Slabs();
        const kept: { place: Place; readonly fill: number }[] = [];
        for (const [i, { bytes, frees, sweeps }] of steps.entries()) {
          const fill = (i % 255) + 1;
          kept.push({ place: slabs.put(Buffer.alloc(bytes, fill)), fill });
          if (frees > 4) for (const { place } of kept.splice(0, frees - 4)) slabs.free(place);
          if (sweeps)
            for (const one of kept) if (slabs.isSparse(one.place.slab)) one.place = slabs.move(one.place);
          for (const { place, fill: expected } of kept)
            expect(slabs.read(place).every((byte) => byte === expected)).toBe(true);
          if (!sweeps) continue;
          const live = kept.reduce((sum, { place }) => sum + place.length, 0);
          // Three quarters alive, a fifth lost at the end of a slab, the open one, and one that moving filled.
          expect(slabs.bytes).toBeLessThanOrEqual(live / 0.75 / 0.8 + 2 * MIB);
        }
      }),
      { numRuns: 30 },
    );
  });

  test("move out of a slab of which less than three quarters are alive, and give it back", () => {
    const slabs = new Slabs();
    const places = Array.from({ length: 8 }, (_, i) => slabs.put(Buffer.alloc(MIB / 4, i + 1)));
    const [first, second, third, fourth, ...others] = places as [Place, Place, Place, Place, ...Place[]];
    expect(first.slab).toBe(fourth.slab);
    expect(others[0]?.slab).not.toBe(first.slab);
    expect(slabs.bytes).toBe(2 * MIB);
    slabs.free(first);
    expect(slabs.isSparse(first.slab)).toBe(false);
    slabs.free(second);
    expect(slabs.isSparse(first.slab)).toBe(true);
    slabs.free(third);
    const moved = slabs.move(fourth);
    expect(moved.slab).not.toBe(first.slab);
    expect(slabs.read(moved)[0]).toBe(4);
    expect(slabs.bytes).toBe(2 * MIB); // the one that was full, and the one that was begun
    expect(() => slabs.read(fourth)).toThrow(/given back/);
    for (const { slab } of others) expect(slabs.isSparse(slab)).toBe(false);
    for (const place of others) slabs.free(place);
    expect(slabs.bytes).toBe(MIB);
  });

  test("hold a record that is larger than a slab, and forget what was freed", () => {
    const slabs = new Slabs();
    const place = slabs.put(Buffer.alloc(2 * MIB, 7));
    expect(slabs.read(place)).toHaveLength(2 * MIB);
    slabs.free(place);
    expect(slabs.read(place).every((byte) => byte === 0)).toBe(true);
  });
});
