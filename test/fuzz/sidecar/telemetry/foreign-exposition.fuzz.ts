// An application's metrics page, mutated: what is kept is of the format, is never in our name, does not depend on the pieces
// it came in, and costs time in proportion to its length.
import { ForeignExposition } from "../../../../sidecar/telemetry/foreign-exposition.ts";
import { cpuMs } from "../../cpu-time.ts";

const PARTS = [
  "http_requests_total",
  "countersign_requests_total",
  "{",
  "}",
  '="',
  '"',
  "\\",
  '\\"',
  "\\n",
  ",",
  " ",
  "\n",
  "\r\n",
  "#",
  "# TYPE a counter\n",
  "# HELP countersign_x y\n",
  " # {",
  "1",
  "1.5e+9",
  "NaN",
  "-Inf",
  "le",
  "\0",
  "é",
  'a{b="c"} 1\n',
];
const SAMPLE = /^[a-zA-Z_:][a-zA-Z0-9_:]*(?:\{[^\n]*\})? +[^ \n]+(?: -?[0-9]+)?$/;

function keep(text: string, step: number): string {
  const foreign = new ForeignExposition();
  for (let at = 0; at < text.length; at += step) foreign.push(text.slice(at, at + step));
  return foreign.end();
}

/** A case is one page, whole and in pieces. */
export async function run(options: { seconds: number; seed: number }): Promise<{ cases: number }> {
  const end = performance.now() + options.seconds * 1000;
  let state = options.seed >>> 0 || 1;
  const next = (below: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  let cases = 0;
  while (performance.now() < end) {
    let text = "";
    for (let count = next(60); count > 0; count--)
      text += (PARTS[next(PARTS.length)] ?? "").repeat(1 + next(3));
    if (next(50) === 0) text = text.repeat(200);
    const startMs = cpuMs();
    const kept = keep(text, text.length + 1);
    if (cpuMs() - startMs > 1_000 + text.length / 100)
      throw new Error(`${text.length} characters took ${cpuMs() - startMs} ms: ${text.slice(0, 200)}`);
    if (keep(text, 1 + next(9)) !== kept) throw new Error(`the pieces matter: ${JSON.stringify(text)}`);
    for (const line of kept.split("\n"))
      if (line !== "" && (line.startsWith("countersign_") || !(line.startsWith("# ") || SAMPLE.test(line))))
        throw new Error(`kept ${JSON.stringify(line)}`);
    cases++;
  }
  return { cases };
}
