// CONNECT in the HTTP/2 codec: tunnels of RFC 9113 section 8.5 and extended CONNECT of RFC 8441.
import { describe, expect, test } from "@jest/globals";
import { End, settle, type TestStream } from "./harness.ts";

const TUNNEL = [
  [":method", "CONNECT"],
  [":authority", "db.data:5432"],
] as const;
const WEBSOCKET = [
  [":method", "CONNECT"],
  [":protocol", "websocket"],
  [":scheme", "http"],
  [":path", "/chat"],
  [":authority", "a.example"],
] as const;

/** A server that keeps its CONNECT streams, and a client that has seen its SETTINGS. */
function ends(): { client: End; server: End; taken: TestStream[] } {
  const taken: TestStream[] = [];
  const server: End = new End("server", {
    onConnect: (stream, fields, endStream) => {
      stream.context = server.newExchange();
      stream.context.fields = fields.map(({ name, value }) => [name, value]);
      stream.context.ended = endStream;
      taken.push(stream);
    },
  });
  const client = new End("client");
  settle(client, server);
  return { client, server, taken };
}

function answer(server: End, stream: TestStream, status: number, length?: string): void {
  server.connection.beginHeaders(stream);
  server.connection.putStatus(status);
  if (length !== undefined) server.connection.putPair("content-length", length);
  server.connection.endHeaders(false);
}

describe("CONNECT over HTTP/2", () => {
  test("is announced by a server that takes it, and only then", () => {
    const { client } = ends();
    expect(client.connection.extendedConnect).toBe(true);
    const plain = { client: new End("client"), server: new End("server") };
    settle(plain.client, plain.server);
    expect(plain.client.connection.extendedConnect).toBe(false);
  });

  test.each([
    { name: "plain", fields: TUNNEL },
    { name: "extended", fields: WEBSOCKET },
  ])("$name: bytes go both ways, and each direction ends on its own", ({ fields }) => {
    const { client, server, taken } = ends();
    const stream = client.request(fields, false);
    settle(client, server);
    const [far] = taken;
    if (far === undefined) throw new Error("no stream");
    answer(server, far, 200);
    client.connection.sendData(stream, Buffer.from("ping"), true);
    settle(client, server);
    expect(Buffer.concat(far.context?.body ?? []).toString()).toBe("ping");
    expect(far.context?.ended).toBe(true);
    server.connection.sendData(far, Buffer.from("pong"), false);
    server.connection.sendData(far, Buffer.from("!"), true);
    settle(client, server);
    expect(Buffer.concat(client.exchanges[0]?.body ?? []).toString()).toBe("pong!");
    expect(client.connection.openStreams).toBe(0);
    expect(server.connection.openStreams).toBe(0);
  });

  test("a content-length of its 2xx answer means nothing, that of a refusal does", () => {
    const { client, server, taken } = ends();
    const [open, refused] = [client.request(TUNNEL, false), client.request(TUNNEL, false)];
    settle(client, server);
    const [first, second] = taken;
    if (first === undefined || second === undefined) throw new Error("no stream");
    answer(server, first, 200, "1");
    answer(server, second, 403, "2");
    for (const far of [first, second]) server.connection.sendData(far, Buffer.from("abc"), false);
    settle(client, server);
    expect(open.context?.reset).toBeUndefined();
    expect(Buffer.concat(open.context?.body ?? []).toString()).toBe("abc");
    expect(refused.context?.reset).toBe(1);
  });

  test("trailers on a tunnel reset it, after a refusal they are trailers", () => {
    const { client, server, taken } = ends();
    const streams = [client.request(TUNNEL, false), client.request(TUNNEL, false)];
    settle(client, server);
    for (const [at, far] of taken.entries()) {
      answer(server, far, at === 0 ? 200 : 403);
      server.headers(far, [["x-end", "1"]], true);
    }
    settle(client, server);
    expect(streams.map((stream) => stream.context?.reset)).toEqual([1, undefined]);
    expect(streams[1]?.context?.trailers).toEqual([["x-end", "1"]]);
    const up = client.request(TUNNEL, false);
    settle(client, server);
    client.headers(up, [["x-end", "1"]], true);
    settle(client, server);
    expect(taken[2]?.context?.reset).toBe(1);
  });

  test.each([
    { name: "a content-length", fields: [...TUNNEL, ["content-length", "3"] as const] },
    { name: "a path without a protocol", fields: [...TUNNEL, [":path", "/"] as const] },
    { name: "a protocol without a path", fields: [...TUNNEL, [":protocol", "websocket"] as const] },
    { name: "no authority", fields: TUNNEL.slice(0, 1) },
  ])("is malformed with $name", ({ fields }) => {
    const { client, server, taken } = ends();
    const stream = client.request(fields, false);
    settle(client, server);
    expect(taken).toEqual([]);
    expect(stream.context?.reset).toBe(1);
  });
});

describe("RST_STREAM(NO_ERROR) behind a whole answer", () => {
  test("waits until flow control has let the answer go", () => {
    const server: End = new End("server", {
      onHeaders: (stream) => {
        server.connection.beginHeaders(stream);
        server.connection.putStatus(200);
        server.connection.endHeaders(false);
        server.connection.sendData(stream, Buffer.alloc(200_000, 1), true);
        server.connection.resetStream(stream, 0);
      },
    });
    const client = new End("client");
    const stream = client.request(
      [
        [":method", "POST"],
        [":scheme", "http"],
        [":path", "/"],
        [":authority", "a"],
      ],
      false,
    );
    settle(client, server);
    expect(Buffer.concat(stream.context?.body ?? []).length).toBe(200_000);
    expect(stream.context?.ended).toBe(true);
    expect(stream.context?.reset).toBe(0);
    expect(server.connection.openStreams).toBe(0);
  });
});
