// Hostile HTTP/1.1 clients at every door of a real pair. Each vector comes alone, byte by byte with a probe behind it, and
// whole with a probe behind it; then an honest request on a new connection, which would get the answer to whatever is
// left in a connection to the application.
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { byteByByte, converse, type ReadAnswer } from "./client.ts";
import { LLHTTP_REQUESTS } from "./llhttp-vectors.ts";
import { OWN_REQUESTS, type RequestVector } from "./request-vectors.ts";
import { DOORS, type Door, type SmugglingWorld, startSmugglingWorld } from "./world.ts";

const VECTORS = [...OWN_REQUESTS, ...LLHTTP_REQUESTS];

let world: SmugglingWorld;
let probes = 0;

beforeAll(async () => {
  world = await startSmugglingWorld();
});
afterAll(() => world.close());

const probe = (): { target: string; bytes: string } => {
  const target = `/things/probe-${++probes}`;
  return { target, bytes: `GET ${target} HTTP/1.1\r\nHost: things.ml\r\n\r\n` };
};
const toBytes = (text: string): Buffer => Buffer.from(text, "latin1");
const good = ({ status }: ReadAnswer): boolean => status >= 200 && status < 300;

/** One vector on one connection. @param target of the probe behind it; undefined: none. */
async function attack(
  door: Door,
  vector: RequestVector,
  pieces: Iterable<Buffer>,
  target: string | undefined,
): Promise<void> {
  const { verdict, answers: expected = 1 } = vector;
  const { recorder } = world;
  const before = { whole: recorder.whole.length, begun: recorder.begun, ...world.counts() };
  const wanted = expected + (target === undefined ? 0 : 1);
  const { answers, closed, rest } = await converse(await world.open(door), pieces, (got) => {
    return verdict === "passed" && got.length >= wanted;
  });
  const whole = recorder.whole.slice(before.whole).map((each) => each.target);
  const begun = recorder.begun - before.begun;
  const attempts = world.counts().attempts - before.attempts;
  const decisions = world.counts().decisions - before.decisions;
  expect(recorder.findings).toEqual([]);
  if (verdict === "passed") {
    expect(answers.map(good)).toEqual(new Array(wanted).fill(true));
    if (target !== undefined) expect(answers.at(-1)?.body).toBe(target);
    expect([whole.length, begun, attempts, decisions]).toEqual([wanted, wanted, wanted, wanted]);
    return;
  }
  // Nothing that comes behind it is read, least of all the probe; the connection ends.
  expect(closed).toBe(true);
  expect(whole).toEqual([]);
  expect(answers.length).toBeLessThanOrEqual(1);
  expect(answers.some(good)).toBe(false);
  expect(rest).not.toContain("probe");
  if (verdict === "refused") {
    expect(answers.map(({ status }) => status >= 400)).toEqual([true]);
    expect([begun, attempts, decisions]).toEqual([0, 0, 0]);
  } else {
    // A head that was taken back in the same turn has not reached the application.
    expect(begun).toBeLessThanOrEqual(attempts);
    expect(attempts).toBeLessThanOrEqual(decisions);
    expect(decisions).toBeLessThanOrEqual(1);
  }
}

async function honest(door: Door): Promise<void> {
  const { target, bytes } = probe();
  const { answers } = await converse(await world.open(door), [toBytes(bytes)], (got) => got.length > 0);
  expect(answers).toEqual([{ status: 200, body: target }]);
}

test("there are enough of them, no two alike", () => {
  expect(OWN_REQUESTS.length).toBeGreaterThanOrEqual(150);
  expect(new Set(VECTORS.map(({ name }) => name)).size).toBe(VECTORS.length);
  expect(new Set(VECTORS.map(({ bytes }) => bytes)).size).toBeGreaterThan(VECTORS.length * 0.95);
});

describe.each(DOORS)("a hostile client at the door `%s`", (door) => {
  test.each(VECTORS)("$verdict: $name", async (vector) => {
    const bytes = toBytes(vector.bytes);
    await attack(door, vector, [bytes], undefined);
    const behind = probe();
    await attack(door, vector, [Buffer.concat([bytes, toBytes(behind.bytes)])], behind.target);
    await honest(door);
    // Long ones differ in nothing but their length: byte by byte they would only take time.
    if (bytes.length > 1_000) return;
    const split = probe();
    await attack(door, vector, byteByByte(Buffer.concat([bytes, toBytes(split.bytes)])), split.target);
    await honest(door);
  });
});
