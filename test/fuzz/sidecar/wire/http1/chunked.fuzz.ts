// Chunked bodies, mutated, through the decoder and through a reader of whole texts by regular expressions that shares no
// line with it: both must find the same data and the same end, or both that something is wrong.
import { ChunkedBody } from "../../../../../sidecar/wire/http1/body.ts";
import { createRandom } from "../../../random.ts";

const EXTENSION_BYTES = 64;
const TOKEN = "[!#$%&'*+\\-.^_`|~0-9A-Za-z]+";
const QUOTED = '"(?:[\\t\\x20\\x21\\x23-\\x5b\\x5d-\\x7e\\x80-\\xff]|\\\\[\\t\\x20-\\x7e\\x80-\\xff])*"';
const SIZE = new RegExp(`^([0-9A-Fa-f]{1,16})((?:;${TOKEN}(?:=(?:${TOKEN}|${QUOTED}))?)*)\\r\\n`);
const ALPHABET = [...'0123456789abcdefABCDEF;="\\ \t\r\n\0gx-', "\xff"].map((one) => one.charCodeAt(0));

/** @returns data and where the last chunk's line ends; undefined: something is wrong, or it does not end. */
function expected(text: string): { data: string; end: number } | undefined {
  let at = 0;
  let data = "";
  let extensions = 0;
  for (;;) {
    const match = SIZE.exec(text.slice(at));
    if (match === null) return undefined;
    const [line, digits = "", extension = ""] = match;
    // The decoder counts the CR of a line that has extensions with them.
    extensions += extension === "" ? 0 : extension.length + 1;
    const size = Number.parseInt(digits, 16);
    if (extensions > EXTENSION_BYTES || size > Number.MAX_SAFE_INTEGER) return undefined;
    at += line.length;
    if (size === 0) return { data, end: at };
    if (text.length < at + size + 2 || text.slice(at + size, at + size + 2) !== "\r\n") return undefined;
    data += text.slice(at, at + size);
    at += size + 2;
  }
}

function decoded(bytes: Buffer, random: () => number): { data: string; end: number } | undefined {
  const body = new ChunkedBody(EXTENSION_BYTES);
  body.reset();
  let data = "";
  let at = 0;
  while (at < bytes.length) {
    const piece = bytes.subarray(at, at + 1 + Math.floor(random() * random() * bytes.length));
    let pos = 0;
    while (pos < piece.length) {
      pos = body.step(piece, pos);
      if (body.event === "data") data += piece.toString("latin1", body.dataStart, pos);
      else if (body.event === "last") return { data, end: at + pos };
      else if (body.event === "problem") return undefined;
    }
    at += piece.length;
  }
  return undefined;
}

function make(random: () => number): Buffer {
  let text = "";
  for (let n = Math.floor(random() * 4); n > 0; n--) {
    const size = 1 + Math.floor(random() * 20);
    const extension = ["", "", ";a", ";a=b", ';a="b;c"', ';a="\\""', `;${"x".repeat(30)}`][
      Math.floor(random() * 7)
    ];
    text += `${size.toString(16)}${extension}\r\n${"d".repeat(size)}\r\n`;
  }
  const bytes = Buffer.from(`${text}0\r\n\r\nmore`, "latin1");
  for (let n = Math.floor(random() * 4); n > 0; n--)
    bytes[Math.floor(random() * bytes.length)] = ALPHABET[Math.floor(random() * ALPHABET.length)] ?? 0;
  return bytes;
}

export async function run(options: { seconds: number; seed: number }): Promise<{ cases: number }> {
  const end = performance.now() + options.seconds * 1000;
  let cases = 0;
  for (; performance.now() < end; cases++) {
    const seed = (options.seed * 1_000_003 + cases) >>> 0;
    const random = createRandom(seed);
    const bytes = make(random);
    const want = JSON.stringify(expected(bytes.toString("latin1")));
    const got = JSON.stringify(decoded(bytes, random));
    if (want !== got)
      throw new Error(`seed ${seed}, ${JSON.stringify(bytes.toString("latin1"))}: ${got}, expected ${want}`);
    if (cases % 1000 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  return { cases };
}
