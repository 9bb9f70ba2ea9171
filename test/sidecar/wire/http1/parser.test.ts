import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { FieldCache } from "../../../../sidecar/wire/field-cache.ts";
import { type RequestHead, RequestParser, ResponseParser } from "../../../../sidecar/wire/http1/parser.ts";
import { HTTP1_PROBLEM_CODES, http1Problem } from "../../../../sidecar/wire/http1/problem.ts";
import { validRequest, validResponse } from "./messages.ts";
import { byteByByte, type Recorded, recorder, runRequests, runResponses, split } from "./recording.ts";

const latin1 = (text: string): Buffer => Buffer.from(text, "latin1");
const H = "Host: a.example\r\n";

function headOf(text: string): Record<string, unknown> {
  const first = runRequests([latin1(text)])[0];
  if (first?.kind !== "head") throw new Error(JSON.stringify(first));
  return first.head;
}

function answerOf(method: string, text: string, eof = false): Recorded[] {
  return runResponses([method], [latin1(text)], { eof });
}

describe("request heads", () => {
  test.each([
    {
      name: "origin-form",
      text: `GET /a?b=c HTTP/1.1\r\n${H}\r\n`,
      head: {
        method: "GET",
        target: "/a?b=c",
        authority: "a.example",
        absolute: false,
        minor: 1,
        contentLength: -1,
        chunked: false,
        keepAlive: true,
      },
    },
    {
      name: "absolute-form",
      text: `GET http://A.example:80/a?b HTTP/1.1\r\n${H}\r\n`,
      head: { target: "/a?b", authority: "A.example:80", absolute: true },
    },
    {
      name: "absolute-form without a path",
      text: `GET http://a.example HTTP/1.1\r\n${H}\r\n`,
      head: { target: "/" },
    },
    {
      name: "absolute-form with a query only",
      text: `GET http://a.example?x HTTP/1.1\r\n${H}\r\n`,
      head: { target: "/?x" },
    },
    { name: "asterisk-form", text: `OPTIONS * HTTP/1.1\r\n${H}\r\n`, head: { target: "*" } },
    {
      name: "absolute asterisk-form",
      text: `OPTIONS http://a.example HTTP/1.1\r\n${H}\r\n`,
      head: { target: "*" },
    },
    {
      name: "authority-form",
      text: "CONNECT b:443 HTTP/1.1\r\nHost: b\r\n\r\n",
      head: { target: "b:443", authority: "b:443" },
    },
    {
      name: "IPv6 host",
      text: "GET / HTTP/1.1\r\nHost: [2001:db8::1]:8080\r\n\r\n",
      head: { authority: "[2001:db8::1]:8080" },
    },
    {
      name: "IPv4 in IPv6 host",
      text: "GET / HTTP/1.1\r\nHost: [::ffff:10.0.0.1]\r\n\r\n",
      head: { authority: "[::ffff:10.0.0.1]" },
    },
    { name: "one empty line first", text: `\r\nGET / HTTP/1.1\r\n${H}\r\n`, head: { target: "/" } },
    {
      name: "HTTP/1.0 without Host",
      text: "GET / HTTP/1.0\r\n\r\n",
      head: { minor: 0, authority: "", keepAlive: false },
    },
    {
      name: "HTTP/1.0 that asks to stay",
      text: "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
      head: { keepAlive: true },
    },
    {
      name: "close",
      text: `GET / HTTP/1.1\r\n${H}Connection: close\r\n\r\n`,
      head: { keepAlive: false, connectionNames: [] },
    },
    {
      name: "close beats keep-alive",
      text: `GET / HTTP/1.1\r\n${H}Connection: keep-alive, close\r\n\r\n`,
      head: { keepAlive: false },
    },
    {
      name: "names in Connection",
      text: `GET / HTTP/1.1\r\n${H}Connection: X-One, ,x-two\r\nConnection: TE\r\n\r\n`,
      head: { connectionNames: ["x-one", "x-two", "te"] },
    },
    {
      name: "upgrade",
      text: `GET / HTTP/1.1\r\n${H}Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n`,
      head: { upgrade: "websocket" },
    },
    {
      name: "upgrade that Connection does not name",
      text: `GET / HTTP/1.1\r\n${H}Upgrade: websocket\r\n\r\n`,
      head: { upgrade: undefined },
    },
    {
      name: "expectation",
      text: `POST / HTTP/1.1\r\n${H}Expect: 100-Continue\r\n\r\n`,
      head: { expectContinue: true },
    },
    {
      name: "unknown expectation",
      text: `POST / HTTP/1.1\r\n${H}Expect: tea\r\n\r\n`,
      head: { expectContinue: false },
    },
    {
      name: "two expectations",
      text: `POST / HTTP/1.1\r\n${H}Expect: tea\r\nExpect: 100-continue\r\n\r\n`,
      head: { expectContinue: false },
    },
    {
      name: "values are trimmed, names folded, obs-text kept",
      text: `GET / HTTP/1.1\r\n${H}X-A: \t b\xe9 c \t\r\nX-Empty:\r\n\r\n`,
      head: { fields: ["host: a.example", "x-a: b\xe9 c", "x-empty: "] },
    },
    {
      name: "the largest length",
      text: `POST / HTTP/1.1\r\n${H}Content-Length: 9007199254740991\r\n\r\n`,
      head: { contentLength: 9007199254740991 },
    },
    {
      name: "a target of 8192 bytes",
      text: `GET /${"a".repeat(8191)} HTTP/1.1\r\n${H}\r\n`,
      head: { method: "GET" },
    },
    {
      name: "100 fields",
      text: `GET / HTTP/1.1\r\n${H}${"X: y\r\n".repeat(99)}\r\n`,
      head: { method: "GET" },
    },
  ])("reads $name", ({ text, head }) => {
    expect(headOf(text)).toMatchObject(head);
    expect(runRequests(byteByByte(latin1(text)))).toEqual(runRequests([latin1(text)]));
  });

  test("accept a head of exactly the limit and refuse one byte more", () => {
    const frame = `GET / HTTP/1.1\r\n${H}X: \r\n\r\n`;
    const exact = frame.replace("X: ", `X: ${"a".repeat(16_384 - frame.length)}`);
    const over = exact.replace("X: ", "X: a");
    for (const cut of [latin1, (t: string): Buffer[] => byteByByte(latin1(t))]) {
      expect(runRequests([cut(exact)].flat())[0]?.kind).toBe("head");
      expect(runRequests([cut(over)].flat())[0]).toMatchObject({ code: "head_too_large", status: 431 });
    }
  });

  test("do not let a remembered line hide a different one", () => {
    const one = (x: string): string => `GET / HTTP/1.1\r\n${H}X: ${x}\r\nY: z\r\n\r\n`;
    const events = runRequests([latin1(one("abc") + one("ab") + one("abcd") + one("abc\nQ: r"))]);
    const heads = events.flatMap((event) => (event.kind === "head" ? [event.head["fields"]] : []));
    expect(heads).toEqual(["abc", "ab", "abcd"].map((x) => ["host: a.example", `x: ${x}`, "y: z"]));
    expect(events.at(-1)).toMatchObject({ code: "bare_lf" });
  });
});

describe("messages", () => {
  test("give the same events each time they are repeated on a connection, and change nothing for the next", () => {
    fc.assert(
      fc.property(validRequest, validRequest, (one, other) => {
        const alone = [one, other].map((m) => runRequests([latin1(m.wire)]));
        const [a, b] = [alone[0] ?? [], alone[1] ?? []];
        const { wire } = one;
        const events = runRequests([latin1(wire + wire + wire + wire + other.wire + wire + other.wire)]);
        expect(events).toEqual([...a, ...a, ...a, ...a, ...b, ...a, ...b]);
      }),
    );
  });

  test("are judged byte for byte as on a new connection, after heads that repeat", () => {
    const long = "Authorization: Bearer ";
    const head = fc
      .record({
        line: fc.constantFrom("GET /a HTTP/1.1", "GET /b?c=d HTTP/1.1", "DELETE http://a.example/ HTTP/1.0"),
        token: fc
          .constantFrom(3, 300, 2_500, 5_000, 9_000)
          .map((length) => `${long}${"t".repeat(length)}\r\n`),
        first: fc.constantFrom("", "Origin: https://a.example\r\n"),
      })
      .map(({ line, token, first }) => `${line}\r\n${H}${first}${token}Cookie: ${"c".repeat(400)}\r\n\r\n`);
    const change = fc.record({
      at: fc.nat(),
      // Past the end of the first line as well as in it: what changes there must not be hidden by what is kept.
      isEarly: fc.boolean(),
      takeOff: fc.integer({ min: 0, max: 2 }),
      putIn: fc.constantFrom("", "x", " ", "\r", "\n", "\r\n", "\0", ":", "\r\n\r\n", "\u00e9"),
    });
    fc.assert(
      fc.property(
        fc.array(head, { minLength: 1, maxLength: 3 }),
        fc.integer({ min: 1, max: 4 }),
        change,
        (heads, times, how) => {
          const before = heads.flatMap((one) => new Array<string>(times).fill(one));
          const last = before.at(-1) ?? "";
          const at = how.at % (how.isEarly ? 60 : last.length);
          const next = last.slice(0, at) + how.putIn + last.slice(at + how.takeOff);
          const alone = [...before, next].flatMap((text) => runRequests([latin1(text)]));
          expect(runRequests([...before, next].map(latin1))).toEqual(alone);
          expect(runRequests([latin1(before.join("") + next)])).toEqual(alone);
        },
      ),
      { numRuns: 400 },
    );
  });

  test("give the same field for a long line wherever it stands", () => {
    const seen: RequestHead[] = [];
    const parser = new RequestParser(
      {
        onHead: (head) => seen.push(head),
        onBody: () => {},
        onEnd: () => parser.resume(),
        onProblem: ({ message }) => {
          throw new Error(message);
        },
      },
      new FieldCache({ maxEntries: 2, maxBytes: 1 }),
    );
    const long = `Authorization: Bearer ${"t".repeat(1_000)}\r\n`;
    for (const first of ["", "Origin: https://a\r\n", "", "Origin: https://b\r\n", "Origin: https://b\r\n"])
      parser.push(latin1(`GET / HTTP/1.1\r\n${H}${first}${long}\r\n`));
    const tokens = seen.map(({ fields }) => fields.find(({ name }) => name === "authorization"));
    expect(tokens).toHaveLength(5);
    expect(new Set(tokens).size).toBe(1);
  });

  test.each([
    {
      name: "the version",
      next: `POST / HTTP/1.0\r\n${H}Transfer-Encoding: chunked\r\n\r\n`,
      code: "transfer_encoding_in_http10",
    },
    {
      name: "the method",
      next: `CONNECT a.example:80 HTTP/1.1\r\n${H}Transfer-Encoding: chunked\r\n\r\n`,
      code: "unexpected_framing",
    },
    {
      name: "the target's host",
      next: `GET http://b/ HTTP/1.1\r\n${H}Transfer-Encoding: chunked\r\n\r\n`,
      code: "host_mismatch",
    },
    {
      name: "one character",
      next: `POST / HTTP/1.1\r\n${H}Transfer-Encoding: chunkeD, \r\n\r\n`,
      code: "bad_transfer_encoding",
    },
    {
      name: "a further field",
      next: `POST / HTTP/1.1\r\n${H}Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n`,
      code: "both_length_and_chunked",
    },
  ])("a repeated field block does not hide that $name differs", ({ next, code }) => {
    const chunked = `POST / HTTP/1.1\r\n${H}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n`;
    const events = runRequests([latin1(chunked.repeat(4) + next)]);
    expect(events.filter((event) => event.kind === "end")).toHaveLength(4);
    expect(events.at(-1)).toMatchObject({ kind: "problem", code });
  });

  test("requests give the same events however they are cut", () => {
    fc.assert(
      fc.property(
        fc.array(validRequest, { minLength: 1, maxLength: 3 }),
        fc.array(fc.nat(), { maxLength: 8 }),
        (messages, cuts) => {
          const bytes = latin1(messages.map((m) => m.wire).join(""));
          const whole = runRequests([bytes]);
          expect(runRequests(split(bytes, cuts))).toEqual(whole);
          expect(runRequests(byteByByte(bytes))).toEqual(whole);
          expect(whole.filter((event) => event.kind === "head")).toHaveLength(messages.length);
          const bodies = messages.flatMap((m) => (m.body === "" ? [] : [m.body]));
          expect(whole.flatMap((event) => (event.kind === "body" ? [event.text] : []))).toEqual(bodies);
          const trailers = whole.flatMap((event) => (event.kind === "end" ? [event.trailers] : []));
          expect(trailers).toEqual(messages.map((m) => m.trailers));
        },
      ),
      { numRuns: 150 },
    );
  });

  test("responses give the same events however they are cut", () => {
    fc.assert(
      fc.property(validResponse, fc.array(fc.nat(), { maxLength: 8 }), (message, cuts) => {
        const bytes = latin1(message.wire);
        const whole = runResponses(["GET"], [bytes]);
        expect(runResponses(["GET"], split(bytes, cuts))).toEqual(whole);
        expect(whole.at(-1)).toEqual({ kind: "end", trailers: message.trailers });
      }),
      { numRuns: 150 },
    );
  });

  test("are refused when the connection ends inside them", () => {
    fc.assert(
      fc.property(validRequest, fc.nat(), (message, at) => {
        const bytes = latin1(message.wire);
        const cut = 1 + (at % (bytes.length - 1));
        const events = runRequests([bytes.subarray(0, cut)], { eof: true });
        expect(events.at(-1)).toEqual({ kind: "problem", code: "truncated", status: 400 });
      }),
      { numRuns: 150 },
    );
  });
});

describe("pausing", () => {
  test("holds the next request until resume", () => {
    const { events, handler } = recorder(() => {});
    const parser = new RequestParser(handler, new FieldCache());
    const request = latin1(`GET / HTTP/1.1\r\n${H}\r\n`);
    parser.push(Buffer.concat([request, request]));
    expect(events.map((event) => event.kind)).toEqual(["head", "end"]);
    expect(parser.heldBytes).toBe(request.length);
    expect(parser.idle).toBe(false);
    parser.resume();
    expect(events.map((event) => event.kind)).toEqual(["head", "end", "head", "end"]);
    expect(parser.idle).toBe(true);
  });

  test("stops every callback, the end included, and loses nothing", () => {
    const { events, handler } = recorder(() => {});
    const parser = new RequestParser({ ...handler, onHead: () => parser.pause() }, new FieldCache());
    parser.push(latin1(`POST / HTTP/1.1\r\n${H}Content-Length: 4\r\n\r\nab`));
    parser.push(latin1("cd"));
    parser.eof();
    expect(events).toEqual([]);
    parser.resume();
    expect(events).toEqual([
      { kind: "body", text: "abcd" },
      { kind: "end", trailers: [] },
    ]);
  });

  test("close ends everything silently, also from inside a callback", () => {
    const { events, handler } = recorder(() => {});
    const parser = new RequestParser({ ...handler, onHead: () => parser.close() }, new FieldCache());
    parser.push(latin1(`POST / HTTP/1.1\r\n${H}Content-Length: 4\r\n\r\nabcd`));
    parser.eof();
    expect(events).toEqual([]);
  });

  test("a tunnel passes everything on as it comes", () => {
    const { events, handler } = recorder(() => {});
    const parser = new RequestParser(handler, new FieldCache());
    parser.push(latin1(`GET / HTTP/1.1\r\n${H}Connection: upgrade\r\nUpgrade: x\r\n\r\n\0\n\r`));
    expect(parser.tunnel()).toBe(true);
    parser.resume();
    parser.push(latin1("more"));
    parser.eof();
    expect(events.slice(2)).toEqual([
      { kind: "body", text: "\0\n\rmore" },
      { kind: "end", trailers: [] },
    ]);
  });
});

describe("responses", () => {
  const kinds = (events: Recorded[]): string[] => events.map((event) => event.kind);

  test.each([
    {
      name: "HEAD with a length",
      method: "HEAD",
      text: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
      kinds: ["head", "end"],
    },
    {
      name: "HEAD chunked",
      method: "HEAD",
      text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
      kinds: ["head", "end"],
    },
    { name: "204", method: "GET", text: "HTTP/1.1 204 No Content\r\n\r\n", kinds: ["head", "end"] },
    {
      name: "204 with length 0",
      method: "GET",
      text: "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
      kinds: ["head", "end"],
    },
    {
      name: "304 with a length",
      method: "GET",
      text: "HTTP/1.1 304 N\r\nContent-Length: 5\r\n\r\n",
      kinds: ["head", "end"],
    },
    {
      name: "early hints first",
      method: "GET",
      text: "HTTP/1.1 103 E\r\nLink: x\r\n\r\nHTTP/1.1 100 C\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
      kinds: ["informational", "informational", "head", "end"],
    },
    {
      name: "switching protocols",
      method: "GET",
      text: "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n\0opaque",
      kinds: ["head", "body"],
    },
    { name: "no framing", method: "GET", text: "HTTP/1.0 200 OK\r\n\r\nhello", kinds: ["head", "body"] },
  ])("$name", ({ method, text, kinds: expected }) => {
    expect(kinds(answerOf(method, text))).toEqual(expected);
  });

  test("end with the connection when they say nothing else", () => {
    const events = answerOf("GET", "HTTP/1.1 200 OK\r\n\r\nhello", true);
    expect(events[0]).toMatchObject({ head: { untilClose: true, keepAlive: false } });
    expect(events.slice(1)).toEqual([
      { kind: "body", text: "hello" },
      { kind: "end", trailers: [] },
    ]);
  });

  test.each([
    {
      name: "inside a sized body",
      text: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
      code: "truncated",
    },
    {
      name: "inside a chunked body",
      text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
      code: "truncated",
    },
    { name: "inside the head", text: "HTTP/1.1 200 OK\r\n", code: "truncated" },
    { name: "before the first byte", text: "", code: "closed_before_response" },
  ])("are broken when the connection ends $name", ({ text, code }) => {
    expect(answerOf("GET", text, true).at(-1)).toMatchObject({ kind: "problem", code });
  });

  test("read the same whether the connection had such a head before or not", () => {
    const answers = [
      "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
      "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
      "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
      "HTTP/1.1 204 No Content\r\n\r\n",
      `HTTP/1.1 200 OK\r\nX: ${"x".repeat(3_000)}\r\nContent-Length: 2\r\n\r\n`,
    ];
    const bodies = ["hi", "h", "1\r\nh\r\n0\r\nT: t\r\n\r\n", "hi", "", "hi"];
    const one = fc.record({ at: fc.nat(answers.length - 1), method: fc.constantFrom("GET", "HEAD") });
    fc.assert(
      fc.property(fc.array(one, { maxLength: 30 }), (sequence) => {
        const { events, handler } = recorder(() => {});
        const kept = new ResponseParser(handler, new FieldCache());
        const alone = sequence.flatMap(({ at, method }) => {
          const bytes = latin1((answers[at] ?? "") + (method === "HEAD" ? "" : (bodies[at] ?? "")));
          kept.expect(method);
          kept.push(bytes);
          return runResponses([method], [bytes]);
        });
        expect(events).toEqual(alone);
        expect(kept.idle).toBe(true);
      }),
    );
  });

  test("are taken only when one is expected", () => {
    const { events, handler } = recorder(() => {});
    const parser = new ResponseParser(handler, new FieldCache());
    expect(parser.idle).toBe(true);
    parser.push(latin1("H"));
    expect(events).toEqual([{ kind: "problem", code: "unexpected_response", status: 400 }]);
  });

  test("tell in onEnd that bytes are left over, so that the connection is not used again", () => {
    const idle: boolean[] = [];
    const { events, handler } = recorder(() => {
      idle.push(parser.idle);
      parser.expect("GET");
    });
    const parser = new ResponseParser(handler, new FieldCache());
    parser.expect("GET");
    const answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    parser.push(latin1(answer));
    parser.push(latin1(answer + answer));
    expect(idle).toEqual([true, false]);
    expect(events.at(-1)).toMatchObject({ code: "unexpected_response" });
    expect(events.filter((event) => event.kind === "end")).toHaveLength(2);
  });
});

test("an unfinished head never holds more than the limit", () => {
  const { handler } = recorder(() => {});
  const parser = new RequestParser(handler, new FieldCache());
  for (const piece of byteByByte(latin1(`GET / HTTP/1.1\r\n${H}X: ${"a".repeat(16_000)}`)))
    parser.push(piece);
  expect(parser.heldBytes).toBeLessThanOrEqual(16_384);
});

test("each problem has a status and one line of text", () => {
  for (const code of HTTP1_PROBLEM_CODES) {
    const { status, message } = http1Problem(code);
    expect([400, 414, 431, 501, 505]).toContain(status);
    expect(message).toMatch(/^[a-zA-Z][^\n]*[^.\n]$/);
  }
});
