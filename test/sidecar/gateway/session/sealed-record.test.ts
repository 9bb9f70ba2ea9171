import { describe, expect, test } from "@jest/globals";
import { open, seal } from "../../../../sidecar/gateway/session/sealed-record.ts";
import { digestOf } from "../../../../sidecar/gateway/session/session.ts";
import { sessionOf } from "./sessions.ts";

const ID = "A".repeat(43);
const sealed = seal(ID, digestOf(ID), sessionOf("s1"));

test("whoever has the id reads it, and it says nothing to others", () => {
  expect(open(ID, digestOf(ID), sealed)).toEqual(sessionOf("s1"));
  expect(sealed.includes("okta")).toBe(false);
  expect(seal(ID, digestOf(ID), sessionOf("s1")).equals(sealed)).toBe(false);
});

describe("is refused", () => {
  test("with another id", () => {
    expect(open("B".repeat(43), digestOf(ID), sealed)).toBeUndefined();
  });
  test("in another place", () => {
    expect(open(ID, digestOf("x"), sealed)).toBeUndefined();
  });
  test("with any byte changed, and cut short anywhere", () => {
    for (let i = 0; i < sealed.length; i++) {
      const changed = Buffer.from(sealed);
      changed[i] = (changed[i] ?? 0) ^ 1;
      expect(open(ID, digestOf(ID), changed)).toBeUndefined();
      expect(open(ID, digestOf(ID), sealed.subarray(0, i))).toBeUndefined();
    }
  });
});
