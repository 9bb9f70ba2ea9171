// Upgrades where either application speaks HTTP/2: extended CONNECT (RFC 8441) on both its sides, and between the versions.
import { createHash } from "node:crypto";
import { once } from "node:events";
import { type ClientHttp2Session, connect, createServer, type OutgoingHttpHeaders } from "node:http2";
import {
  type AddressInfo,
  createServer as createTcpServer,
  connect as dial,
  type Server,
  Socket,
} from "node:net";
import type { Duplex } from "node:stream";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "@jest/globals";
import type { PortProtocol, ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import { type ServiceSpec, type Sidecar, table, World } from "./world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const KERNELS: ServiceSpec = { namespace: "ml", kind: "notebook", name: "kernels", ports: [8888] };
const PACK = `
# operation       method  template                          resource               access   level
kernel.channel    WS      /api/kernels/{kernel}/channels    kernel<path:kernel     execute  -
kernel.read       GET     /api/kernels/{kernel}/channels    kernel<path:kernel     read     -
`;
const PATH = "/api/kernels/k-1/channels";
const KEY = "dGhlIHNhbXBsZSBub25jZQ==";
const allow = (op: string): ProgramPolicy => ({
  id: "ml/channel",
  name: "channel",
  cluster: false,
  source: "policy",
  action: "Allow",
  enforcement: "Enforce",
  rules: [{ name: "only", operations: [{ op }] }],
});

interface Asked {
  readonly headers: Record<string, unknown>;
  /** What comes behind it. */
  readonly stream: Duplex;
}

let world: World;
let callee: Sidecar;
let caller: Sidecar;
let asked: Asked[] = [];
let answer: "agree" | "refuse" | "ignore" = "agree";
let revision = 0;
const ports = { h2c: 0, bare: 0, http1: 0 };
const servers: Server[] = [];
const streams: Duplex[] = [];
const sessions: ClientHttp2Session[] = [];

async function listen(server: Server): Promise<number> {
  servers.push(server);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return (server.address() as AddressInfo).port;
}

beforeAll(async () => {
  world = await World.create();
  const http2 = createServer({ settings: { enableConnectProtocol: true } });
  http2.on("stream", (stream, headers) => {
    stream.on("error", () => {});
    asked.push({ headers, stream });
    if (headers[":method"] !== "CONNECT" || answer !== "agree") {
      stream.respond({ ":status": answer === "refuse" ? 403 : 200 });
      stream.end("no");
      return;
    }
    stream.respond({ ":status": 200, "sec-websocket-protocol": "v1", "x-app": "h2c" });
    stream.pipe(stream);
  });
  ports.h2c = await listen(http2 as unknown as Server);
  const http1 = createTcpServer({ allowHalfOpen: true }, (socket) => {
    streams.push(socket);
    socket.on("error", () => {});
    socket.once("data", (chunk: Buffer) => {
      const head = chunk.toString("latin1");
      const key = /\r\nsec-websocket-key: (\S+)\r\n/i.exec(head)?.[1];
      asked.push({ headers: { head, key }, stream: socket });
      const accept = createHash("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");
      if (answer === "ignore") socket.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno");
      else if (answer === "refuse") socket.write("HTTP/1.1 403 No\r\ncontent-length: 2\r\n\r\nno");
      else {
        socket.write(
          `HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: ${accept}\r\nSec-WebSocket-Protocol: v1\r\n\r\n`,
        );
        socket.pipe(socket);
      }
    });
  });
  ports.http1 = await listen(http1);
  // HTTP/2 without extended CONNECT beside HTTP/1.1, as many servers have it.
  const bare = createServer();
  const both = createTcpServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
    socket.once("readable", () => {
      const first = (socket.read() ?? Buffer.alloc(0)) as Buffer;
      socket.unshift(first);
      if (first.toString("latin1").startsWith("PRI")) bare.emit("connection", socket);
      else http1.emit("connection", socket);
    });
  });
  ports.bare = await listen(both);
});
afterEach(() => {
  for (const session of sessions.splice(0)) session.destroy();
  for (const stream of streams.splice(0)) stream.destroy();
  answer = "agree";
  asked = [];
});
afterAll(async () => {
  await world.close();
  for (const server of servers) server.close();
});

async function scene(protocol: PortProtocol, appPort: number): Promise<void> {
  const service = { ...KERNELS, protocol };
  callee = await world.sidecar(service, { appPort });
  caller = await world.sidecar(NOTEBOOK);
  permit("kernel.channel", protocol);
  const services = [{ service, meshPort: callee.meshPort }];
  const bundle = world.authority.bundle.json;
  caller.plane.setTable(table({ self: NOTEBOOK, services, bundle, pack: PACK }));
}

function permit(op: string, protocol: PortProtocol): void {
  revision++;
  const bundle = world.authority.bundle.json;
  const self = { ...KERNELS, protocol };
  const made = table({ self, policies: [allow(op)], bundle, pack: PACK, revision });
  expect(callee.plane.setTable(made)).toMatchObject({ ok: true });
}

interface Opened {
  readonly status: number;
  readonly fields: string;
  readonly stream: Duplex;
}

/** A WebSocket of an application that speaks HTTP/2. */
async function overHttp2(headers: OutgoingHttpHeaders = {}): Promise<Opened> {
  const session = connect(`http://127.0.0.1:${caller.proxyPort}`);
  session.on("error", () => {});
  sessions.push(session);
  if (session.remoteSettings.enableConnectProtocol !== true) await once(session, "remoteSettings");
  expect(session.remoteSettings.enableConnectProtocol).toBe(true);
  const stream = session.request({
    ":method": "CONNECT",
    ":protocol": "websocket",
    ":scheme": "http",
    ":authority": "kernels.ml:8888",
    ":path": PATH,
    "sec-websocket-version": "13",
    "sec-websocket-protocol": "v1",
    ...headers,
  });
  stream.on("error", () => {});
  const [fields] = (await once(stream, "response")) as [Record<string, unknown>];
  return { status: Number(fields[":status"]), fields: JSON.stringify(fields), stream };
}

/** The same over HTTP/1.1. */
async function overHttp1(): Promise<Opened> {
  const socket = dial({ port: caller.proxyPort, host: "127.0.0.1", allowHalfOpen: true });
  streams.push(socket);
  socket.write(
    `GET http://kernels.ml:8888${PATH} HTTP/1.1\r\nHost: kernels.ml:8888\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
      `Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${KEY}\r\nSec-WebSocket-Protocol: v1\r\n\r\n`,
  );
  let text = "";
  while (!text.includes("\r\n\r\n")) {
    const [chunk] = (await once(socket, "data")) as [Buffer];
    text += chunk.toString("latin1");
  }
  const end = text.indexOf("\r\n\r\n") + 4;
  if (text.length > end) socket.unshift(Buffer.from(text.slice(end), "latin1"));
  return { status: Number(text.slice(9, 12)), fields: text.slice(0, end).toLowerCase(), stream: socket };
}

async function all(stream: Duplex): Promise<string> {
  const chunks: Buffer[] = [];
  stream.on("data", (chunk: Buffer) => chunks.push(chunk));
  if (!stream.readableEnded) await once(stream, "end");
  return Buffer.concat(chunks).toString("latin1");
}

const OPEN = { http1: overHttp1, h2c: overHttp2 };

describe.each([
  { from: "h2c", to: "h2c" },
  { from: "h2c", to: "http1" },
  { from: "http1", to: "h2c" },
] as const)("a WebSocket from an application over $from to one over $to", ({ from, to }) => {
  const protocol = to === "h2c" ? "h2c" : "http";
  const start = (): Promise<void> => scene(protocol, ports[to]);

  test("is agreed on, carries bytes with back-pressure, and ends in order", async () => {
    await start();
    const { status, fields, stream } = await OPEN[from]();
    expect(status).toBe(from === "h2c" ? 200 : 101);
    expect(fields).toContain("v1");
    if (from === "http1") expect(fields).toContain("s3pplmbitxaq9kygzzhzrbk+xoo=");
    else expect(fields).not.toContain("accept");
    const bytes = "\x82\x01a".repeat(200_000);
    stream.end(Buffer.from(bytes, "latin1"));
    expect(await all(stream)).toBe(bytes);
    const [seen] = asked;
    if (to === "h2c") {
      expect(seen?.headers).toMatchObject({ ":method": "CONNECT", ":protocol": "websocket", ":path": PATH });
      expect(JSON.stringify(seen?.headers)).not.toContain("sec-websocket-key");
    } else expect(seen?.headers["key"]).not.toBe(KEY);
    while (callee.plane.inbound.openExchanges > 0) await new Promise((resolve) => setImmediate(resolve));
    const event = JSON.stringify((await callee.audit()).at(-1));
    for (const said of ["kernel.channel", '"statusCode":101']) expect(event).toContain(said);
  });

  test("is denied at the handshake", async () => {
    await start();
    permit("kernel.read", protocol);
    const { status, stream } = await OPEN[from]();
    expect(status).toBe(403);
    stream.destroy();
    expect(asked).toEqual([]);
  });

  test("may be refused by the application", async () => {
    await start();
    answer = "refuse";
    const { status, stream } = await OPEN[from]();
    expect(status).toBe(403);
    if (from === "h2c") expect(await all(stream)).toBe("no");
    stream.destroy();
    while (callee.plane.inbound.openExchanges + caller.plane.busy > 0)
      await new Promise((resolve) => setImmediate(resolve));
  });

  test("is decided on again", async () => {
    await start();
    const { stream } = await OPEN[from]();
    const ended = all(stream);
    stream.write("\x81\x00", "latin1");
    await once(stream, "data");
    permit("kernel.read", protocol);
    const text = await ended;
    expect(text.slice(4, 6)).toBe("\x03\xf0"); // 1008
  });

  test("is broken off when the application breaks it off", async () => {
    await start();
    const { stream } = await OPEN[from]();
    const failed = new Promise((resolve) => {
      stream.once("error", resolve);
      stream.once("close", () => resolve(undefined));
    });
    stream.resume();
    const far = asked[0]?.stream;
    if (far instanceof Socket) far.resetAndDestroy();
    else far?.destroy(new Error("gone"));
    expect(await failed).toBeDefined();
  });
});

describe("an upgrade over HTTP/2", () => {
  test("goes over HTTP/1.1 to an application whose HTTP/2 takes none", async () => {
    await scene("h2c", ports.bare);
    const { status, stream } = await overHttp1();
    expect(status).toBe(101);
    stream.end("x");
    expect(await all(stream)).toBe("x");
  });

  test("goes to an application over HTTP/2 where the port declares nothing", async () => {
    await scene("auto", ports.h2c);
    const { status, stream } = await overHttp2();
    expect(status).toBe(200);
    stream.end("x");
    expect(await all(stream)).toBe("x");
    expect(asked[0]?.headers).toMatchObject({ ":protocol": "websocket" });
  });

  test("that an application over HTTP/1.1 ignores is a failure, never a tunnel", async () => {
    await scene("http", ports.http1);
    answer = "ignore";
    const { status, fields, stream } = await overHttp2();
    expect(status).toBe(502);
    expect(fields).not.toContain("countersign");
    expect(await all(stream)).toBe("no");
  });

  test.each([
    { name: "to HTTP again", headers: { ":protocol": "h2c" }, status: 400 },
    { name: "to two protocols", headers: { ":protocol": "foo/1/2" }, status: 0 },
    {
      name: "without a protocol",
      headers: { ":protocol": undefined, ":path": undefined, ":scheme": undefined },
      status: 501,
    },
  ])("$name is refused ($status)", async ({ headers, status }) => {
    await scene("http", ports.http1);
    const opened = overHttp2(headers);
    if (status === 0) await expect(opened).rejects.toThrow();
    else expect((await opened).status).toBe(status);
    expect(asked).toEqual([]);
  });
});
