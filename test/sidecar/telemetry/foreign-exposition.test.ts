import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { ForeignExposition } from "../../../sidecar/telemetry/foreign-exposition.ts";

function keep(text: string, step = text.length + 1): { kept: string; dropped: number } {
  const foreign = new ForeignExposition();
  for (let at = 0; at < text.length; at += step) foreign.push(text.slice(at, at + step));
  const kept = foreign.end();
  return { kept, dropped: foreign.dropped };
}

describe("ForeignExposition", () => {
  test.each([
    "up 1",
    "a_total 1.5e+10 1700000000000",
    "a .5",
    "a 1.",
    "a -Inf",
    "a NaN",
    'a{b="c"} 1',
    'a{b="c",d="e",} 1',
    "a{} 1",
    String.raw`a{b="quote \" slash \\ line \n # not an exemplar"} 1`,
    "# HELP a says",
    "# TYPE a counter",
    'job:rate:5m{le="+Inf"} 3',
  ])("keeps `%s`", (line) => {
    expect(keep(line)).toEqual({ kept: `${line}\n`, dropped: 0 });
  });

  test.each([
    "countersign_decisions_total 7",
    'countersign_requests_total{caller="nobody"} 7',
    "a",
    "a one",
    "a 1 2 3",
    "1a 2",
    'a{b="c} 1',
    "a{b=c} 1",
    'a{b="c"',
    String.raw`a{b="\x"} 1`,
    "<html>",
    `a{b="${"x".repeat(20_000)}"} 1`,
  ])("drops `%.40s`", (line) => {
    expect(keep(`before 1\n${line}\nafter 2\n`)).toEqual({ kept: "before 1\nafter 2\n", dropped: 1 });
  });

  test("says nothing of remarks, ends, doubled descriptions and exemplars", () => {
    const text =
      '# EOF\n#\n# UNIT a b\n# TYPE a counter\r\n# TYPE a gauge\n# TYPE countersign_x counter\n\na_total{b="c"} 1 # {id="x"} 1\n';
    expect(keep(text)).toEqual({ kept: '# TYPE a counter\na_total{b="c"} 1\n', dropped: 0 });
  });

  test("keeps the same in whatever pieces it comes, and nothing in our name", () => {
    const part = fc.constantFrom(
      "a",
      "countersign_",
      "a 1",
      "\n",
      "{",
      '"',
      "#",
      " ",
      "1",
      "\r",
      "}",
      '{b="c"} 2\n',
    );
    fc.assert(
      fc.property(fc.array(part, { maxLength: 60 }), fc.integer({ min: 1, max: 7 }), (parts, step) => {
        const text = parts.join("");
        const whole = keep(text);
        expect(keep(text, step)).toEqual(whole);
        expect(whole.kept).not.toMatch(/^countersign_/m);
        expect(keep(whole.kept)).toEqual({ kept: whole.kept, dropped: 0 });
      }),
    );
  });

  test("takes a hostile line in linear time", () => {
    for (const text of [
      "1".repeat(16_000),
      `a{${'b="c",'.repeat(2_500)}`,
      `a ${"1".repeat(15_000)}x`,
      "a".repeat(16_384),
    ])
      expect(keep(text).kept).toBe("");
  }, 1_000);
});
