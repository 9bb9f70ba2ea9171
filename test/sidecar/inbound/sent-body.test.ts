import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { MAX_REPLAY_BYTES, MAX_REPLAY_PIECES, SentBody } from "../../../sidecar/inbound/sent-body.ts";

describe("a body that was sent", () => {
  test("is kept as it was while it is short and in few pieces, and given up whole otherwise", () => {
    const sizes = fc.array(fc.integer({ min: 1, max: 9_000 }), { maxLength: MAX_REPLAY_PIECES + 10 });
    fc.assert(
      fc.property(sizes, (lengths) => {
        const sent = new SentBody();
        const pieces = lengths.map((length, at) => Buffer.alloc(length, at));
        for (const piece of pieces) sent.add(piece);
        const bytes = lengths.reduce((sum, length) => sum + length, 0);
        const fits = bytes <= MAX_REPLAY_BYTES && pieces.length <= MAX_REPLAY_PIECES;
        expect(sent.isWhole).toBe(fits);
        expect(sent.pieces).toEqual(fits ? pieces : []);
      }),
    );
  });

  test.each([
    { name: "exactly as many bytes", pieces: [MAX_REPLAY_BYTES], expected: true },
    { name: "a byte more", pieces: [MAX_REPLAY_BYTES, 1], expected: false },
    { name: "as many pieces", pieces: Array.from({ length: MAX_REPLAY_PIECES }, () => 1), expected: true },
    {
      name: "a piece more",
      pieces: Array.from({ length: MAX_REPLAY_PIECES + 1 }, () => 1),
      expected: false,
    },
  ])("of $name is kept: $expected", ({ pieces, expected }) => {
    const sent = new SentBody();
    for (const length of pieces) sent.add(Buffer.alloc(length));
    expect(sent.isWhole).toBe(expected);
  });
});
