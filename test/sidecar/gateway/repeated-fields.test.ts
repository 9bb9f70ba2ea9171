import { describe, expect, test } from "@jest/globals";
import { RepeatedFields } from "../../../sidecar/gateway/repeated-fields.ts";

const LIMITS = { maxEntries: 8, maxWeight: 8_192 };

describe("fields that are written again and again", () => {
  test.each([
    { name: "short", value: "a=b", isSame: true },
    { name: "of 2048 characters", value: "c".repeat(2_048), isSame: true },
    { name: "longer", value: "c".repeat(2_049), isSame: false },
  ])("a value that is $name is the same object: $isSame", ({ value, isSame }) => {
    const fields = new RepeatedFields("cookie", LIMITS);
    const [one, other] = [fields.get(value), fields.get(`${value} `.slice(0, -1))];
    expect(one).toMatchObject({ name: "cookie", value, line: `cookie: ${value}\r\n` });
    expect(other).toEqual(one);
    expect(other === one).toBe(isSame);
  });

  test("values that differ in one character are different fields", () => {
    const fields = new RepeatedFields("cookie", LIMITS);
    expect(fields.get("a=b").value).toBe("a=b");
    expect(fields.get("a=c").value).toBe("a=c");
  });

  test("what was not used while many others came is made anew", () => {
    const fields = new RepeatedFields("cookie", LIMITS);
    const first = fields.get("first");
    for (let i = 0; i < 16; i++) fields.get(`other-${i}`);
    expect(fields.get("first")).not.toBe(first);
  });
});
