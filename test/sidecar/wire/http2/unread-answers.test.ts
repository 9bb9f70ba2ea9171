import { describe, expect, test } from "@jest/globals";
import { UnreadAnswers } from "../../../../sidecar/wire/http2/unread-answers.ts";

const MUCH = 4 * 1024 * 1024;

function setUp() {
  const seen: string[] = [];
  const note = (word: string) => () => {
    seen.push(word);
  };
  const socket = { congested: false, bufferedBytes: 0, pause: note("pause"), resume: note("resume") };
  const h2 = { pauseData: note("hold data"), resumeData: note("send data") };
  return { unread: new UnreadAnswers(h2, socket, { heard: note("heard") }), socket, seen };
}

describe("answers that a peer does not read", () => {
  test("hold back bodies, once, until it reads again", () => {
    const { unread, socket, seen } = setUp();
    unread.written();
    Object.assign(socket, { congested: true, bufferedBytes: MUCH - 1 });
    unread.written();
    unread.written();
    expect([seen.splice(0), unread.sweep()]).toEqual([["hold data"], false]);
    unread.drained();
    unread.drained();
    expect(seen).toEqual(["send data"]);
  });

  test("stop everything when heads alone pile up, and reading is the only sign of life then", () => {
    const { unread, socket, seen } = setUp();
    Object.assign(socket, { congested: true, bufferedBytes: MUCH });
    unread.written();
    unread.written();
    expect(seen.splice(0)).toEqual(["hold data", "pause"]);
    expect([unread.sweep(), unread.sweep(), seen]).toEqual([true, true, []]);
    socket.bufferedBytes = MUCH - 1;
    expect([unread.sweep(), seen.splice(0)]).toEqual([true, ["heard"]]);
    unread.drained();
    expect([seen, unread.sweep()]).toEqual([["resume", "send data"], false]);
  });
});
