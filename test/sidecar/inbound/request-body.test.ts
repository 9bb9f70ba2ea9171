import { describe, expect, test } from "@jest/globals";
import { DEFAULT_LIMITS, DEFAULT_TIMEOUTS } from "../../../sidecar/config.ts";
import { RequestBody } from "../../../sidecar/inbound/request-body.ts";
import { WaitingBytes } from "../../../sidecar/inbound/waiting-body.ts";
import { factsOf, RecordedCaller } from "../../fakes/recorded-caller.ts";

function bodyOf(fields: Readonly<Record<string, string>> = {}, room = 100_000) {
  const caller = new RecordedCaller();
  const facts = factsOf(fields);
  const waiting = new WaitingBytes(room);
  const services = { waiting, limits: DEFAULT_LIMITS, timeouts: DEFAULT_TIMEOUTS };
  return {
    body: new RequestBody(services, caller.side.answers, caller.stream, facts),
    caller,
    facts,
    waiting,
  };
}

const bytes = (text: string): Buffer => Buffer.from(text);

describe("the body of a request", () => {
  test.each([
    { name: "all of it", length: "3", pieces: ["a", "bc"], end: true, wrong: false },
    { name: "the beginning", length: "3", pieces: ["a"], end: false, wrong: false },
    { name: "too little", length: "3", pieces: ["a"], end: true, wrong: true },
    { name: "too much", length: "3", pieces: ["ab", "cd"], end: false, wrong: true },
    { name: "too much, by its end", length: "3", pieces: ["ab", "cd"], end: true, wrong: true },
    { name: "nothing of nothing", length: "0", pieces: [""], end: true, wrong: false },
  ])("that announced $length and brings $name: is wrong: $wrong", ({ length, pieces, end, wrong }) => {
    const { body } = bodyOf({ "content-length": length });
    pieces.forEach((piece, at) => {
      body.arrived(bytes(piece), end && at === pieces.length - 1);
    });
    expect(body.hasWrongLength).toBe(wrong);
  });

  test("of no announced length may be of any", () => {
    const { body } = bodyOf();
    body.arrived(Buffer.alloc(9), true);
    expect(body.hasWrongLength).toBe(false);
  });

  test("gives the caller credit for what came, once", () => {
    const { body, caller, facts } = bodyOf();
    body.giveCredit();
    body.arrived(bytes("abc"), false);
    body.arrived(bytes("de"), false);
    body.giveCredit();
    body.giveCredit();
    expect(caller.said).toEqual(["credit 5"]);
    expect(facts.requestBytes).toBe(5);
  });

  test("waits in order, what was sent before what has come since, and gives its room back", () => {
    const { body, waiting } = bodyOf();
    expect(body.isWaiting).toBe(false);
    body.wait();
    expect([body.isWaiting, body.waitingLength]).toEqual([true, 0]);
    body.wait(bytes("ef"));
    expect(body.waitAgain([bytes("ab"), bytes("cd")])).toBe(true);
    body.wait(bytes("gh"));
    expect(body.waitingBytes.toString()).toBe("abcdefgh");
    expect(body.takeWaiting().toString()).toBe("abcdefgh");
    expect([body.isWaiting, waiting.taken]).toEqual([false, 0]);
  });

  test("waits no longer where there is no room", () => {
    const { body, waiting } = bodyOf({}, 2_000);
    expect(body.wait(Buffer.alloc(1_500))).toBe(true);
    expect(body.wait(Buffer.alloc(1_500))).toBe(false);
    expect(body.waitAgain([Buffer.alloc(1_000)])).toBe(false);
    body.takeWaiting();
    expect(waiting.taken).toBe(0);
  });

  test.each([
    { name: "of the caller", owes: false, isHeld: false, expected: true },
    { name: "of ours, which gave no credit", owes: true, isHeld: false, expected: false },
    { name: "of ours, which is not ready", owes: false, isHeld: true, expected: false },
  ])("is too slow after the time limit by a fault $name: $expected", ({ owes, isHeld, expected }) => {
    const { body } = bodyOf();
    body.arrived(bytes("a"), false);
    if (!owes) body.giveCredit();
    expect(body.isTooSlow(0, isHeld)).toBe(false);
    expect(body.isTooSlow(DEFAULT_TIMEOUTS.bodyMs, isHeld)).toBe(expected);
  });
});
