// Fuzz target of the JSON key scanner: mutated documents; whatever it accepts must mean the same to JSON.parse.
import { scanJsonObject } from "../../../../../sidecar/core/policy/json-key.ts";
import { mulberry32 } from "./random.ts";

const PIECES = [
  '"model"',
  '"Model"',
  '"mod\\u0065l"',
  ":",
  ",",
  "{",
  "}",
  "[",
  "]",
  '"a"',
  '"\\ud800"',
  "1",
  "-1.5e3",
  "01",
  "true",
  "null",
  " ",
  "\\",
  '"',
  "\u0000",
  "é",
  "x",
];

export async function run(options: { seconds: number; seed: number }): Promise<{ cases: number }> {
  const random = mulberry32(options.seed);
  const pick = (): string => PIECES[Math.floor(random() * PIECES.length)] ?? "";
  const end = performance.now() + options.seconds * 1000;
  let cases = 0;
  while (performance.now() < end) {
    for (let i = 0; i < 200; i++, cases++) {
      const members = Array.from(
        { length: Math.floor(random() * 4) },
        () => `${pick()}:${random() < 0.5 ? '{"x":[1,"y"]}' : pick()}`,
      );
      let text = `{${members.join(",")}}`;
      for (let edits = Math.floor(random() * 3); edits > 0; edits--) {
        const at = Math.floor(random() * (text.length + 1));
        text = text.slice(0, at) + (random() < 0.5 ? pick() : "") + text.slice(at + Math.floor(random() * 2));
      }
      check(random() < 0.1 ? Buffer.from(text, "latin1") : Buffer.from(text));
    }
  }
  return { cases };
}

function check(bytes: Buffer): void {
  const scan = scanJsonObject(bytes);
  let parsed: unknown;
  try {
    parsed = JSON.parse(new TextDecoder("utf8", { fatal: true, ignoreBOM: true }).decode(bytes));
  } catch {
    if (scan.kind !== "invalid" && scan.kind !== "duplicate")
      throw new Error(`accepts invalid JSON: ${JSON.stringify(bytes.toString("latin1"))}`);
    return;
  }
  if (scan.kind === "invalid")
    throw new Error(`refuses valid JSON: ${JSON.stringify(bytes.toString("latin1"))}`);
  if (scan.kind !== "object") return;
  const keys = Object.keys(parsed as object)
    .sort()
    .join("\n");
  if (keys !== [...scan.members.keys()].sort().join("\n"))
    throw new Error(`reads other keys: ${JSON.stringify(bytes.toString("latin1"))}`);
}
