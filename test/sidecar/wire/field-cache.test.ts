import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { FieldFlag } from "../../../sidecar/wire/field.ts";
import { FieldCache } from "../../../sidecar/wire/field-cache.ts";

describe("FieldCache", () => {
  test("gives one object for the same field, whoever asks", () => {
    const cache = new FieldCache();
    const field = cache.fromLine("Accept: text/html");
    expect(field).toMatchObject({ name: "accept", value: "text/html", line: "accept: text/html\r\n" });
    expect(cache.fromLine("Accept: text/html")).toBe(field);
    expect(cache.fromLine("accept:text/html \t")).toBe(field);
    expect(cache.get("accept", "text/html")).toBe(field);
  });

  test.each([
    "",
    ":",
    ": x",
    "x",
    "x y: z",
    "x : y",
    " x: y",
    "x: a\nb",
    "x: a\rb",
    "x: a\0b",
    "x: a\x7f",
    "x\xe9: y",
    ":path: /",
  ])("refuses the line %j", (line) => {
    expect(new FieldCache().fromLine(line)).toBeUndefined();
  });

  test("never lets a pair of HPACK pass for a line, nor one pair for another", () => {
    const cache = new FieldCache();
    cache.get(":path", "/admin");
    cache.get("bad name", "x");
    cache.get("host: a", "b");
    expect(cache.fromLine(":path: /admin")).toBeUndefined();
    expect(cache.fromLine("bad name: x")).toBeUndefined();
    expect(cache.fromLine("host: a: b")).toMatchObject({ name: "host", value: "a: b" });
    expect(cache.get("a", "bc")).not.toBe(cache.get("ab", "c"));
  });

  test("does not keep fields that always differ, nor very long ones", () => {
    const cache = new FieldCache();
    for (const line of ["traceparent: 00-1", "X-Request-Id: 7", `x: ${"a".repeat(5000)}`]) {
      expect(cache.fromLine(line)).not.toBe(cache.fromLine(line));
    }
    expect(cache.entries).toBe(0);
    expect(cache.fromLine("traceparent: 00-1")?.flags).toBe(FieldFlag.neverIndex);
  });

  test("stays within entries and bytes, and keeps what is used", () => {
    const cache = new FieldCache({ maxEntries: 64, maxBytes: 64 * 1024 });
    const used = cache.fromLine("host: used");
    for (let n = 0; n < 5000; n++) {
      cache.fromLine(`x-n: ${n} ${"a".repeat(n % 4000)}`);
      expect(cache.entries).toBeLessThanOrEqual(64);
      expect(cache.bytes).toBeLessThanOrEqual(64 * 1024);
      expect(cache.fromLine("host: used")).toBe(used);
    }
  });

  test("answers the same whether a line was seen or not", () => {
    const warm = new FieldCache({ maxEntries: 32, maxBytes: 8192 });
    const line = fc.oneof(
      fc.string({ unit: "binary-ascii", maxLength: 12 }),
      fc.constantFrom("a:b", "A:b", "a: b", "a:b "),
    );
    fc.assert(
      fc.property(line, (text) => {
        const { attachment: _, ...fresh } = new FieldCache().fromLine(text) ?? { attachment: undefined };
        const { attachment: __, ...seen } = warm.fromLine(text) ?? { attachment: undefined };
        expect(seen).toEqual(fresh);
      }),
    );
  });
});
