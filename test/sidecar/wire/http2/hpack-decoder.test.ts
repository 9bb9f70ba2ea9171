import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { createField, type Field } from "../../../../sidecar/wire/field.ts";
import { FieldCache } from "../../../../sidecar/wire/field-cache.ts";
import { HpackDecoder } from "../../../../sidecar/wire/http2/hpack-decoder.ts";
import { HpackEncoder } from "../../../../sidecar/wire/http2/hpack-encoder.ts";
import { VECTORS } from "./rfc7541-vectors.ts";

function createDecoder(tableSize = 4096, maxListSize = 65_536, maxFields = 100): HpackDecoder {
  return new HpackDecoder(new FieldCache(), { tableSize, maxListSize, maxFields });
}

function decodeHex(decoder: HpackDecoder, hex: string): string[][] | undefined {
  const bytes = Buffer.from(hex, "hex");
  return decoder.decode(bytes, 0, bytes.length) ? pairs(decoder.fields) : undefined;
}

function pairs(fields: readonly Field[]): string[][] {
  return fields.map((field) => [field.name, field.value]);
}

describe("HpackDecoder", () => {
  test.each(VECTORS)("decodes RFC 7541 $name", ({ tableSize, blocks }) => {
    const decoder = createDecoder(tableSize);
    // The RFC sets a size of 256 without saying so in the block; on the wire an encoder has to.
    if (tableSize === 256) expect(decodeHex(decoder, "3fe101")).toEqual([]);
    for (const { hex, fields } of blocks) expect(decodeHex(decoder, hex)).toEqual(fields);
    expect(decoder.tableBytes).toBeGreaterThan(0);
    expect(decoder.tableBytes).toBeLessThanOrEqual(tableSize);
  });

  describe("a long literal that no table holds", () => {
    const value = (fill: string, length = 300): string => fill.repeat(length);
    const block = (name: string, text: string): Buffer => {
      const plain = Buffer.from(text, "latin1");
      // Never indexed, a new name, no Huffman code; the length of the value in three bytes (RFC 7541 sections 5 and 6.2.3).
      const rest = plain.length - 127;
      const length = [0x7f, (rest & 0x7f) | 0x80, rest >> 7];
      return Buffer.concat([Buffer.of(0x10, name.length), Buffer.from(name), Buffer.of(...length), plain]);
    };
    const decode = (decoder: HpackDecoder, bytes: Buffer, end = bytes.length): Field[] | undefined =>
      decoder.decode(bytes, 0, end) ? decoder.fields : undefined;

    test("is the same field when it comes again, and in no table", () => {
      const decoder = createDecoder();
      const [first] = decode(decoder, block("a", value("x"))) ?? [];
      const [second] = decode(decoder, block("a", value("x"))) ?? [];
      expect(second).toBe(first);
      expect(second).toMatchObject({ name: "a", value: value("x") });
      expect(decoder.tableBytes).toBe(0);
    });

    test.each([
      ["another value", block("a", `${value("x", 299)}y`), [["a", `${value("x", 299)}y`]]],
      ["a shorter one", block("a", value("x", 200)), [["a", value("x", 200)]]],
      ["a longer one", block("a", value("x", 301)), [["a", value("x", 301)]]],
      ["another name", block("b", value("x")), [["b", value("x")]]],
    ])("is not taken for %s", (_what, bytes, expected) => {
      const decoder = createDecoder();
      decode(decoder, block("a", value("x")));
      expect(pairs(decode(decoder, bytes) ?? [])).toEqual(expected);
      expect(pairs(decode(decoder, block("a", value("x"))) ?? [])).toEqual([["a", value("x")]]);
    });

    test("is refused when it is cut, and stays malformed when it was", () => {
      const decoder = createDecoder();
      const whole = block("a", value("x"));
      decode(decoder, whole);
      expect(decode(decoder, whole, whole.length - 1)).toBeUndefined();
      const bad = createDecoder();
      for (let i = 0; i < 2; i++) {
        decode(bad, block("a", `${value("x")}\n`));
        expect(bad.malformed).toBe(true);
      }
    });

    test("counts against the limit of the list each time", () => {
      const decoder = createDecoder(4_096, 500);
      const one = block("a", value("x"));
      expect(decode(decoder, one)).toHaveLength(1);
      expect(decode(decoder, Buffer.concat([one, one]))).toHaveLength(1);
      expect(decoder.oversized).toBe(true);
    });
  });

  test.each([
    { name: "index 0", hex: "80" },
    { name: "an index past the table", hex: "be" },
    { name: "a name index past the table", hex: "7f0061" },
    { name: "a truncated index", hex: "ff" },
    { name: "an endless integer", hex: "ffffffffffffffffffff01" },
    { name: "an integer that is too large", hex: "ffffffffff0f" },
    { name: "a string longer than the block", hex: "40056162" },
    { name: "a missing value", hex: "400161" },
    { name: "a size update after a field", hex: "8220" },
    { name: "a size update above the setting", hex: "3fe2ff03" },
    { name: "three size updates", hex: "202020" },
    { name: "padding of more than 7 bits", hex: "400161" + "81ff" },
    { name: "padding that is not all ones", hex: "400161" + "8118" },
    { name: "EOS in a string", hex: "400161" + "84ffffffff" },
  ])("refuses $name", ({ hex }) => {
    expect(decodeHex(createDecoder(), hex)).toBeUndefined();
  });

  test.each([
    { name: "upper case in a name", field: ["Accept", "x"], malformed: true },
    { name: "a space in a name", field: ["a b", "x"], malformed: true },
    { name: "an empty name", field: ["", "x"], malformed: true },
    { name: "a lone colon", field: [":", "x"], malformed: true },
    { name: "a colon within a name", field: ["a:b", "x"], malformed: true },
    { name: "CR in a value", field: ["a", "x\ry"], malformed: true },
    { name: "LF in a value", field: ["a", "x\ny"], malformed: true },
    { name: "NUL in a value", field: ["a", "x\0"], malformed: true },
    { name: "a leading space", field: ["a", " x"], malformed: true },
    { name: "a trailing tab", field: ["a", "x\t"], malformed: true },
    { name: "DEL in a value", field: ["a", "\x7f"], malformed: true },
    { name: "an inner tab", field: ["a", "x\ty"], malformed: false },
    { name: "obs-text", field: ["a", "caf\xe9"], malformed: false },
    { name: "an empty value", field: ["a", ""], malformed: false },
  ])("marks $name: malformed $malformed, now and when it is indexed later", ({ field, malformed }) => {
    const decoder = createDecoder();
    const literal = Buffer.concat(
      field.map((text) => Buffer.concat([Buffer.from([text!.length]), Buffer.from(text!, "latin1")])),
    );
    const first = Buffer.concat([Buffer.from([0x40]), literal]);
    expect(decoder.decode(first, 0, first.length)).toBe(true);
    expect(decoder.malformed).toBe(malformed);
    expect(decodeHex(decoder, "82")).toEqual([[":method", "GET"]]);
    expect(decoder.malformed).toBe(false);
    expect(decodeHex(decoder, "be")).toBeDefined();
    expect(decoder.malformed).toBe(malformed);
  });

  test("gives a repeated field as the same object", () => {
    const decoder = createDecoder();
    decodeHex(decoder, "400161016200");
    const first = decoder.fields[0];
    decodeHex(decoder, "be");
    expect(decoder.fields[0]).toBe(first);
  });

  test("keeps the table right when a list is too large", () => {
    const decoder = createDecoder(4096, 100);
    const large = `4001610a${"62".repeat(10)}`;
    expect(decodeHex(decoder, `${large}${large}${large}4001630164`)).toHaveLength(2);
    expect(decoder.oversized).toBe(true);
    expect(decodeHex(decoder, "be")).toEqual([["c", "d"]]);
    expect(decoder.oversized).toBe(false);
  });

  test("counts fields", () => {
    const decoder = createDecoder(4096, 65_536, 3);
    expect(decodeHex(decoder, "82828282")).toHaveLength(3);
    expect(decoder.oversized).toBe(true);
  });

  test("demands a smaller table once SETTINGS that shrink it are acknowledged", () => {
    const decoder = createDecoder(100);
    expect(decodeHex(decoder, "82")).toBeDefined();
    decoder.settingsAcknowledged();
    expect(decodeHex(decoder, "82")).toBeUndefined();
  });
});

const name = fc.constantFrom(
  "accept",
  "x-a",
  "x-b",
  ":path",
  "cookie",
  "authorization",
  "x-mesh-hop",
  "user-agent",
);
const value = fc.oneof(fc.constantFrom("a", "b", "", "application/json"), fc.stringMatching(/^[!-~]{1,60}$/));
const action = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({ fields: fc.array(fc.tuple(name, value, fc.boolean()), { maxLength: 20 }) }),
  },
  { weight: 1, arbitrary: fc.record({ limit: fc.constantFrom(0, 40, 100, 300, 4096, 65_536) }) },
);

describe("HpackEncoder with HpackDecoder", () => {
  test("gives back what was put in, whatever the table size becomes", () => {
    fc.assert(
      fc.property(fc.array(action, { maxLength: 30 }), fc.boolean(), (actions, shared) => {
        const encoder = new HpackEncoder(65_536);
        const decoder = createDecoder(65_536);
        const cache = new FieldCache();
        for (const step of actions) {
          if ("limit" in step) {
            encoder.setPeerLimit(step.limit);
            continue;
          }
          const buffer = Buffer.alloc(16_384);
          let at = encoder.begin(buffer, 0);
          for (const [fieldName, text, asField] of step.fields) {
            // Not shared: a new object each time, found by its text.
            const field = shared ? cache.get(fieldName, text) : createField(fieldName, text);
            at = asField
              ? encoder.put(buffer, at, field)
              : encoder.putPair(buffer, at, fieldName, text, fieldName === "cookie");
          }
          expect(decoder.decode(buffer, 0, at)).toBe(true);
          expect(pairs(decoder.fields)).toEqual(step.fields.map(([fieldName, text]) => [fieldName, text]));
          expect(encoder.tableBytes).toBe(decoder.tableBytes);
        }
      }),
    );
  });

  test("writes secrets as never indexed, and pairs without indexing", () => {
    const encoder = new HpackEncoder(4096);
    const buffer = Buffer.alloc(200);
    const at = encoder.put(buffer, 0, createField("authorization", "Bearer x"));
    expect(buffer[0]! & 0xf0).toBe(0x10);
    encoder.putPair(buffer, at, "x-request-id", "1", false);
    expect(buffer[at]! & 0xf0).toBe(0);
    expect(encoder.tableBytes).toBe(0);
  });

  test("announces the least size and the last one when the peer's limit went down and up between two blocks", () => {
    const encoder = new HpackEncoder(65_536);
    encoder.setPeerLimit(0);
    encoder.setPeerLimit(8192);
    const buffer = Buffer.alloc(32);
    expect(buffer.subarray(0, encoder.begin(buffer, 0)).toString("hex")).toBe("203fe13f");
  });
});
