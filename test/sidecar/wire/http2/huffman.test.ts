import { describe, expect, test } from "@jest/globals";
import { huffmanBound, huffmanDecode } from "../../../../sidecar/wire/http2/huffman.ts";

/** Bytes 0 to 255 in order, encoded by golang.org/x/net/http2/hpack. */
const ALL_BYTES =
  "ffc7fffd8fffffe2fffffe3fffffe4fffffe5fffffe6fffffe7fffffe8ffffeafffffff3fffffa7fffffabffffffdfffffebfffffecfffffedfffffeefffffefffffff0ffffff1ffffff2fffffffbfffffcffffffd3fffffd7fffffdbfffffdffffffe3fffffe7fffffebfffffed4fe3f9ffaffcabf1febfafefe7fdfd2cbb00089969b71d79fb9f7fff20ffbff3ff50ddbd7f061c58f265cd9f469d5af66dddbf871e5f9cff7ff7fffc3ff9ffe45fff4719242cb34e6e9d68a6a3d7dac426defe3cfaf7fffbfe7ffbffdffffffcfffe6ffff4bfff9ffffa3fffd3ffff53fffd5ffffb3fffeb7fffdaffffb7ffff73fffeeffffdeffffebffffbfffffd9ffffdbfffebffffe0ffffeeffffc3ffff8bffff1ffffe4fffee7fffb1ffff97fffd9ffffcdffff9fffffbffffdafffeeffff4ffffb7fffee7fffe8ffffd3fffdeffffd5fffeeffffbdffffe1fffdfffff7fffff5ffffecffff07fff87fffe0ffff17fffedffff87ffff77fffeffffeaffff8bfffe3ffff93ffff87fffcbffff37ffff1fffff83ffffe1fffebfffe3ffff3fffff2ffffa3ffffd9fffff17ffffc7fffff27ffffdefffffbffffff2fffff8fffffb7fff97fff8fffffe6fffffc1fffff87ffffe7fffffc5ffffe5fffe4ffff2fffffd1fffff4ffffffefffffe3fffffc9fffff97fffb3ffffcffffb7fffcdffff4ffff9ffffd1ffffcffffeaffffafffffddffffeffffff4fffff5fffffabffffa7ffffd7fffff9bffffecfffffb7fffff3fffffe8fffffd3fffffabfffff5fffffff7ffffecfffffdbfffffbbfffff7ffffff0fffffbbf";

function decode(hex: string): string | undefined {
  const input = Buffer.from(hex, "hex");
  const output = Buffer.alloc(huffmanBound(input.length));
  const length = huffmanDecode(input, 0, input.length, output);
  return length < 0 ? undefined : output.toString("hex", 0, length);
}

describe("huffmanDecode", () => {
  test("decodes every byte", () => {
    const expected = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte)).toString("hex");
    expect(decode(ALL_BYTES)).toBe(expected);
  });

  test.each([
    { name: "nothing", hex: "", text: "" },
    { name: "no padding", hex: "f1e3c2e5f23a6ba0ab90f4ff", text: "www.example.com" },
    { name: "seven bits of padding", hex: "a8eb10649cbf", text: "no-cache" },
  ])("takes $name", ({ hex, text }) => {
    expect(decode(hex)).toBe(Buffer.from(text).toString("hex"));
  });

  test.each([
    { name: "a byte of padding", hex: "a8eb10649cbfff" },
    { name: "padding alone", hex: "ff" },
    { name: "zeros as padding", hex: "a8eb10649cbe" },
    { name: "EOS", hex: "ffffffff" },
    { name: "EOS after text", hex: "1fffffffff" },
  ])("refuses $name", ({ hex }) => {
    expect(decode(hex)).toBeUndefined();
  });
});
