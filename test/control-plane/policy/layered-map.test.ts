import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { withChanges } from "../../../control-plane/policy/layered-map.ts";

const steps = fc.array(
  fc.array(fc.tuple(fc.integer({ min: 0, max: 40 }), fc.option(fc.integer(), { nil: undefined })), {
    maxLength: 30,
  }),
  { maxLength: 12 },
);

describe("withChanges", () => {
  test("equals a plain map on which the changes were made", () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 40 })), steps, (first, edits) => {
        const plain = new Map(first.map((key) => [key, { value: key }]));
        let layered: ReadonlyMap<number, { value: number }> = new Map(plain);
        for (const edit of edits) {
          const changes = new Map(
            edit.map(([key, value]) => [key, value === undefined ? undefined : { value }]),
          );
          const before = [...layered];
          const next = withChanges(layered, changes);
          expect([...layered]).toEqual(before);
          layered = next;
          for (const [key, value] of changes) {
            if (value === undefined) plain.delete(key);
            else plain.set(key, value);
          }
          const sorted = (map: Iterable<[number, { value: number }]>) => [...map].sort(([a], [b]) => a - b);
          expect(sorted(layered)).toEqual(sorted(plain));
          expect(layered.size).toBe(plain.size);
          for (let key = 0; key <= 41; key++) {
            expect(layered.get(key)).toEqual(plain.get(key));
            expect(layered.has(key)).toBe(plain.has(key));
          }
          expect([...layered.keys()]).toEqual([...layered].map(([key]) => key));
          expect([...layered.values()]).toEqual([...layered].map(([, value]) => value));
          const seen: [number, { value: number }][] = [];
          layered.forEach((value, key) => {
            seen.push([key, value]);
          });
          expect(seen).toEqual([...layered]);
        }
      }),
    );
  });

  test("becomes a plain map again after many changes, so that look-ups stay short", () => {
    let map: ReadonlyMap<number, { value: number }> = new Map();
    let plain = 0;
    for (let key = 0; key < 300; key++) {
      map = withChanges(map, new Map([[key, { value: key }]]));
      if (map instanceof Map) plain += 1;
    }
    expect(map.size).toBe(300);
    expect(plain).toBe(4);
  });
});
