import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { ModelMeter, type ModelUse } from "../../../sidecar/telemetry/model-meter.ts";

interface Given {
  readonly type: string;
  readonly body: string;
  readonly status?: number;
  readonly encoding?: string;
  readonly requestBytes?: number;
}

function measure(given: Given, cuts: readonly number[] = []): ModelUse | undefined {
  const meter = new ModelMeter();
  meter.head(given.status ?? 200, given.type, given.encoding ?? "");
  const bytes = Buffer.from(given.body);
  const at = [...new Set(cuts.map((cut) => cut % (bytes.length + 1)))].sort((a, b) => a - b);
  let from = 0;
  for (const to of [...at, bytes.length]) {
    if (to > from) meter.body(bytes.subarray(from, to), 100 + from);
    from = to;
  }
  return meter.finish(given.requestBytes ?? 400);
}

const json = (value: unknown): Given => ({
  type: "application/json; charset=utf-8",
  body: JSON.stringify(value),
});
const events = (...data: readonly unknown[]): Given => ({
  type: "text/event-stream",
  body: [...data.map((one) => `data: ${JSON.stringify(one)}\n\n`), "data: [DONE]\n\n"].join(""),
});
const chunk = (content: string, more: object = {}): object => ({
  model: "llama",
  choices: [{ index: 0, delta: { content } }],
  usage: null,
  ...more,
});

const CASES: readonly (readonly [string, Given, Partial<ModelUse> | undefined])[] = [
  [
    "chat completions",
    json({
      model: "llama",
      choices: [{ message: { content: "hi" } }],
      usage: { prompt_tokens: 12, completion_tokens: 3, total_tokens: 15 },
    }),
    { input: 12, output: 3, estimated: false, model: "llama" },
  ],
  [
    "embeddings, which have no output",
    json({ data: [{ embedding: [0.1, -2e-3] }], model: "e5", usage: { prompt_tokens: 8, total_tokens: 8 } }),
    { input: 8, output: 0, estimated: false },
  ],
  [
    "responses",
    json({
      object: "response",
      usage: { input_tokens: 5, output_tokens: 7, output_tokens_details: { reasoning_tokens: 900 } },
    }),
    { input: 5, output: 7, estimated: false },
  ],
  [
    "the last usage of a stream",
    events(chunk("a", { usage: { prompt_tokens: 4, completion_tokens: 1 } }), chunk("b"), {
      choices: [],
      usage: { prompt_tokens: 4, completion_tokens: 2 },
    }),
    { input: 4, output: 2, estimated: false, model: "llama" },
  ],
  [
    "a stream of the responses API",
    events(
      { type: "response.output_text.delta", delta: "hello" },
      { type: "response.completed", response: { model: "m", usage: { input_tokens: 3, output_tokens: 1 } } },
    ),
    { input: 3, output: 1, estimated: false, model: "m" },
  ],
  [
    "usage that is spread over events",
    events(
      { type: "message_start", message: { usage: { input_tokens: 25, output_tokens: 1 } } },
      { type: "message_delta", usage: { output_tokens: 15 } },
    ),
    { input: 25, output: 15, estimated: false },
  ],
  [
    "a stream that does not say: a guess by what was written",
    events(chunk("12345678"), chunk("1234")),
    { input: 100, output: 3, estimated: true },
  ],
  [
    "text of the model that looks like usage",
    json({ choices: [{ message: { content: '"usage":{"prompt_tokens":0,"completion_tokens":0}' } }] }),
    { input: 100, estimated: true },
  ],
  [
    "usage somewhere inside",
    json({
      choices: [{ usage: { prompt_tokens: 1, completion_tokens: 1 } }],
      extra: { usage: { prompt_tokens: 1, completion_tokens: 1 } },
    }),
    { estimated: true },
  ],
  [
    "counts that are none",
    json({ usage: { prompt_tokens: -5, completion_tokens: 1.5 } }),
    { input: 100, estimated: true },
  ],
  [
    "a number at the very end",
    { type: "application/json", body: '{"usage":{"prompt_tokens":2,"completion_tokens":9' },
    { input: 2, output: 9 },
  ],
  [
    "an answer that cannot be read",
    { type: "application/json", encoding: "gzip", body: "x".repeat(40) },
    { input: 100, output: 10, estimated: true },
  ],
  ["an error without usage", { ...json({ error: "no" }), status: 404 }, undefined],
  [
    "an error with usage",
    { ...json({ usage: { prompt_tokens: 2, completion_tokens: 0 } }), status: 500 },
    { input: 2, output: 0 },
  ],
  [
    "events with CR LF and comments",
    {
      type: "text/event-stream",
      body: `: hi\r\nevent: x\r\ndata:${JSON.stringify({ usage: { prompt_tokens: 1, completion_tokens: 2 } })}\r\n\r\n`,
    },
    { input: 1, output: 2 },
  ],
  [
    "an event over several lines",
    {
      type: "text/event-stream",
      body: 'data: {"usage":{"prompt_tokens":1,\ndata: "completion_tokens":2}}\n\n',
    },
    { input: 1, output: 2 },
  ],
];

describe("ModelMeter", () => {
  test.each(CASES)("reads %s", (_name, given, want) => {
    const found = measure(given);
    if (want === undefined) expect(found).toBeUndefined();
    else expect(found).toMatchObject(want);
  });

  test.each(CASES)("reads %s however it is cut", (_name, given) => {
    const whole = measure(given);
    const bytes = Buffer.byteLength(given.body);
    fc.assert(
      fc.property(fc.array(fc.nat(bytes), { maxLength: 12 }), (cuts) => {
        expect({ ...measure(given, cuts), stream: undefined }).toEqual({ ...whole, stream: undefined });
      }),
      { numRuns: 60 },
    );
    expect({
      ...measure(
        given,
        Array.from({ length: bytes }, (_, i) => i),
      ),
      stream: undefined,
    }).toEqual({
      ...whole,
      stream: undefined,
    });
  });

  test("tells when the first and the last event came", () => {
    const given = events(chunk("a"), chunk("b"));
    const second = given.body.indexOf("data:", 1);
    expect(measure(given, [second])?.stream).toEqual({ firstMs: 100, lastMs: 100 + second });
    expect(measure(json({}))?.stream).toBeUndefined();
  });

  test("agrees with a real parser on documents of any shape, and holds nothing of them", () => {
    const usage = fc.record(
      { prompt_tokens: fc.nat(1e6), completion_tokens: fc.nat(1e6), other: fc.jsonValue({ maxDepth: 2 }) },
      { requiredKeys: [] },
    );
    const document = fc
      .tuple(
        fc.dictionary(fc.constantFrom("a", "content", "choices", 'x\\"y'), fc.jsonValue({ maxDepth: 4 })),
        fc.option(usage),
      )
      .map(([rest, found]) => ({ ...rest, ...(found === null ? {} : { usage: found }) }));
    fc.assert(
      fc.property(document, (value) => {
        const { usage: found } = value as { usage?: { prompt_tokens?: number; completion_tokens?: number } };
        const use = measure({
          type: "application/json",
          body: JSON.stringify(value, null, 1),
          requestBytes: 0,
        });
        const { prompt_tokens: input, completion_tokens: output } = found ?? {};
        if (input !== undefined) expect(use?.input).toBe(input);
        if (output !== undefined) expect(use?.output).toBe(output);
        expect(use?.estimated).toBe(input === undefined || output === undefined);
      }),
      { numRuns: 300 },
    );
  });

  test("survives any bytes", () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 400 }),
        fc.constantFrom("application/json", "text/event-stream"),
        (bytes, type) => {
          const meter = new ModelMeter();
          meter.head(200, type, "");
          meter.body(Buffer.from(bytes), 0);
          const use = meter.finish(0);
          expect(use?.input).toBeGreaterThanOrEqual(0);
          expect(use?.output).toBeGreaterThanOrEqual(0);
        },
      ),
    );
    const meter = new ModelMeter();
    meter.head(200, "application/json", "");
    meter.body(Buffer.from("[".repeat(100_000)), 0);
    expect(meter.finish(0)?.estimated).toBe(true);
  });
});
