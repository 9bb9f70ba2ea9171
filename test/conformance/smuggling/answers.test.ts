// Hostile servers behind a real pair: what their bytes mean is decided once, the client gets canonical answers alone, and
// nobody gets the answer to somebody else's request.
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { ANSWERS, type AnswerVector } from "./answer-vectors.ts";
import { converse } from "./client.ts";
import { DOORS, type SmugglingWorld, startSmugglingWorld } from "./world.ts";

let world: SmugglingWorld;
let count = 0;

beforeAll(async () => {
  world = await startSmugglingWorld();
});
afterAll(() => world.close());

const get = (target: string): Buffer => Buffer.from(`GET ${target} HTTP/1.1\r\nHost: things.ml\r\n\r\n`);

/** Asks for the hostile answer and, on the same connection, for an honest one. */
async function ask(
  door: (typeof DOORS)[number],
  { bytes, close = false, verdict, status = 200, body = "hello" }: AnswerVector,
): Promise<void> {
  const target = `/things/answer-${++count}`;
  const probe = `/things/probe-${count}`;
  const { recorder } = world;
  recorder.answers.set(target, { bytes, close });
  const { answers, closed, rest } = await converse(
    await world.open(door),
    [get(target), get(probe)],
    (got) => got.at(-1)?.body === probe,
  );
  expect(recorder.findings).toEqual([]);
  expect(JSON.stringify(answers.map((each) => each.body))).not.toContain("smuggled");
  const own = answers.filter((each) => each.body === probe);
  if (verdict === "broken") {
    // A part of the answer, and the end: no client takes that for whole.
    expect(answers).toEqual([]);
    expect(closed).toBe(true);
    expect(rest).not.toContain("smuggled");
    return;
  }
  const first = answers[0];
  if (verdict === "failed")
    expect([first?.status, first?.body.includes("UPSTREAM_FAILED")]).toEqual([502, true]);
  else expect([first?.status, dechunked(first?.body ?? "")]).toEqual([status, body]);
  // The next request on the connection has its own answer (or the connection ended, and it has none).
  expect(answers.length).toBe(1 + own.length);
  if (own.length === 0) expect(closed).toBe(true);
}

const dechunked = (text: string): string => /^[0-9a-f]+\r\n([\s\S]*)$/.exec(text)?.[1] ?? text;

describe.each(DOORS)("a hostile server, seen from the door `%s`", (door) => {
  test.each(ANSWERS)("$verdict: $name", async (vector) => {
    await ask(door, vector);
    const target = `/things/honest-${count}`;
    const { answers } = await converse(await world.open(door), [get(target)], (got) => got.length > 0);
    expect(answers).toEqual([{ status: 200, body: target }]);
  });
});

test("requests that reached the server were allowed and forwarded, each", () => {
  const { attempts, decisions } = world.counts();
  const { begun, whole } = world.recorder;
  expect(begun).toBe(attempts);
  // A kept connection that closes without a word has not looked at its request, which is sent once more.
  const replayed = whole.length - new Set(whole.map(({ target }) => target)).size;
  expect(attempts - decisions).toBe(replayed);
  expect(replayed).toBeLessThanOrEqual(2 * DOORS.length);
});
