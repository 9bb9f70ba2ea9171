import { describe, expect, test } from "@jest/globals";
import { PREFACE } from "../../../../sidecar/wire/http2/frames.ts";
import { UnfinishedHead } from "../../../../sidecar/wire/http2/unfinished-head.ts";
import { block, End, frame, GET } from "./harness.ts";

const REQUEST = block(GET);
const whole = (id: number): Buffer => frame(1, 5, id, REQUEST);

describe("a head that does not end", () => {
  test.each([
    { name: "nothing", bytes: [], unfinished: false },
    { name: "whole heads", bytes: [whole(1), whole(3)], unfinished: false },
    { name: "half a HEADERS frame", bytes: [whole(1), whole(3).subarray(0, -1)], unfinished: true },
    { name: "less than a frame's type", bytes: [whole(1), whole(3).subarray(0, 3)], unfinished: false },
    { name: "HEADERS without END_HEADERS", bytes: [frame(1, 1, 1, REQUEST)], unfinished: true },
    {
      name: "half a CONTINUATION",
      bytes: [frame(1, 1, 1, REQUEST), frame(9, 4, 1, "00").subarray(0, -1)],
      unfinished: true,
    },
    {
      name: "half a DATA frame",
      bytes: [frame(1, 4, 1, REQUEST), frame(0, 0, 1, "0000").subarray(0, -1)],
      unfinished: false,
    },
  ])("is seen: $name", ({ bytes, unfinished }) => {
    const server = new End("server");
    server.connection.receive(Buffer.concat([PREFACE, frame(4, 0, 0), ...bytes]));
    expect(server.connection.unfinishedHead >= 0).toBe(unfinished);
    expect(server.connection.closed).toBe(false);
  });

  test("takes its time from when it was first seen, and another one from then", () => {
    const server = new End("server");
    const watch = new UnfinishedHead();
    const slow = (nowMs: number): boolean => watch.isTooSlow(server.connection.unfinishedHead, nowMs, 10_000);
    server.connection.receive(Buffer.concat([PREFACE, frame(4, 0, 0)]));
    expect(slow(0)).toBe(false);
    expect(slow(60_000)).toBe(false);
    server.connection.receive(whole(1).subarray(0, 12));
    expect([60_500, 70_000].map(slow)).toEqual([false, false]);
    server.connection.receive(Buffer.concat([whole(1).subarray(12), whole(3).subarray(0, 12)]));
    expect([71_000, 80_500, 81_000].map(slow)).toEqual([false, false, true]);
  });
});
