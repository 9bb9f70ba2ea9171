import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { ErrorCode, FrameType, PREFACE } from "../../../../sidecar/wire/http2/frames.ts";
import { createHttp2Shared } from "../../../../sidecar/wire/http2/shared.ts";
import { block, End, frame, framesOf, GET, settle, type TestStream } from "./harness.ts";

const SETTINGS = frame(4, 0, 0);
const HELLO = Buffer.concat([PREFACE, SETTINGS]);
const REQUEST = block(GET);
const POST = block([[":method", "POST"], ...GET.slice(1)]);

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function headers(fields: readonly (readonly [string, string])[], id = 1, flags = 5): Buffer {
  return frame(1, flags, id, block(fields));
}

/** Feeds a server; returns what it answered beyond its greeting. */
function serve(...input: Buffer[]): { end: End; goaway: number | undefined; reset: number | undefined } {
  const end = new End("server");
  end.take();
  end.connection.receive(Buffer.concat([HELLO, ...input]));
  return { end, ...verdict(end.take()) };
}

/** Feeds a client that has one GET open as stream 1. */
function call(method: string, ...input: Buffer[]): ReturnType<typeof serve> {
  const end = new End("client");
  end.request([[":method", method], ...GET.slice(1)]);
  end.take();
  end.connection.receive(Buffer.concat([SETTINGS, ...input]));
  return { end, ...verdict(end.take()) };
}

function verdict(answered: Buffer): { goaway: number | undefined; reset: number | undefined } {
  const frames = framesOf(answered);
  const goaway = frames.find((f) => f.type === FrameType.goaway)?.payload.readUInt32BE(4);
  const reset = frames.find((f) => f.type === FrameType.rstStream)?.payload.readUInt32BE(0);
  return { goaway, reset };
}

const { protocolError, flowControlError, streamClosed, frameSizeError, compressionError, enhanceYourCalm } =
  ErrorCode;

describe("a server ends the connection", () => {
  test.each([
    {
      name: "on a preface of another protocol",
      raw: Buffer.from("GET / HTTP/1.1\r\n\r\n"),
      code: protocolError,
    },
    {
      name: "when SETTINGS do not come first",
      raw: Buffer.concat([PREFACE, frame(6, 0, 0, "0000000000000000")]),
      code: protocolError,
    },
    { name: "when an ACK comes first", raw: Buffer.concat([PREFACE, frame(4, 1, 0)]), code: protocolError },
  ])("$name", ({ raw, code }) => {
    const end = new End("server");
    end.take();
    end.connection.receive(raw);
    expect(verdict(Buffer.concat(end.written)).goaway).toBe(code);
    expect(end.connection.closed).toBe(true);
  });

  test.each([
    { name: "DATA on stream 0", input: frame(0, 0, 0, "00"), code: protocolError },
    { name: "DATA on an idle stream", input: frame(0, 0, 1, "00"), code: protocolError },
    { name: "DATA on a stream of ours", input: frame(0, 0, 2, "00"), code: protocolError },
    {
      name: "DATA with too much padding",
      input: [headers(GET, 1, 4), frame(0, 8, 1, "0500")],
      code: protocolError,
    },
    { name: "an empty padded DATA frame", input: [headers(GET, 1, 4), frame(0, 8, 1)], code: protocolError },
    { name: "HEADERS on stream 0", input: headers(GET, 0), code: protocolError },
    { name: "HEADERS on an even stream", input: headers(GET, 2), code: protocolError },
    { name: "HEADERS with too much padding", input: frame(1, 13, 1, "ff82"), code: protocolError },
    { name: "HEADERS too short for its priority", input: frame(1, 37, 1, "000000"), code: protocolError },
    { name: "a block that cannot be decoded", input: frame(1, 5, 1, "80"), code: compressionError },
    { name: "CONTINUATION without HEADERS", input: frame(9, 4, 1, "82"), code: protocolError },
    {
      name: "another frame within a block",
      input: [frame(1, 1, 1, REQUEST), frame(6, 0, 0, "0000000000000000")],
      code: protocolError,
    },
    {
      name: "CONTINUATION of another stream",
      input: [frame(1, 1, 1, REQUEST), frame(9, 4, 3)],
      code: protocolError,
    },
    {
      name: "too many CONTINUATION frames",
      input: [frame(1, 1, 1, REQUEST), ...Array.from({ length: 40 }, () => frame(9, 0, 1, "82"))],
      code: enhanceYourCalm,
    },
    {
      name: "endless CONTINUATION",
      input: [frame(1, 1, 1), ...Array.from({ length: 4 }, () => frame(9, 0, 1, Buffer.alloc(16_384, 0x82)))],
      code: enhanceYourCalm,
    },
    {
      name: "a stream identifier that goes down",
      input: [headers(GET, 5), headers(GET, 3)],
      code: protocolError,
    },
    { name: "PRIORITY on stream 0", input: frame(2, 0, 0, "0000000000"), code: protocolError },
    { name: "RST_STREAM on an idle stream", input: frame(3, 0, 1, "00000000"), code: protocolError },
    {
      name: "RST_STREAM of a wrong length",
      input: [headers(GET, 1, 4), frame(3, 0, 1, "00")],
      code: frameSizeError,
    },
    { name: "SETTINGS on a stream", input: frame(4, 0, 1), code: protocolError },
    { name: "SETTINGS of a wrong length", input: frame(4, 0, 0, "0001"), code: frameSizeError },
    { name: "an ACK with a payload", input: frame(4, 1, 0, "000100000000"), code: frameSizeError },
    { name: "ENABLE_PUSH of 2", input: frame(4, 0, 0, "000200000002"), code: protocolError },
    { name: "an initial window above 2^31-1", input: frame(4, 0, 0, "000480000000"), code: flowControlError },
    { name: "a maximal frame below 16384", input: frame(4, 0, 0, "000500003fff"), code: protocolError },
    { name: "a maximal frame above 2^24-1", input: frame(4, 0, 0, "000501000000"), code: protocolError },
    { name: "an extended CONNECT setting of 2", input: frame(4, 0, 0, "000800000002"), code: protocolError },
    { name: "PUSH_PROMISE", input: [headers(GET, 1, 4), frame(5, 4, 1, "0000000282")], code: protocolError },
    { name: "PING on a stream", input: frame(6, 0, 1, "0000000000000000"), code: protocolError },
    { name: "PING of a wrong length", input: frame(6, 0, 0, "00"), code: frameSizeError },
    { name: "GOAWAY on a stream", input: frame(7, 0, 1, "0000000000000000"), code: protocolError },
    { name: "GOAWAY that is too short", input: frame(7, 0, 0, "00"), code: frameSizeError },
    { name: "WINDOW_UPDATE by 0", input: frame(8, 0, 0, "00000000"), code: protocolError },
    { name: "WINDOW_UPDATE of a wrong length", input: frame(8, 0, 0, "00"), code: frameSizeError },
    { name: "WINDOW_UPDATE on an idle stream", input: frame(8, 0, 1, "00000001"), code: protocolError },
    { name: "an overflowing window", input: frame(8, 0, 0, u32(0x7fffffff)), code: flowControlError },
    { name: "a frame that is too large", input: frame(0, 0, 1, Buffer.alloc(16_385)), code: frameSizeError },
    {
      name: "a large frame of unknown type",
      input: frame(0xee, 0, 0, Buffer.alloc(16_385)),
      code: frameSizeError,
    },
  ])("on $name", ({ input, code }) => {
    const { end, goaway } = serve(...[input].flat());
    expect(goaway).toBe(code);
    expect(end.closed).toMatchObject({ code });
    end.connection.receive(SETTINGS);
    expect(end.take()).toHaveLength(0);
  });
});

describe("a server resets the stream", () => {
  const without = (name: string) => GET.filter(([known]) => known !== name);
  const replaced = (name: string, value: string) =>
    GET.map((f) => (f[0] === name ? ([name, value] as const) : f));
  test.each([
    { name: "without :method", fields: without(":method") },
    { name: "without :scheme", fields: without(":scheme") },
    { name: "without :path", fields: without(":path") },
    { name: "with an empty :path", fields: replaced(":path", "") },
    { name: "with a relative :path", fields: replaced(":path", "v1") },
    { name: "with a space in :path", fields: replaced(":path", "/a b") },
    { name: "with a fragment in :path", fields: replaced(":path", "/a#b") },
    { name: "with an asterisk for GET", fields: replaced(":path", "*") },
    { name: "with userinfo in :authority", fields: replaced(":authority", "user@host") },
    { name: "with a path in :authority", fields: replaced(":authority", "host/x") },
    { name: "with an empty :authority", fields: replaced(":authority", "") },
    { name: "with a bad :scheme", fields: replaced(":scheme", "ht tp") },
    { name: "with a bad :method", fields: replaced(":method", "GE T") },
    { name: "with :path twice", fields: [...GET, [":path", "/"] as const] },
    { name: "with a pseudo-header after a field", fields: [...GET.slice(1), ["a", "b"] as const, GET[0]!] },
    { name: "with an unknown pseudo-header", fields: [...GET, [":test", "x"] as const] },
    { name: "with :status", fields: [...GET, [":status", "200"] as const] },
    { name: "with an upper-case name", fields: [...GET, ["X-A", "x"] as const] },
    { name: "with CRLF in a value", fields: [...GET, ["a", "x\r\nb: c"] as const] },
    { name: "with connection", fields: [...GET, ["connection", "close"] as const] },
    { name: "with keep-alive", fields: [...GET, ["keep-alive", "1"] as const] },
    { name: "with proxy-connection", fields: [...GET, ["proxy-connection", "close"] as const] },
    { name: "with transfer-encoding", fields: [...GET, ["transfer-encoding", "chunked"] as const] },
    { name: "with upgrade", fields: [...GET, ["upgrade", "websocket"] as const] },
    { name: "with te: gzip", fields: [...GET, ["te", "gzip"] as const] },
    {
      name: "with two content-lengths",
      fields: [...GET, ["content-length", "0"], ["content-length", "0"]] as [string, string][],
    },
    { name: "with a signed content-length", fields: [...GET, ["content-length", "+1"] as const] },
    { name: "with a length and no body", fields: [...GET, ["content-length", "5"] as const] },
    { name: "with CONNECT and a path", fields: replaced(":method", "CONNECT") },
  ])("of a request $name", ({ fields }) => {
    const { end, reset, goaway } = serve(headers(fields));
    expect({ reset, goaway, events: end.events }).toEqual({
      reset: protocolError,
      goaway: undefined,
      events: [],
    });
  });

  test.each([
    {
      name: "a body longer than promised",
      input: [headers([...GET, ["content-length", "1"]], 1, 4), frame(0, 0, 1, "6161")],
      code: protocolError,
    },
    {
      name: "a body shorter than promised",
      input: [headers([...GET, ["content-length", "3"]], 1, 4), frame(0, 1, 1, "6161")],
      code: protocolError,
    },
    {
      name: "trailers before the promised body",
      input: [headers([...GET, ["content-length", "3"]], 1, 4), headers([["a", "b"]])],
      code: protocolError,
    },
    {
      name: "trailers that do not end the stream",
      input: [headers(GET, 1, 4), headers([["a", "b"]], 1, 4)],
      code: protocolError,
    },
    {
      name: "a pseudo-header in trailers",
      input: [headers(GET, 1, 4), headers([[":path", "/"]])],
      code: protocolError,
    },
    {
      name: "content-length in trailers",
      input: [headers(GET, 1, 4), headers([["content-length", "0"]])],
      code: protocolError,
    },
    { name: "DATA after the end", input: [headers(GET), frame(0, 1, 1, "61")], code: streamClosed },
    { name: "HEADERS after the end", input: [headers(GET), headers(GET)], code: streamClosed },
    {
      name: "a stream window update by 0",
      input: [headers(GET, 1, 4), frame(8, 0, 1, "00000000")],
      code: protocolError,
    },
    {
      name: "an overflowing stream window",
      input: [headers(GET, 1, 4), frame(8, 0, 1, u32(0x7fffffff))],
      code: flowControlError,
    },
    {
      name: "PRIORITY of a wrong length",
      input: [headers(GET, 1, 4), frame(2, 0, 1, "00")],
      code: frameSizeError,
    },
    {
      name: "PRIORITY on itself",
      input: [headers(GET, 1, 4), frame(2, 0, 1, "0000000110")],
      code: protocolError,
    },
    {
      name: "HEADERS that depend on themselves",
      input: [frame(1, 37, 1, Buffer.concat([Buffer.from("0000000110", "hex"), REQUEST]))],
      code: protocolError,
    },
  ])("on $name", ({ input, code }) => {
    const { reset, goaway } = serve(...input);
    expect({ reset, goaway }).toEqual({ reset: code, goaway: undefined });
  });

  test("ignores what was in flight for a stream it has reset, and gives its bytes back", () => {
    const end: End = new End("server", { onHeaders: (stream) => end.connection.resetStream(stream, 8) });
    end.connection.receive(Buffer.concat([HELLO, headers(GET, 1, 4)]));
    end.take();
    end.connection.receive(Buffer.concat([frame(0, 0, 1, Buffer.alloc(1000)), headers([["a", "b"]])]));
    expect(verdict(end.take())).toEqual({ goaway: undefined, reset: undefined });
  });
});

describe("a server", () => {
  test("takes padding, priority, CONTINUATION and OPTIONS *", () => {
    const padded = Buffer.concat([Buffer.from("0200000000ff", "hex"), REQUEST, Buffer.alloc(2)]);
    const options = block([[":method", "OPTIONS"], ...GET.slice(1, 3), [":path", "*"]]);
    const { end, goaway } = serve(
      frame(1, 0x2d, 1, padded),
      frame(1, 1, 3, REQUEST.subarray(0, 7)),
      frame(9, 0, 3, REQUEST.subarray(7, 8)),
      frame(9, 4, 3, REQUEST.subarray(8)),
      frame(1, 5, 5, options),
    );
    expect(goaway).toBeUndefined();
    expect(end.exchanges.map((exchange) => exchange.fields.length)).toEqual([4, 4, 4]);
  });

  test("answers 431 to a list that is too large, 501 to CONNECT, and goes on", () => {
    const many = Array.from({ length: 101 }, (_, n): [string, string] => [`x-${n}`, "1"]);
    const connect: [string, string][] = [
      [":method", "CONNECT"],
      [":authority", "db:5432"],
    ];
    const extended: [string, string][] = [
      [":protocol", "websocket"],
      [":method", "CONNECT"],
      ...(GET.slice(1) as [string, string][]),
    ];
    const { end } = serve();
    end.connection.receive(
      Buffer.concat([
        headers([...GET, ...many]),
        headers(connect, 3, 4),
        headers(extended, 5, 4),
        headers(GET, 7),
      ]),
    );
    const answers = framesOf(end.take());
    const statuses = answers.filter((f) => f.type === 1).map((f) => f.payload.subarray(-3).toString());
    expect(statuses).toEqual(["431", "501", "501"]);
    expect(answers.filter((f) => f.type === 3).map((f) => [f.id, f.payload.readUInt32BE(0)])).toEqual([
      [3, 0],
      [5, 0],
    ]);
    expect(end.exchanges).toHaveLength(1);
  });

  test("refuses streams above its limit, so that they may be sent again", () => {
    const end = new End("server", {}, { settings: { maxConcurrentStreams: 2 } });
    end.connection.receive(Buffer.concat([HELLO, headers(GET, 1), headers(GET, 3), headers(GET, 5)]));
    expect(verdict(end.take().subarray(0))).toMatchObject({ reset: ErrorCode.refusedStream });
    expect(end.exchanges).toHaveLength(2);
  });

  test.each([
    { name: "pings", frames: () => frame(6, 0, 0, "0000000000000000") },
    { name: "settings", frames: () => SETTINGS },
    { name: "empty DATA", frames: () => frame(0, 0, 1) },
    { name: "priorities", frames: () => frame(2, 0, 3, "0000000510") },
    { name: "unknown frames", frames: () => frame(0x20, 0, 0) },
    { name: "window updates", frames: () => frame(8, 0, 0, "00000001") },
    {
      name: "rapid resets",
      frames: (n: number) => Buffer.concat([headers(GET, 3 + 2 * n), frame(3, 0, 3 + 2 * n, "00000008")]),
    },
    { name: "requests that make it reset", frames: (n: number) => headers([[":method", "GET"]], 3 + 2 * n) },
  ])("ends a connection that floods with $name", ({ frames }) => {
    const input = Array.from({ length: 5000 }, (_, n) => frames(n));
    const { goaway } = serve(headers(GET, 1, 4), ...input);
    expect(goaway).toBe(enhanceYourCalm);
  });

  test("takes the same frames when they come slowly", () => {
    const { end } = serve();
    for (let n = 0; n < 2000; n++) {
      end.nowMs += 250;
      end.connection.receive(Buffer.concat([SETTINGS, frame(6, 0, 0, "0000000000000000")]));
      end.take();
    }
    expect(end.connection.closed).toBe(false);
  });

  test("ends a connection that sends more than the window", () => {
    const end = new End("server", { onData: () => undefined });
    const data = Array.from({ length: 70 }, (_, n) => frame(0, 0, 1 + 2 * (n % 20), Buffer.alloc(16_384)));
    const open = Array.from({ length: 20 }, (_, n) => headers(GET, 1 + 2 * n, 4));
    end.connection.receive(Buffer.concat([HELLO, ...open, ...data]));
    expect(end.closed).toMatchObject({ code: flowControlError });
  });

  test("resets a stream that sends more than its window", () => {
    const end = new End("server", { onData: () => undefined });
    const data = Array.from({ length: 5 }, () => frame(0, 0, 1, Buffer.alloc(16_384)));
    end.connection.receive(Buffer.concat([HELLO, headers(GET, 1, 4), ...data]));
    expect(end.events.at(-1)).toBe(`reset 1 ${flowControlError}`);
  });
});

describe("a client", () => {
  const OK: [string, string][] = [[":status", "200"]];
  test.each([
    { name: "no :status", input: headers([["a", "b"]]) },
    { name: "a request's pseudo-header", input: headers([...OK, [":path", "/"]]) },
    { name: ":status twice", input: headers([...OK, ...OK]) },
    { name: "a status of 99", input: headers([[":status", "99"]]) },
    { name: "a status of 600", input: headers([[":status", "600"]]) },
    { name: "status 101", input: headers([[":status", "101"]], 1, 4) },
    { name: "an informational response that ends the stream", input: headers([[":status", "103"]]) },
    { name: "DATA before the response", input: frame(0, 1, 1, "61") },
    { name: "a length and no body", input: headers([...OK, ["content-length", "4"]]) },
    { name: "a connection header", input: headers([...OK, ["connection", "close"]]) },
  ])("resets a stream on $name", ({ input }) => {
    expect(call("GET", input)).toMatchObject({ reset: protocolError, goaway: undefined });
  });

  test.each([
    { name: "PUSH_PROMISE", input: frame(5, 4, 1, "0000000282"), code: protocolError },
    { name: "a stream that it did not open", input: headers(OK, 3), code: protocolError },
    { name: "an even stream", input: headers(OK, 2), code: protocolError },
    { name: "ENABLE_PUSH", input: frame(4, 0, 0, "000200000001"), code: protocolError },
  ])("ends the connection on $name", ({ input, code }) => {
    expect(call("GET", input).goaway).toBe(code);
  });

  test("takes a length without a body after HEAD and with 304", () => {
    expect(call("HEAD", headers([...OK, ["content-length", "4"]])).reset).toBeUndefined();
    expect(
      call(
        "GET",
        headers([
          [":status", "304"],
          ["content-length", "4"],
        ]),
      ).reset,
    ).toBeUndefined();
  });

  test("learns which requests a leaving server did not take", () => {
    const end = new End("client");
    const first = end.request(GET);
    end.request(GET);
    end.take();
    end.connection.receive(Buffer.concat([SETTINGS, frame(7, 0, 0, "0000000100000000"), headers(OK)]));
    expect(end.events).toEqual([
      "goaway 1 0",
      `reset 3 ${ErrorCode.refusedStream}`,
      "headers 1 :status=200 true",
    ]);
    expect(first.localClosed && first.remoteClosed).toBe(true);
    end.take();
    expect(end.closed).toBeUndefined();
    expect(end.connection.openStream(undefined)).toBeUndefined();
  });

  test("stays connected to a server that answers early and resets each of a thousand uploads", () => {
    const end = new End("client");
    end.connection.receive(SETTINGS);
    for (let n = 0; n < 1000; n++) {
      const { id } = end.request(POST_FIELDS, false);
      end.connection.receive(Buffer.concat([headers([[":status", "403"]], id), frame(3, 0, id, "00000000")]));
    }
    expect(end.connection.closed).toBe(false);
    expect(end.connection.openStreams).toBe(0);
  });

  test("ends a connection whose server resets closed streams without end", () => {
    expect(call("GET", ...Array.from({ length: 1000 }, () => frame(3, 0, 1, "00000000"))).goaway).toBe(
      enhanceYourCalm,
    );
  });

  test("honours the peer's limit of streams", () => {
    const end = new End("client");
    end.connection.receive(frame(4, 0, 0, "000300000002"));
    expect([1, 2, 3].map(() => end.connection.openStream(undefined) !== undefined)).toEqual([
      true,
      true,
      false,
    ]);
  });

  test("numbers streams in the order of their headers", () => {
    const end = new End("client");
    const first = end.connection.openStream(undefined)!;
    const second = end.connection.openStream(undefined)!;
    end.headers(second, GET);
    end.headers(first, GET);
    expect([second.id, first.id]).toEqual([1, 3]);
  });

  test("reports every open stream when the socket ends", () => {
    const end = new End("client");
    end.request(GET);
    end.connection.eof();
    expect(end.events).toEqual([`reset 1 ${ErrorCode.internalError}`, `closed ${ErrorCode.internalError}`]);
    end.connection.eof();
    expect(end.events).toHaveLength(2);
  });
});

describe("two ends", () => {
  test("move a large body through small windows, in turns, and tell when there is room", () => {
    const server = new End("server", {}, { settings: { maxStreamWindow: 65_536 } });
    const client = new End("client");
    const sizes = [300_000, 200_000, 5];
    const streams = sizes.map(() => client.request(POST_FIELDS, false));
    const room = sizes.map((size, n) => client.connection.sendData(streams[n]!, Buffer.alloc(size, n), true));
    expect(room).toEqual([false, false, true]);
    settle(client, server);
    expect(server.exchanges.map((e) => Buffer.concat(e.body).length)).toEqual(sizes);
    const order = server.events.filter((event) => event.startsWith("data")).map((event) => event.slice(5, 6));
    expect(order.slice(0, 5).join("")).toBe("13513");
  });

  test.each([
    { name: "the window is full", bytes: 300_000, paused: false },
    { name: "DATA is paused", bytes: 10, paused: true },
  ])("write trailers behind the body when $name", ({ bytes, paused }) => {
    const server = new End("server");
    const client = new End("client");
    const stream = client.request(POST_FIELDS, false);
    if (paused) client.connection.pauseData();
    client.connection.sendData(stream, Buffer.alloc(bytes, 1), false);
    client.headers(stream, [["x-digest", "abc"]]);
    client.connection.sendData(stream, Buffer.from("too late"), true);
    const next = client.request(POST_FIELDS);
    client.connection.resumeData();
    settle(client, server);
    const [first, second] = server.exchanges;
    expect(Buffer.concat(first?.body ?? []).length).toBe(bytes);
    expect(first).toMatchObject({ trailers: [["x-digest", "abc"]], ended: true, reset: undefined });
    expect(second).toMatchObject({ ended: true, reset: undefined });
    expect([stream.localClosed, next.localClosed]).toEqual([true, true]);
  });

  test("drop trailers of a stream that is reset before its body is out", () => {
    const server = new End("server", { onData: () => {} }); // gives no credit
    const client = new End("client");
    const stream = client.request(POST_FIELDS, false);
    client.connection.sendData(stream, Buffer.alloc(200_000), false);
    client.headers(stream, [["x-digest", "abc"]]);
    settle(client, server);
    client.connection.resetStream(stream, 8);
    settle(client, server);
    expect(server.exchanges[0]).toMatchObject({ trailers: undefined, reset: 8 });
  });

  test("hold DATA, and nothing else, while paused", () => {
    const server = new End("server");
    const client = new End("client");
    client.connection.pauseData();
    const stream = client.request(POST_FIELDS, false);
    client.connection.sendData(stream, Buffer.from("later"), true);
    settle(client, server);
    expect(server.events).toHaveLength(1);
    client.connection.resumeData();
    settle(client, server);
    expect(server.events.at(-1)).toBe("data 1 later true");
  });

  test("grow a stream's window up to its maximum while the consumer keeps up, counted for the process", () => {
    const shared = createHttp2Shared();
    const server = new End("server", {}, { shared });
    const client = new End("client");
    const stream = client.request(POST_FIELDS, false);
    const push = (times: number): void => {
      for (let n = 0; n < times; n++) {
        client.connection.sendData(stream, Buffer.alloc(65_536), false);
        settle(client, server);
      }
    };
    // Others have nearly all.
    shared.windows.add(24 * 1_048_576 - 4 * 65_536);
    push(40);
    expect(shared.windows.bytes).toBe(24 * 1_048_576);
    shared.windows.give(24 * 1_048_576 - 4 * 65_536);
    push(400);
    expect(shared.windows.bytes).toBe(4_194_304);
    client.connection.resetStream(stream, 8);
    settle(client, server);
    expect(shared.windows.bytes).toBe(0);
  });

  test("grow the connection's window likewise", () => {
    const shared = createHttp2Shared();
    const server = new End("server", {}, { shared });
    const client = new End("client");
    const streams = Array.from({ length: 8 }, () => client.request(POST_FIELDS, false));
    // Nothing is consumed twice at once: what fits into the grown window is more than the first one held.
    let most = 0;
    for (let n = 0; n < 400; n++) {
      for (const stream of streams) client.connection.sendData(stream, Buffer.alloc(65_536), false);
      client.connection.flush();
      const sent = client.written.reduce((sum, part) => sum + part.length, 0);
      most = Math.max(most, sent);
      settle(client, server);
    }
    expect(most).toBeGreaterThan(400_000);
    server.connection.goaway(2);
    expect(shared.windows.bytes).toBe(0);
  });

  test("hold less for a stream while the windows of the process are too much, and more again after that", () => {
    const shared = createHttp2Shared();
    let held = 0;
    let isReading = true;
    let reader: TestStream | undefined;
    const server = new End(
      "server",
      {
        onData: (received, chunk) => {
          reader = received;
          if (isReading) server.connection.consumed(received, chunk.length);
          else held += chunk.length;
        },
      },
      { shared },
    );
    const client = new End("client");
    const stream = client.request(POST_FIELDS, false);
    /** What is held of a body once its reader stops after so many bytes. */
    const heldAfter = (readBytes: number): number => {
      client.connection.sendData(stream, Buffer.alloc(readBytes), false);
      settle(client, server);
      isReading = false;
      client.connection.sendData(stream, Buffer.alloc(1_048_576), false);
      settle(client, server);
      const bytes = held;
      held = 0;
      isReading = true;
      if (reader !== undefined) server.connection.consumed(reader, bytes);
      settle(client, server);
      return bytes;
    };
    shared.windows.add(33 * 1_048_576);
    expect(heldAfter(100)).toBe(65_436);
    const few = heldAfter(100);
    expect(few).toBeGreaterThan(16_384);
    expect(few).toBeLessThanOrEqual(32_768);
    shared.windows.give(33 * 1_048_576);
    expect(heldAfter(1_000_000)).toBeGreaterThan(65_536);
    expect(Buffer.concat(server.exchanges[0]?.body ?? []).length).toBe(1_000_200 + 3 * 1_048_576);
    client.connection.resetStream(stream, 8);
    settle(client, server);
    expect(shared.windows.bytes).toBe(0);
  });

  test.each([
    { name: "the socket goes without a word", end: (end: End) => end.connection.forget(), told: 0 },
    { name: "the connection fails", end: (end: End) => end.connection.goaway(2), told: 21 },
  ])("give back what they held when $name", ({ end, told }) => {
    const shared = createHttp2Shared();
    const server = new End("server", { onData: () => {} }, { shared });
    const client = new End("client", {}, { shared });
    const streams = Array.from({ length: 20 }, () => client.request(POST_FIELDS, false));
    for (const stream of streams) client.connection.sendData(stream, Buffer.alloc(100_000), false);
    settle(client, server);
    expect(shared.windows.bytes).toBe(20 * 65_536);
    expect(shared.queued.bytes).toBe(2_000_000 - 1_048_576);
    for (const one of [client, server]) {
      one.events.length = 0;
      end(one);
      expect(one.events).toHaveLength(told);
    }
    expect([shared.windows.bytes, shared.queued.bytes]).toEqual([0, 0]);
  });

  test("tell a stream to wait for any byte while much of the process is queued", () => {
    const shared = createHttp2Shared();
    const client = new End("client", {}, { shared });
    const server = new End("server");
    client.connection.pauseData();
    const stream = client.request(POST_FIELDS, false);
    expect(client.connection.sendData(stream, Buffer.alloc(10_000), false)).toBe(true);
    shared.queued.add(16 * 1_048_576);
    expect(client.connection.sendData(stream, Buffer.alloc(1), false)).toBe(false);
    client.connection.resumeData();
    settle(client, server);
    expect(client.events).toContain("writable 1");
    expect(shared.queued.bytes).toBe(16 * 1_048_576);
  });

  test("leave what a stream with little window would only queue where it is, and go on in the end", () => {
    const shared = createHttp2Shared();
    shared.queued.add(16 * 1_048_576);
    let reader: TestStream | undefined;
    let held = 0;
    const server = new End("server", {
      onData: (stream, chunk) => {
        reader = stream;
        held += chunk.length;
      },
    });
    const client = new End("client", {}, { shared });
    const stream = client.request(POST_FIELDS, false);
    settle(client, server);
    const send = (bytes: number): boolean => {
      const goesOn = client.connection.sendData(stream, Buffer.alloc(bytes), false);
      settle(client, server);
      client.events.length = 0;
      return goesOn;
    };
    expect(send(16_000)).toBe(true);
    expect([send(16_000), send(16_000), send(15_000)]).toEqual([true, true, false]);
    // The peer may leave it at that: it has 2.5 KiB to give.
    client.connection.sweepWaiting();
    expect(client.events).toEqual(["writable 1"]);
    expect(send(20_000)).toBe(false);
    expect(stream.queuedBytes).toBe(63_000 + 20_000 - 65_536);
    client.connection.sweepWaiting();
    expect(client.events).toEqual([]);
    if (reader !== undefined) server.connection.consumed(reader, held);
    settle(client, server);
    expect(client.events).toEqual(["writable 1"]);
    expect([held, shared.queued.bytes]).toEqual([83_000, 16 * 1_048_576]);
  });

  test("send frames that fill a TLS record", () => {
    const server = new End("server");
    const client = new End("client");
    const stream = client.request(POST_FIELDS, false);
    settle(client, server);
    client.written.length = 0;
    client.connection.sendData(stream, Buffer.alloc(40_000), true);
    client.connection.flush();
    const bytes = Buffer.concat(client.written);
    expect(bytes.readUIntBE(0, 3) + 9).toBe(16_384);
    expect(bytes.readUIntBE(16_384, 3) + 9).toBe(16_384);
  });

  test("use a buffer again once its bytes are taken, and only then", () => {
    const copies: Buffer[] = [];
    const given: ArrayBufferLike[] = [];
    let taken = true;
    const writeNow = (bytes: Buffer): boolean => {
      copies.push(Buffer.from(bytes));
      given.push(bytes.buffer);
      return taken;
    };
    const client = new End("client", {}, { shared: createHttp2Shared(), writeNow });
    const turn = (): void => {
      client.request(GET);
      client.connection.flush();
    };
    turn();
    turn();
    taken = false;
    turn();
    turn();
    expect(given[1]).toBe(given[0]);
    expect(given[2]).toBe(given[0]);
    expect(given[3]).not.toBe(given[0]);
    const server = new End("server");
    for (const part of copies) server.connection.receive(part);
    expect(server.events.filter((event) => event.startsWith("headers"))).toHaveLength(4);
  });

  test("leave without cutting a stream: GOAWAY twice, then the end", () => {
    const server = new End("server");
    const client = new End("client");
    const stream = client.request(POST_FIELDS, false);
    settle(client, server);
    server.connection.goaway(0);
    settle(client, server);
    expect(client.events).toEqual(["goaway 2147483647 0", "goaway 1 0"]);
    expect(server.connection.closed).toBe(false);
    client.connection.sendData(stream, Buffer.from("x"), true);
    settle(client, server);
    const answered = server.exchanges[0];
    expect(answered?.ended).toBe(true);
  });

  test("ask for one flush a turn and write one buffer", () => {
    const client = new End("client");
    for (let n = 0; n < 20; n++) client.request(GET);
    expect(client.flushRequests).toBe(1);
    client.connection.flush();
    expect(client.written).toHaveLength(1);
  });

  test("split a header block that exceeds a frame", () => {
    const server = new End("server", {}, { settings: { maxHeaderListSize: 100_000 } });
    const client = new End("client");
    client.request([...GET, ["x-large", "v".repeat(50_000)]]);
    settle(client, server);
    expect(server.exchanges[0]?.fields.at(-1)?.[1]).toHaveLength(50_000);
  });
});

const POST_FIELDS: readonly (readonly [string, string])[] = [[":method", "POST"], ...GET.slice(1)];

describe("any portions of input", () => {
  const session = Buffer.concat([
    HELLO,
    frame(1, 4, 1, POST),
    frame(0, 8, 1, "026162630000"),
    frame(1, 1, 3, REQUEST.subarray(0, 20)),
    frame(9, 4, 3, REQUEST.subarray(20)),
    frame(6, 0, 0, "0102030405060708"),
    frame(0, 0, 1, Buffer.alloc(500, "d")),
    headers([["grpc-status", "0"]]),
    frame(3, 0, 3, "00000008"),
    headers(GET, 7),
    headers([[":method", "GET"]], 9),
  ]);
  const whole = serveIn([session]);

  function serveIn(parts: readonly Buffer[]): { events: string[]; answered: string } {
    const end = new End("server");
    for (const part of parts) end.connection.receive(part);
    return { events: end.events, answered: end.take().toString("hex") };
  }

  test("give the same events and answers", () => {
    fc.assert(
      fc.property(fc.array(fc.nat(session.length), { maxLength: 30 }), (cuts) => {
        const at = [0, ...cuts.sort((a, b) => a - b), session.length];
        const parts = at.slice(1).map((to, n) => session.subarray(at[n], to));
        expect(serveIn(parts)).toEqual(whole);
      }),
    );
    expect(serveIn([...session].map((byte) => Buffer.from([byte])))).toEqual(whole);
  });
});
