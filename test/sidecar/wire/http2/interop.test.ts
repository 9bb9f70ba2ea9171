// Our codec against node:http2 on real loopback sockets (h2c with prior knowledge), in both roles.

import { once } from "node:events";
import http2 from "node:http2";
import net from "node:net";
import { afterEach, describe, expect, test } from "@jest/globals";
import { FieldCache } from "../../../../sidecar/wire/field-cache.ts";
import { End, join, type TestStream } from "./harness.ts";

const cleanups: (() => void)[] = [];
afterEach(() => {
  for (const cleanup of cleanups.splice(0)) cleanup();
});

/** A server of our codec that echoes bodies, with trailers on `/trailers`. */
async function ourServer(): Promise<{ port: number; ends: End[] }> {
  const ends: End[] = [];
  const server = net.createServer((socket) => {
    const end = join(
      socket,
      (options) =>
        new End(
          "server",
          handlerOf(() => end),
          options,
        ),
    );
    ends.push(end);
    cleanups.push(() => socket.destroy());
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  cleanups.push(() => server.close());
  return { port: (server.address() as net.AddressInfo).port, ends };
}

function handlerOf(endOf: () => End) {
  const answer = (stream: TestStream): void => {
    const path = stream.context?.fields.find(([name]) => name === ":path")?.[1];
    const { connection } = endOf();
    if (path === "/hang") return;
    connection.beginHeaders(stream);
    connection.putStatus(path === "/missing" ? 404 : 200);
    connection.putPair("content-type", "application/octet-stream");
    connection.endHeaders(false);
    const body = Buffer.concat(stream.context?.body ?? []);
    connection.sendData(stream, body, path !== "/trailers");
    if (path === "/trailers") {
      const sendTrailers = (): void => endOf().headers(stream, [["grpc-status", "0"]], true);
      if (stream.queuedBytes === 0) sendTrailers();
      else pending.set(stream, sendTrailers);
    }
  };
  const pending = new Map<TestStream, () => void>();
  return {
    onHeaders: (stream: TestStream, _fields: unknown, ended: boolean) => {
      if (ended) answer(stream);
    },
    onData: (stream: TestStream, chunk: Buffer, ended: boolean) => {
      endOf().connection.consumed(stream, chunk.length);
      if (ended) answer(stream);
    },
    onTrailers: (stream: TestStream) => answer(stream),
    onWritable: (stream: TestStream) => {
      pending.get(stream)?.();
      pending.delete(stream);
    },
  };
}

async function nodeRequest(
  client: http2.ClientHttp2Session,
  path: string,
  body?: Buffer,
): Promise<{ status: number; body: Buffer; trailers: http2.IncomingHttpHeaders }> {
  const request = client.request({ ":path": path, ":method": body === undefined ? "GET" : "POST" });
  let status = 0;
  let trailers: http2.IncomingHttpHeaders = {};
  request.on("response", (headers) => {
    status = headers[":status"] ?? 0;
  });
  request.on("trailers", (headers) => {
    trailers = headers;
  });
  request.end(body);
  const parts: Buffer[] = [];
  for await (const part of request) parts.push(part as Buffer);
  return { status, body: Buffer.concat(parts), trailers };
}

function pattern(bytes: number): Buffer {
  const body = Buffer.alloc(bytes);
  for (let at = 0; at < bytes; at++) body[at] = (at * 31 + (at >> 8)) & 0xff;
  return body;
}

describe("our server and the client of node:http2", () => {
  async function connect(): Promise<{ client: http2.ClientHttp2Session; ends: End[] }> {
    const { port, ends } = await ourServer();
    const client = http2.connect(`http://127.0.0.1:${port}`);
    client.on("error", () => undefined);
    cleanups.push(() => client.destroy());
    return { client, ends };
  }

  test("answers requests with and without a body, and an error status", async () => {
    const { client } = await connect();
    expect((await nodeRequest(client, "/a")).status).toBe(200);
    expect((await nodeRequest(client, "/missing")).status).toBe(404);
    expect((await nodeRequest(client, "/a", Buffer.from("hello"))).body.toString()).toBe("hello");
  });

  test("carries 3 MB both ways through the windows", async () => {
    const { client } = await connect();
    const body = pattern(3_000_000);
    expect((await nodeRequest(client, "/a", body)).body.equals(body)).toBe(true);
  });

  test("sends trailers", async () => {
    const { client } = await connect();
    const answer = await nodeRequest(client, "/trailers", pattern(1000));
    expect(answer.trailers["grpc-status"]).toBe("0");
  });

  test("serves 100 concurrent streams with bodies of their own", async () => {
    const { client } = await connect();
    const bodies = Array.from({ length: 100 }, (_, n) => pattern(20_000 + n));
    const answers = await Promise.all(bodies.map((body) => nodeRequest(client, "/a", body)));
    expect(answers.every((answer, n) => answer.body.equals(bodies[n]!))).toBe(true);
  });

  test("sees a reset by the client", async () => {
    const { client, ends } = await connect();
    const request = client.request({ ":path": "/hang" });
    request.on("error", () => undefined);
    await nodeRequest(client, "/a");
    request.close(http2.constants.NGHTTP2_CANCEL);
    await nodeRequest(client, "/a");
    expect(ends[0]?.events).toContain("reset 1 8");
  });

  test("drains with GOAWAY: what is open ends, then the connection closes cleanly", async () => {
    const { client, ends } = await connect();
    await nodeRequest(client, "/a");
    const slow = client.request({ ":path": "/a", ":method": "POST" });
    slow.write("x");
    await nodeRequest(client, "/a");
    ends[0]?.connection.goaway(0);
    slow.end("y");
    const parts: Buffer[] = [];
    for await (const part of slow) parts.push(part as Buffer);
    expect(Buffer.concat(parts).toString()).toBe("xy");
    if (!client.closed) await once(client, "close");
    expect(client.closed).toBe(true);
  });
});

describe("our client and the server of node:http2", () => {
  async function connect(
    listener: (request: http2.Http2ServerRequest, response: http2.Http2ServerResponse) => void,
  ): Promise<{ end: End; server: http2.Http2Server; until: (done: () => boolean) => Promise<void> }> {
    const server = http2.createServer(listener);
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const socket = net.connect((server.address() as net.AddressInfo).port, "127.0.0.1");
    await once(socket, "connect");
    const end = join(socket, (options) => new End("client", {}, options));
    cleanups.push(
      () => socket.destroy(),
      () => server.close(),
    );
    const until = async (done: () => boolean): Promise<void> => {
      while (!done()) await new Promise((resolve) => setImmediate(resolve));
    };
    return { end, server, until };
  }

  test("sends requests with indexed fields again and again", async () => {
    const { end, until } = await connect(
      (request, response) => void response.end(String(request.headers["x-proof"])),
    );
    const field = new FieldCache().get("x-proof", "p".repeat(900));
    for (let n = 0; n < 50; n++) {
      const stream = end.connection.openStream(end.newExchange())!;
      end.connection.beginHeaders(stream);
      end.connection.putPair(":method", "GET");
      end.connection.putPair(":scheme", "http");
      end.connection.putPair(":authority", "a.example");
      end.connection.putPair(":path", `/${n}`);
      end.connection.putField(field);
      end.connection.endHeaders(true);
      await until(() => end.exchanges[n]?.ended === true);
    }
    expect(end.exchanges.every((e) => Buffer.concat(e.body).toString() === "p".repeat(900))).toBe(true);
  });

  test("uploads and downloads 2 MB at once", async () => {
    const { end, until } = await connect((request, response) => void request.pipe(response));
    const body = pattern(2_000_000);
    const stream = end.request([[":method", "POST"], ...postRest("/echo")], false);
    expect(end.connection.sendData(stream, body, true)).toBe(false);
    await until(() => end.exchanges[0]?.ended === true);
    expect(Buffer.concat(end.exchanges[0]!.body).equals(body)).toBe(true);
  });

  test("receives trailers, informational responses and resets", async () => {
    const { end, until } = await connect((request, response) => {
      if (request.url === "/reset") response.stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR);
      else {
        response.writeEarlyHints({ link: "</a.css>; rel=preload" });
        response.addTrailers({ "grpc-status": "7" });
        response.end("body");
      }
    });
    end.request([[":method", "GET"], ...postRest("/")]);
    await until(() => end.exchanges[0]?.ended === true);
    expect(end.exchanges[0]?.trailers).toEqual([["grpc-status", "7"]]);
    expect(end.events.some((event) => event.startsWith("informational 1 :status=103"))).toBe(true);
    end.request([[":method", "GET"], ...postRest("/reset")]);
    await until(() => end.exchanges[1]?.reset !== undefined);
    expect(end.exchanges[1]?.reset).toBe(2);
  });

  test("runs 100 streams at once", async () => {
    const { end, until } = await connect((request, response) => void request.pipe(response));
    for (let n = 0; n < 100; n++) {
      const stream = end.request([[":method", "POST"], ...postRest(`/${n}`)], false);
      end.connection.sendData(stream, pattern(10_000 + n), true);
    }
    await until(() => end.exchanges.every((exchange) => exchange.ended));
    expect(end.exchanges.map((e) => Buffer.concat(e.body).length)).toEqual(
      Array.from({ length: 100 }, (_, n) => 10_000 + n),
    );
  });

  test("notices that the server goes away and opens no more streams", async () => {
    const { end, until } = await connect((request, response) => {
      request.stream.session?.goaway(0);
      response.end("last");
    });
    end.request([[":method", "GET"], ...postRest("/")]);
    await until(() => end.closed !== "open");
    expect(end.closed).toBeUndefined();
    expect(end.exchanges[0]?.ended).toBe(true);
    expect(end.connection.openStream(undefined)).toBeUndefined();
  });
});

function postRest(path: string): [string, string][] {
  return [
    [":scheme", "http"],
    [":authority", "a.example"],
    [":path", path],
  ];
}
