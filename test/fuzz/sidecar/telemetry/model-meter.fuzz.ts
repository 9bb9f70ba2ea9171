// Answers of models, mutated: tokens that are found do not depend on the pieces the answer came in, agree with a real parser
// where there is a document, and cost time in proportion to its length.
import { ModelMeter, type ModelUse } from "../../../../sidecar/telemetry/model-meter.ts";
import { cpuMs } from "../../cpu-time.ts";
import { createRandom } from "../../random.ts";

const PARTS = [
  '{"usage":{"prompt_tokens":',
  '"completion_tokens":',
  '"total_tokens":',
  '"usage":',
  '"response":{',
  '"message":{',
  '"content":"',
  '"model":"m"',
  "data: ",
  "data:",
  "\n",
  "\r\n",
  "\n\n",
  "event: x\n",
  ": comment\n",
  "[DONE]",
  "{",
  "}",
  "[",
  "]",
  ",",
  ":",
  '"',
  "\\",
  '\\"',
  "12",
  "-",
  "0.5e+9",
  "99999999999999999999",
  "null",
  " ",
  "é",
  "\0",
];

function measure(bytes: Buffer, type: string, step: number): ModelUse | undefined {
  const meter = new ModelMeter();
  meter.head(200, type, "");
  for (let at = 0; at < bytes.length; at += step) meter.body(bytes.subarray(at, at + step), 0);
  return meter.finish(40);
}

/** What the scanner must find in a document that parses; undefined: it says nothing of tokens at its top. */
function said(text: string): { readonly input: unknown; readonly output: unknown } | undefined {
  try {
    const { usage } = JSON.parse(text) as { usage?: Record<string, unknown> };
    return { input: usage?.["prompt_tokens"], output: usage?.["completion_tokens"] };
  } catch {
    return undefined; // no document, no oracle
  }
}

/** A case is one answer, whole and in pieces. */
export async function run(options: { seconds: number; seed: number }): Promise<{ cases: number }> {
  const end = performance.now() + options.seconds * 1000;
  const random = createRandom(options.seed);
  const next = (below: number): number => Math.floor(random() * below);
  let cases = 0;
  for (; performance.now() < end; cases++) {
    let text = "";
    for (let count = next(40); count > 0; count--) text += PARTS[next(PARTS.length)] ?? "";
    // Often enough a whole document, so that there is something to compare with.
    if (next(2) === 0)
      text = `{"a":[{"usage":{"prompt_tokens":7}}],"usage":{"prompt_tokens":${next(50)},"completion_tokens":${next(50)},"x":{"y":1}},"z":${JSON.stringify(text)}}`;
    if (next(50) === 0) text = text.repeat(200);
    const bytes = Buffer.from(text);
    const type = next(2) === 0 ? "text/event-stream" : "application/json";
    const startMs = cpuMs();
    const whole = JSON.stringify(measure(bytes, type, bytes.length + 1));
    if (cpuMs() - startMs > 1_000 + bytes.length / 100)
      throw new Error(`${bytes.length} bytes took ${cpuMs() - startMs} ms: ${text.slice(0, 200)}`);
    if (JSON.stringify(measure(bytes, type, 1 + next(9))) !== whole)
      throw new Error(`the pieces matter: ${JSON.stringify(text)}`);
    const expected = type === "application/json" ? said(text) : undefined;
    const found = expected === undefined ? undefined : measure(bytes, type, bytes.length + 1);
    for (const side of ["input", "output"] as const) {
      const count = expected?.[side];
      if (typeof count === "number" && Number.isInteger(count) && count >= 0 && found?.[side] !== count)
        throw new Error(`${side} of ${JSON.stringify(text)}`);
    }
  }
  return { cases };
}
