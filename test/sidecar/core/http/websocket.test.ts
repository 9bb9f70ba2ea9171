import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import {
  closeFrame,
  FrameBoundary,
  isWebSocketKey,
  switchProblem,
  upgradeOf,
  webSocketAccept,
} from "../../../../sidecar/core/http/websocket.ts";

/** One frame with a payload of `size` bytes, its length written in the shortest form or a longer one. */
function frame(size: number, masked: boolean, wide: boolean): Buffer {
  const mask = masked ? 0x80 : 0;
  let head: Buffer;
  if (size > 65_535 || wide) {
    head = Buffer.alloc(10);
    head[1] = 127 | mask;
    head.writeBigUInt64BE(BigInt(size), 2);
  } else if (size > 125) {
    head = Buffer.from([0, 126 | mask, size >> 8, size & 255]);
  } else head = Buffer.from([0, size | mask]);
  head[0] = 0x82;
  return Buffer.concat([head, Buffer.alloc(masked ? 4 : 0, 7), Buffer.alloc(size, 0x88)]);
}

describe("the handshake", () => {
  test("answers the key of RFC 6455 section 1.3 as it says", () => {
    expect(webSocketAccept("dGhlIHNhbXBsZSBub25jZQ==")).toBe("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
  });

  test.each([
    { key: "dGhlIHNhbXBsZSBub25jZQ==", is: true },
    { key: "dGhlIHNhbXBsZSBub25jZR==", is: false },
    { key: "dGhlIHNhbXBsZSBub25jZQ=", is: false },
    { key: "", is: false },
    { key: "dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ==", is: false },
  ])("`$key` is a key: $is", ({ key, is }) => {
    expect(isWebSocketKey(key)).toBe(is);
  });

  test.each([
    { asked: "websocket", upgrade: "WebSocket", accept: "yes", problem: undefined },
    { asked: "foo/1", upgrade: "foo/1", accept: undefined, problem: undefined },
    { asked: "", upgrade: "websocket", accept: "yes", problem: /without being asked/ },
    { asked: "websocket", upgrade: undefined, accept: "yes", problem: /another protocol/ },
    { asked: "websocket", upgrade: "h2c", accept: "yes", problem: /another protocol/ },
    { asked: "websocket", upgrade: "websocket, foo", accept: "yes", problem: /another protocol/ },
    { asked: "websocket", upgrade: "websocket", accept: "yes, yes", problem: /wrong/ },
    { asked: "websocket", upgrade: "websocket", accept: undefined, problem: /wrong/ },
  ])(
    "asked for `$asked`, 101 with `$upgrade` and `$accept`: $problem",
    ({ asked, upgrade, accept, problem }) => {
      const found = switchProblem(asked, "yes", { upgrade, accept });
      if (problem === undefined) expect(found).toBeUndefined();
      else expect(found).toMatch(problem);
    },
  );

  test.each([
    { value: undefined, is: "" },
    { value: "h2c", is: "" },
    { value: "H2C", is: "" },
    { value: "WebSocket", is: "websocket" },
    { value: "websocket, h2c", is: undefined },
    { value: "SPDY/3.1", is: "spdy/3.1" },
    { value: "Foo/V1", is: "foo/V1" },
    { value: "foo/1/2", is: undefined },
    { value: "foo/", is: undefined },
    { value: "/1", is: undefined },
    { value: "foo/1 ", is: undefined },
    { value: "HTTP/2.0", is: "" },
    { value: "TLS/1.3", is: "" },
    { value: "h2", is: "" },
    { value: "", is: undefined },
  ])("Upgrade `$value` asks for `$is`", ({ value, is }) => {
    expect(upgradeOf(value)).toBe(is);
  });

  test("makes a close frame with code and reason", () => {
    expect(closeFrame(1008, "no")).toEqual(Buffer.from([0x88, 4, 0x03, 0xf0, 0x6e, 0x6f]));
    expect(closeFrame(1008, "x".repeat(200)).length).toBe(127);
  });
});

describe("FrameBoundary", () => {
  test("is between frames exactly where one ends, however they are cut", () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.tuple(
            fc.oneof(fc.nat(300), fc.integer({ min: 65_000, max: 66_000 })),
            fc.boolean(),
            fc.boolean(),
          ),
          {
            minLength: 1,
            maxLength: 5,
          },
        ),
        fc.array(fc.integer({ min: 1, max: 70_000 }), { minLength: 1 }),
        (frames, cuts) => {
          const parts = frames.map(([size, masked, wide]) => frame(size, masked, wide));
          const ends = new Set<number>([0]);
          let total = 0;
          for (const part of parts) {
            total += part.length;
            ends.add(total);
          }
          const bytes = Buffer.concat(parts);
          const boundary = new FrameBoundary();
          for (let at = 0, i = 0; at < bytes.length; i++) {
            const to = Math.min(bytes.length, at + (cuts[i % cuts.length] ?? 1));
            boundary.push(bytes.subarray(at, to));
            at = to;
            expect(boundary.between).toBe(ends.has(at));
          }
        },
      ),
      { numRuns: 200 },
    );
  });

  test("a frame that announces more than there is memory never ends", () => {
    const boundary = new FrameBoundary();
    boundary.push(Buffer.from([0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]));
    boundary.push(Buffer.alloc(100_000));
    expect(boundary.between).toBe(false);
  });
});
