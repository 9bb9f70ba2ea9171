import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import type { AppStream } from "../../../sidecar/outbound/app-side.ts";
import { CallFacts } from "../../../sidecar/outbound/call-facts.ts";
import type { RequestCopies } from "../../../sidecar/outbound/mirror.ts";
import { RequestBody } from "../../../sidecar/outbound/request-body.ts";
import { MAX_REPLAY_BYTES } from "../../../sidecar/outbound/retry.ts";
import type { AnswerWriter } from "../../../sidecar/wire/answers.ts";

const nothing = (): void => {};

function setUp() {
  const credit: number[] = [];
  const answers: AnswerWriter<AppStream> = {
    ...{ beginHeaders: nothing, putStatus: nothing, putField: nothing, putPair: nothing },
    ...{ endHeaders: nothing, sendData: () => true, resetStream: nothing },
    consumed: (_stream, bytes) => credit.push(bytes),
  };
  const head = {
    ...{ method: "POST", target: "/", authority: "a", fields: [], upgrade: undefined },
    connectionNames: [],
  };
  const facts = new CallFacts(head, 0, 0);
  return { body: new RequestBody(answers, { context: undefined }, facts), facts, credit };
}

/** Who keeps what is mirrored: all that a body asks of it. */
function copier() {
  const seen: string[] = [];
  const copies = {
    take: (chunk: Buffer) => seen.push(chunk.toString()),
    end: () => seen.push("end"),
    abandon: () => seen.push("abandon"),
  } as unknown as RequestCopies;
  return { copies, seen };
}

const textOf = (chunks: readonly Buffer[]): string => Buffer.concat(chunks).toString();

describe("the body of a call", () => {
  test("is sent again as it came, held or passed on, while it is short and no answer has begun", () => {
    const chunks = fc.array(fc.tuple(fc.integer({ min: 0, max: 30_000 }), fc.boolean()), { maxLength: 8 });
    fc.assert(
      fc.property(chunks, (list) => {
        const { body } = setUp();
        const all = Buffer.concat(list.map(([length], at) => Buffer.alloc(length, 97 + at)));
        // What is held comes first: behind the first that is sent there is a stream.
        const held = list.findIndex(([, isSent]) => isSent);
        let at = 0;
        list.forEach(([length], index) => {
          const chunk = all.subarray(at, at + length);
          at += length;
          if (held < 0 || index < held) body.hold(chunk);
          else {
            if (index === held) body.takeKept();
            body.remember(chunk);
          }
        });
        const isShort = all.length <= MAX_REPLAY_BYTES;
        if (held >= 0) expect(body.isReplayable).toBe(isShort);
        if (held < 0 || isShort) expect(textOf(body.takeKept())).toBe(all.toString());
        expect(body.isReplayable).toBe(isShort);
      }),
    );
  });

  test("that is held is not the buffer it was read into", () => {
    const { body } = setUp();
    const read = Buffer.from("abc");
    body.hold(read);
    read.fill("x");
    expect(textOf(body.takeKept())).toBe("abc");
  });

  test("is sent once where it is too long to be kept", () => {
    const { body } = setUp();
    body.hold(Buffer.alloc(MAX_REPLAY_BYTES + 1));
    expect(textOf(body.takeKept()).length).toBe(MAX_REPLAY_BYTES + 1);
    expect([body.isReplayable, body.takeKept()]).toEqual([false, []]);
  });

  test("is not sent again behind an answer", () => {
    const { body } = setUp();
    body.remember(Buffer.from("ab"));
    body.forget();
    body.remember(Buffer.from("cd"));
    expect([body.isReplayable, body.takeKept()]).toEqual([false, []]);
  });

  test("gives the application credit for what came, once, and at its end", () => {
    const { body, facts, credit } = setUp();
    body.arrived(Buffer.from("abc"), false);
    body.arrived(Buffer.from("de"), true);
    body.giveCredit();
    body.giveCredit();
    body.arrived(Buffer.from("f"), false);
    body.close();
    expect([credit, facts.requestBytes, body.isComplete]).toEqual([[5, 1], 6, true]);
  });

  test("is mirrored with what had come before, to its end", () => {
    const { body } = setUp();
    const { copies, seen } = copier();
    body.arrived(Buffer.from("ab"), false);
    body.hold(Buffer.from("ab"));
    body.copyTo(copies);
    body.arrived(Buffer.from("cd"), false);
    body.ended([]);
    expect(seen).toEqual(["ab", "cd", "end"]);
  });

  test("is mirrored when it was complete already, and given up when it never will be", () => {
    const whole = setUp();
    const first = copier();
    whole.body.isComplete = true;
    whole.body.copyTo(first.copies);
    expect(first.seen).toEqual(["end"]);
    const broken = setUp();
    const second = copier();
    broken.body.copyTo(second.copies);
    broken.body.close();
    expect(second.seen).toEqual(["abandon"]);
  });
});
