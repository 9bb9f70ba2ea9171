import { describe, expect, test } from "@jest/globals";
import { CallerAnswer } from "../../../sidecar/inbound/caller-answer.ts";
import { FieldCache } from "../../../sidecar/wire/field-cache.ts";
import { factsOf, fieldsOf, RecordedCaller } from "../../fakes/recorded-caller.ts";

const cache = new FieldCache();
const GRPC = { "content-type": "application/grpc" };
const WEBSOCKET = { ":method": "CONNECT", ":protocol": "websocket" };

function answerTo(request: Readonly<Record<string, string>> = {}) {
  const caller = new RecordedCaller();
  const facts = factsOf(request);
  return { answer: new CallerAnswer(caller.side, caller.stream, facts), caller, facts };
}

function headOf(status: number, fields: Readonly<Record<string, string>> = {}, contentLength = -1) {
  return { status, fields: fieldsOf(fields), contentLength, connectionNames: [] };
}

describe("what a caller is answered", () => {
  test("is the application's answer, whose last piece of the announced length is the end", () => {
    const { answer, caller, facts } = answerTo();
    answer.writeInformational(headOf(103, { link: "</a>" }));
    answer.writeHead(headOf(200, { "x-a": "1" }, 4), undefined);
    expect(answer.writeBody(Buffer.from("ab"))).toBe(true);
    expect([answer.hasBegun, answer.hasEnded]).toEqual([true, false]);
    answer.writeBody(Buffer.from("cd"));
    expect(answer.hasEnded).toBe(true);
    answer.writeEnd([]);
    expect(caller.said).toEqual(["103 link: </a>", "200 x-a: 1", 'data "ab"', 'data "cd"', "end"]);
    expect([facts.status, facts.responseBytes]).toEqual([200, 4]);
  });

  test("ends with trailers, or without any", () => {
    const { answer, caller, facts } = answerTo(GRPC);
    answer.writeHead(headOf(200), false);
    answer.writeEnd(fieldsOf({ "grpc-status": "5" }));
    expect(caller.take()).toEqual(["200", "grpc-status: 5", "end"]);
    expect(facts.grpcStatus).toBe(5);
    const plain = answerTo();
    plain.answer.writeHead(headOf(200), undefined);
    plain.answer.writeEnd([]);
    expect(plain.caller.said).toEqual(["200", 'data ""', "end"]);
  });

  test("has no 1xx behind its head, and says when the caller takes no more", () => {
    const { answer, caller } = answerTo();
    answer.writeHead(headOf(200), undefined);
    answer.writeInformational(headOf(103));
    caller.hasRoom = false;
    expect(answer.writeBody(Buffer.from("a"))).toBe(false);
    expect(caller.said).toEqual(["200", 'data "a"']);
  });

  test.each([
    { name: "HTTP", request: {}, said: /^403 content-type: application\/problem\+json .*proxy-status/ },
    { name: "gRPC", request: GRPC, said: /^200 content-type: application\/grpc grpc-status: 7 / },
  ])("is the sidecar's own in the form of $name where there is none", ({ request, said }) => {
    const { answer, caller } = answerTo(request);
    expect(answer.writeProblem("DENIED_BY_POLICY", undefined, cache)).toBe(true);
    expect(caller.said[0]).toMatch(said);
    expect([answer.hasEnded, caller.said.at(-1)]).toEqual([true, "end"]);
  });

  test("is a JSON-RPC error with the id of an MCP request", () => {
    const { answer, caller } = answerTo();
    const body = Buffer.from('{"jsonrpc":"2.0","id":17,"method":"tools/call"}');
    answer.rpc = { code: -32001, body };
    answer.writeProblem("DENIED_BY_POLICY", undefined, cache);
    expect(caller.said.join(" ")).toMatch(/"id":17.*"code":-32001|"code":-32001.*"id":17/);
  });

  test.each([
    { name: "of gRPC says why in trailers", request: GRPC, goesOn: true, last: /^grpc-status: 14 / },
    { name: "of anything else is broken off", request: {}, goesOn: false, last: /^reset 2$/ },
  ])("that has begun and cannot be completed, $name", ({ request, goesOn, last }) => {
    const { answer, caller } = answerTo(request);
    answer.writeHead(headOf(200), false);
    caller.take();
    expect(answer.writeProblem("UPSTREAM_FAILED", undefined, cache)).toBe(goesOn);
    expect(caller.said[0]).toMatch(last);
  });

  test("is broken off behind its end, where even gRPC can say nothing more", () => {
    const { answer, caller } = answerTo(GRPC);
    answer.writeHead(headOf(200), true);
    caller.take();
    expect(answer.writeProblem("UPSTREAM_TIMEOUT", undefined, cache)).toBe(false);
    expect(caller.said).toEqual(["reset 2"]);
  });

  test.each([
    { name: "gRPC", request: GRPC, head: {}, length: -1, said: /^grpc-status: 7 / },
    {
      name: "events",
      request: {},
      head: { "content-type": "text/event-stream" },
      length: -1,
      said: /event: error/,
    },
    {
      name: "events of an announced length",
      request: {},
      head: { "content-type": "text/event-stream" },
      length: 99,
      said: /^reset 8$/,
    },
    { name: "other bodies", request: {}, head: {}, length: -1, said: /^reset 8$/ },
  ])("whose permission is lost ends as $name can", ({ request, head, length, said }) => {
    const { answer, caller } = answerTo(request);
    answer.writeHead(headOf(200, head, length), undefined);
    caller.take();
    answer.writeLastWords("DENIED_BY_POLICY");
    expect(caller.said[0]).toMatch(said);
    expect(answer.hasEnded).toBe(true);
  });

  test("closes a WebSocket between two frames when the permission is lost, and breaks it off within one", () => {
    for (const [sent, said] of [
      [Buffer.from([0x81, 0x01, 0x61]), /^data "\x88/],
      [Buffer.from([0x81, 0x05, 0x61]), /^reset 8$/],
    ] as const) {
      const { answer, caller, facts } = answerTo(WEBSOCKET);
      answer.switchTo(headOf(101));
      expect([answer.isSwitched, facts.status, caller.take()]).toEqual([true, 101, ["switched"]]);
      answer.writeBody(sent);
      caller.take();
      answer.writeLastWords("DENIED_BY_POLICY");
      expect(caller.said[0]?.replace("\ufffd", "\x88")).toMatch(said);
    }
  });

  test("is a 502 with the status beside it where a 2xx would agree to an upgrade that was ignored", () => {
    const { answer, caller } = answerTo(WEBSOCKET);
    answer.writeHead(headOf(204), undefined);
    expect(caller.said).toEqual(["502 countersign-status: 204", "end"]);
  });
});
