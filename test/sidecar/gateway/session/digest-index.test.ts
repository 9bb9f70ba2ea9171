import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { DigestIndex } from "../../../../sidecar/gateway/session/digest-index.ts";

/** Few first words, so that many digests want the same slot, at the end of the table too. */
function digestOf(first: number, rest: number): Buffer {
  const digest = Buffer.alloc(32);
  digest.writeUInt32LE(first, 0);
  digest.writeUInt32LE(rest, 28);
  return digest;
}

const key = fc.record({ first: fc.constantFrom(0, 1, 2, 510, 511, 0xffff_ffff), rest: fc.nat(12) });
const step = fc.record({ key, adds: fc.boolean() });

describe("an index of digests", () => {
  test("is a map, whatever is added and taken away", () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const index = new DigestIndex();
        const model = new Map<string, number>();
        const seen = new Set<string>();
        for (const {
          key: { first, rest },
          adds,
        } of steps) {
          const name = `${first}/${rest}`;
          seen.add(name);
          const number = model.get(name);
          if (adds && number === undefined) model.set(name, index.add(digestOf(first, rest)));
          if (!adds && number !== undefined) {
            index.delete(number);
            model.delete(name);
          }
          expect(index.size).toBe(model.size);
          expect(new Set(model.values()).size).toBe(model.size);
          for (const other of seen) {
            const [a = 0, b = 0] = other.split("/").map(Number);
            expect(index.find(digestOf(a, b))).toBe(model.get(other));
          }
          for (const value of model.values()) expect(value).toBeLessThan(index.bound);
        }
      }),
      { numRuns: 60 },
    );
  });

  test("grows, and uses numbers again", () => {
    const index = new DigestIndex();
    const digests = Array.from({ length: 3_000 }, (_, i) => digestOf(i % 700, i));
    const numbers = digests.map((digest) => index.add(digest));
    expect(digests.map((digest) => index.find(digest))).toEqual(numbers);
    for (const number of numbers.slice(0, 1_000)) index.delete(number);
    expect(index.size).toBe(2_000);
    expect(digests.slice(1_000).map((digest) => index.find(digest))).toEqual(numbers.slice(1_000));
    for (const digest of digests.slice(0, 1_000)) expect(index.add(digest)).toBeLessThan(3_000);
    expect(index.bound).toBe(3_000);
  });
});
