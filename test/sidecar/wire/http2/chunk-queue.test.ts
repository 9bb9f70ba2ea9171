import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { ChunkQueue } from "../../../../sidecar/wire/http2/chunk-queue.ts";

const step = fc.oneof(
  fc.record({ push: fc.oneof(fc.integer({ min: 1, max: 50 }), fc.integer({ min: 1, max: 40_000 })) }),
  fc.record({ take: fc.nat(40_000) }),
  fc.constant({ unpin: true }),
);

describe("ChunkQueue", () => {
  test("gives the bytes back in order, whatever the sizes", () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const queue = new ChunkQueue();
        let model = Buffer.alloc(0);
        let next = 0;
        for (const action of steps) {
          if ("push" in action) {
            const chunk = Buffer.from(Array.from({ length: action.push }, () => next++ & 0xff));
            queue.push(chunk);
            model = Buffer.concat([model, chunk]);
          } else if ("unpin" in action) {
            queue.unpin();
          } else {
            const count = Math.min(action.take, model.length);
            const target = Buffer.alloc(count + 1);
            queue.take(target, 1, count);
            expect(target.subarray(1).equals(model.subarray(0, count))).toBe(true);
            model = model.subarray(count);
          }
          expect(queue.bytes).toBe(model.length);
        }
      }),
      { numRuns: 50 },
    );
  });

  test("copies small chunks, so that what they were cut from can go", () => {
    const queue = new ChunkQueue();
    const small = Buffer.from("small");
    queue.push(small);
    small.fill(0);
    const target = Buffer.alloc(5);
    queue.take(target, 0, 5);
    expect(target.toString()).toBe("small");
  });
});
