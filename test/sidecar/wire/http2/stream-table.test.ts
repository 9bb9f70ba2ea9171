import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { StreamTable } from "../../../../sidecar/wire/http2/stream-table.ts";
import { SlotList } from "../../../../sidecar/wire/slot-list.ts";

test("a stream table does what a Map does", () => {
  const step = fc.record({ id: fc.integer({ min: 1, max: 600 }), remove: fc.boolean() });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 2_000 }), (steps) => {
      const table = new StreamTable<{ readonly id: number }>();
      const model = new Map<number, { readonly id: number }>();
      for (const { id, remove } of steps) {
        if (remove) expect(table.delete(id)).toBe(model.delete(id));
        else if (!model.has(id)) {
          const stream = { id };
          table.set(id, stream);
          model.set(id, stream);
        }
        expect(table.get(id)).toBe(model.get(id));
      }
      expect(table.size).toBe(model.size);
      expect(new Set(table.values())).toEqual(new Set(model.values()));
    }),
    { numRuns: 50 },
  );
});

test("a slot list does what a Set does", () => {
  fc.assert(
    fc.property(fc.array(fc.nat(20), { maxLength: 200 }), (steps) => {
      const list = new SlotList<{ slot: number; readonly n: number }>();
      const members = Array.from({ length: 21 }, (_, n) => ({ slot: -1, n }));
      const model = new Set<number>();
      for (const n of steps) {
        const member = members[n];
        if (member === undefined) continue;
        if (model.has(n)) expect(list.delete(member)).toBe(model.delete(n));
        else {
          expect(list.delete(member)).toBe(false);
          list.add(member);
          model.add(n);
        }
        expect(list.size).toBe(model.size);
      }
      expect(new Set(list.take().map((member) => member.n))).toEqual(model);
      expect(list.size).toBe(0);
    }),
  );
});
