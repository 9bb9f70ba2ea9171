// Any text as a configuration file: it is parsed or refused, in bounded time, and never throws; what is accepted has
// been through schema and parser.
import fc from "fast-check";
import { createObjectParser } from "../../../../control-plane/policy/typed-object.ts";
import { loadSchemas } from "../../../../control-plane/sources/schema.ts";
import { lineOfField, parseYamlText, splitDocuments } from "../../../../control-plane/sources/yaml-files.ts";
import { OBJECT_CASES } from "../../../fixtures/objects/table.ts";
import { cpuMs } from "../../cpu-time.ts";

/** One text of at most some kilobytes must never take longer. */
const MAX_MS = 2000;

const good = OBJECT_CASES.filter((row) => row.refusedBy === "none").map((row) =>
  JSON.stringify(row.object, null, 1),
);
const pieces = fc.constantFrom(
  "---\n",
  "...\n",
  "- ",
  "? ",
  ": ",
  "[",
  "]",
  "{",
  "}",
  "&a ",
  "*a ",
  "!!str ",
  "|\n",
  ">-\n",
  '"',
  "'",
  "#",
  "%YAML 1.2\n",
  "\t",
  "\n",
  "\n  ",
  "yes",
  "~",
  "<<",
  "\0",
  "\u2028",
  "a",
  "1e999",
  "0x1F",
  "__proto__",
  "\ufeff",
);

/** A good object with something cut out, doubled or put in. */
const damaged = fc
  .tuple(fc.constantFrom(...good), fc.nat(), fc.nat({ max: 40 }), fc.array(pieces, { maxLength: 4 }))
  .map(([text, at, length, insert]) => {
    const start = at % (text.length + 1);
    return text.slice(0, start) + insert.join("") + text.slice(start + length);
  });
const texts = fc.oneof(
  damaged,
  fc.array(pieces, { maxLength: 60 }).map((parts) => parts.join("")),
  fc.string({ maxLength: 200, unit: "binary" }),
  fc.tuple(pieces, fc.nat({ max: 5000 })).map(([piece, times]) => piece.repeat(times)),
);

export async function run(options: { seconds: number; seed: number }): Promise<{ cases: number }> {
  const schemas = loadSchemas();
  const parse = createObjectParser();
  const endMs = performance.now() + options.seconds * 1000;
  let cases = 0;
  let seed = options.seed;
  while (performance.now() < endMs) {
    fc.assert(
      fc.property(texts, (text) => {
        const startMs = cpuMs();
        for (const part of splitDocuments(text)) {
          const parsed = parseYamlText(part.text);
          if (!parsed.ok) continue;
          const valid = schemas.validate(parsed.value);
          if (valid.ok) parse(valid.value);
          else
            for (const problem of valid.error)
              if (lineOfField(part.text, problem.path) < 1) throw new Error("a line before the first");
        }
        const tookMs = cpuMs() - startMs;
        if (tookMs > MAX_MS) throw new Error(`took ${Math.round(tookMs)} ms`);
      }),
      { numRuns: 50, seed: seed++ },
    );
    cases += 50;
    // Lets timers of whoever runs this fire.
    await new Promise((resolve) => setImmediate(resolve));
  }
  return { cases };
}
