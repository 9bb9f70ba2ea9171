import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { longUuids, shortUuids } from "../../../../sidecar/gateway/session/short-uuids.ts";

const ID = "0190a3c4-5b6d-7e8f-9012-3456789abcde";

describe("short UUIDs", () => {
  test("come back among any bytes", () => {
    const piece = fc.oneof(
      fc.uint8Array({ maxLength: 20 }).map((bytes) => Buffer.from(bytes)),
      fc.uuid().map((id) => Buffer.from(id)),
      fc
        .constantFrom("\xfe", "\xff", "\xff\xfe\xff", "-", "0123abcd")
        .map((text) => Buffer.from(text, "latin1")),
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 20 }), (pieces) => {
        const bytes = Buffer.concat(pieces);
        expect(longUuids(shortUuids(bytes)).equals(bytes)).toBe(true);
      }),
    );
  });

  test.each([
    ["one", ID, 17],
    ["one in quotes", `"${ID}"`, 19],
    ["two side by side", ID + ID, 34],
    ["one in capitals, which would not come back", ID.toUpperCase(), 36],
    ["one that lacks a digit", ID.slice(1), 35],
  ])("take 17 bytes: %s", (_what, text, length) => {
    expect(shortUuids(Buffer.from(text))).toHaveLength(length);
    expect(longUuids(shortUuids(Buffer.from(text))).toString()).toBe(text);
  });
});
