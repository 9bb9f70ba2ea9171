// gRPC bodies taken apart, in whatever portions they come.
import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import {
  GrpcMessages,
  MAX_MESSAGE_BYTES,
  type MessageSink,
} from "../../../../sidecar/core/http/grpc-messages.ts";
import { WaitingBytes } from "../../../../sidecar/inbound/waiting-body.ts";

function framed(message: Buffer, flag = 0): Buffer {
  const prefix = Buffer.alloc(5);
  prefix[0] = flag;
  prefix.writeUInt32BE(message.length, 1);
  return Buffer.concat([prefix, message]);
}

/** Pushes the body in pieces; stops at the message with this number. */
function take(body: Buffer, cuts: readonly number[], refuseAt = -1, room = new WaitingBytes(1_000_000)) {
  const seen: (string | undefined)[] = [];
  const passed: Buffer[] = [];
  let noRoom = 0;
  const sink: MessageSink = {
    onMessage: (message) => {
      seen.push(message?.toString("latin1"));
      return seen.length - 1 !== refuseAt;
    },
    onBytes: (bytes) => {
      passed.push(Buffer.from(bytes));
    },
    onNoRoom: () => {
      noRoom++;
    },
  };
  const messages = new GrpcMessages(sink, room);
  let at = 0;
  for (const cut of [...cuts].sort((a, b) => a - b)) {
    const end = Math.min(body.length, cut);
    if (end > at) messages.push(body.subarray(at, end));
    at = Math.max(at, end);
  }
  messages.push(body.subarray(at));
  const { isWhole } = messages;
  const taken = room.taken;
  messages.close();
  expect(room.taken).toBe(0);
  return { seen, passed: Buffer.concat(passed), isWhole, taken, noRoom };
}

describe("GrpcMessages", () => {
  test("sees every message and passes every byte on, whatever the portions", () => {
    fc.assert(
      fc.property(
        fc.array(fc.string({ maxLength: 300 })),
        fc.array(fc.nat(3_000)),
        (texts: string[], cuts: number[]) => {
          const parts = texts.map((text) => Buffer.from(text));
          const body = Buffer.concat(parts.map((part) => framed(part)));
          const { seen, passed, isWhole } = take(body, cuts);
          expect(seen).toEqual(parts.map((part) => part.toString("latin1")));
          expect(passed.equals(body)).toBe(true);
          expect(isWhole).toBe(true);
        },
      ),
    );
  });

  test("passes nothing of a refused message, nor of what follows", () => {
    fc.assert(
      fc.property(fc.array(fc.nat(60)), fc.nat(3), (cuts: number[], refuseAt) => {
        const parts = ["a", "bb", "ccc", "dddd"].map((text) => framed(Buffer.from(text)));
        const { passed } = take(Buffer.concat(parts), cuts, refuseAt);
        expect(passed.equals(Buffer.concat(parts.slice(0, refuseAt)))).toBe(true);
      }),
    );
  });

  test("a compressed message and one that is too long cannot be read, and go on whole", () => {
    const long = Buffer.alloc(MAX_MESSAGE_BYTES + 1, 7);
    const body = Buffer.concat([framed(Buffer.from("x"), 1), framed(long), framed(Buffer.from("y"))]);
    const { seen, passed } = take(body, [3, 20, 40_000]);
    expect(seen).toEqual([undefined, undefined, "y"]);
    expect(passed.equals(body)).toBe(true);
  });

  test("what waits takes room, and goes no further where there is none", () => {
    const body = Buffer.concat([framed(Buffer.from("first")), framed(Buffer.alloc(5_000))]);
    const waiting = take(body.subarray(0, 2_000), [7]);
    expect(waiting).toMatchObject({ seen: ["first"], noRoom: 0 });
    expect(waiting.taken).toBeGreaterThanOrEqual(2_000 - 10);
    const refused = take(body, [7], -1, new WaitingBytes(1_000));
    expect(refused).toMatchObject({ seen: ["first"], noRoom: 1, taken: 0 });
    expect(refused.passed.length).toBe(10);
  });

  test("a body that ends within a message is not whole", () => {
    const body = framed(Buffer.from("whole"));
    for (let length = 1; length < body.length; length++)
      expect(take(body.subarray(0, length), []).isWhole).toBe(false);
    expect(take(framed(Buffer.alloc(MAX_MESSAGE_BYTES + 9)).subarray(0, 900), []).isWhole).toBe(false);
  });
});
