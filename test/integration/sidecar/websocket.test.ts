// WebSocket and other upgrades: HTTP/1.1 at both ends, extended CONNECT between the sidecars (RFC 6455, RFC 8441).
import { createHash } from "node:crypto";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import type { ProgramPolicy } from "../../../sidecar/core/policy/rule.ts";
import { systemClock } from "../../../sidecar/core/runtime/clock.ts";
import { type ServiceSpec, type Sidecar, send, table, World } from "./world.ts";

const NOTEBOOK: ServiceSpec = { namespace: "lab", kind: "notebook", name: "nb-1", ports: [8888] };
const KERNELS: ServiceSpec = { namespace: "ml", kind: "notebook", name: "kernels", ports: [8888] };
const PACK = `
# operation       method  template                          resource               access   level
kernel.channel    WS      /api/kernels/{kernel}/channels    kernel<path:kernel     execute  -
kernel.read       GET     /api/kernels/{kernel}/channels    kernel<path:kernel     read     -
`;
const KEY = "dGhlIHNhbXBsZSBub25jZQ==";

const allow = (op: string, resources?: readonly string[]): ProgramPolicy => ({
  id: "ml/channel",
  name: "channel",
  cluster: false,
  source: "policy",
  action: "Allow",
  enforcement: "Enforce",
  rules: [
    {
      name: "only",
      from: [{ workload: { kinds: ["notebook"] } }],
      operations: [
        {
          op,
          ...(resources === undefined ? {} : { resources }),
        },
      ],
    },
  ],
});

let world: World;
const servers: Server[] = [];
const sockets: Socket[] = [];

beforeEach(async () => {
  world = await World.create();
});
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  await world.close();
  for (const server of servers.splice(0)) server.close();
});

/** An application that is called with each whole request head, and with the socket behind it. */
async function application(
  onHead: (head: string, socket: Socket, rest: Buffer) => void,
): Promise<{ port: number; heads: string[] }> {
  const heads: string[] = [];
  const server = createServer((socket) => {
    sockets.push(socket);
    socket.on("error", () => {});
    let bytes = Buffer.alloc(0);
    const onData = (chunk: Buffer): void => {
      bytes = Buffer.concat([bytes, chunk]);
      const end = bytes.indexOf("\r\n\r\n");
      if (end < 0) return;
      socket.off("data", onData);
      const head = bytes.toString("latin1", 0, end + 4);
      heads.push(head);
      onHead(head, socket, bytes.subarray(end + 4));
    };
    socket.on("data", onData);
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { port: (server.address() as AddressInfo).port, heads };
}

const acceptOf = (head: string): string => {
  const key = /\r\nsec-websocket-key: (\S+)\r\n/i.exec(head)?.[1] ?? "";
  return createHash("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");
};
const agree = (head: string, socket: Socket, more = ""): void => {
  socket.write(
    `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${acceptOf(head)}\r\n${more}\r\n`,
  );
};

interface Pair {
  readonly caller: Sidecar;
  readonly callee: Sidecar;
  enforce(policies: readonly ProgramPolicy[]): void;
}

async function pair(appPort: number, policies = [allow("kernel.channel")]): Promise<Pair> {
  const bundle = world.authority.bundle.json;
  const callee = await world.sidecar(KERNELS, { appPort });
  const caller = await world.sidecar(NOTEBOOK);
  const enforce = (list: readonly ProgramPolicy[]): void => {
    const result = callee.plane.setTable(table({ self: KERNELS, policies: list, bundle, pack: PACK }));
    if (!result.ok) throw new Error(result.error);
  };
  enforce(policies);
  caller.plane.setTable(
    table({
      self: NOTEBOOK,
      services: [{ service: KERNELS, meshPort: callee.meshPort }],
      bundle,
      pack: PACK,
    }),
  );
  return { caller, callee, enforce };
}

const handshake = (path = "/api/kernels/k-1/channels", more = "", upgrade = "websocket"): string =>
  `GET http://kernels.ml:8888${path} HTTP/1.1\r\nHost: kernels.ml:8888\r\nUpgrade: ${upgrade}\r\nConnection: Upgrade\r\n` +
  `Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${KEY}\r\n${more}\r\n`;

/** A client's socket with what has come so far. */
class Client {
  readonly socket: Socket;
  bytes = Buffer.alloc(0);
  ended = false;
  closed = false;

  constructor(port: number) {
    this.socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true, noDelay: true });
    sockets.push(this.socket);
    this.socket.on("error", () => {});
    this.socket.on("data", (chunk) => {
      this.bytes = Buffer.concat([this.bytes, chunk]);
    });
    this.socket.on("end", () => {
      this.ended = true;
    });
    this.socket.on("close", () => {
      this.closed = true;
    });
  }

  async until(done: () => boolean): Promise<void> {
    const untilMs = performance.now() + 60_000;
    while (!done()) {
      if (performance.now() > untilMs) throw new Error(`it never came: ${this.bytes.toString("latin1")}`);
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  /** The head of the answer; what is behind it stays in `bytes`. */
  async head(): Promise<string> {
    await this.until(() => this.bytes.includes("\r\n\r\n"));
    const end = this.bytes.indexOf("\r\n\r\n") + 4;
    const head = this.bytes.toString("latin1", 0, end);
    this.bytes = this.bytes.subarray(end);
    return head;
  }
}

describe("a WebSocket", () => {
  test("is agreed on with the keys of each hop, and its bytes pass untouched", async () => {
    const app = await application((head, socket) => {
      agree(
        head,
        socket,
        "Sec-WebSocket-Protocol: v1.kernel.websocket.jupyter.org\r\nSec-WebSocket-Extensions: permessage-deflate\r\n",
      );
      socket.pipe(socket);
    });
    const { caller, callee } = await pair(app.port);
    const client = new Client(caller.proxyPort);
    client.socket.write(
      handshake(
        undefined,
        "Sec-WebSocket-Protocol: v1.kernel.websocket.jupyter.org\r\nSec-WebSocket-Extensions: permessage-deflate\r\nOrigin: http://lab\r\n",
      ),
    );
    const head = (await client.head()).toLowerCase();
    expect(head).toMatch(/^http\/1\.1 101 /);
    expect(head).toContain("\r\nupgrade: websocket\r\n");
    expect(head).toContain("\r\nconnection: upgrade\r\n");
    expect(head).toContain("\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n");
    expect(head).toContain("\r\nsec-websocket-protocol: v1.kernel.websocket.jupyter.org\r\n");
    expect(head).toContain("\r\nsec-websocket-extensions: permessage-deflate\r\n");
    const [asked] = app.heads;
    expect(asked).toMatch(/^GET \/api\/kernels\/k-1\/channels HTTP\/1\.1\r\n/);
    expect(asked?.toLowerCase()).toContain("\r\nsec-websocket-version: 13\r\n");
    expect(asked?.toLowerCase()).toContain("\r\norigin: http://lab\r\n");
    expect(asked?.toLowerCase()).toContain("\r\nconnection: upgrade\r\n");
    expect(asked).not.toContain(KEY);
    expect(asked).not.toMatch(/content-length|transfer-encoding|workload-|countersign-/i);
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.uint8Array({ minLength: 1, maxLength: 5_000 }), { maxLength: 8 }),
        async (chunks) => {
          client.bytes = Buffer.alloc(0);
          const sent = Buffer.concat(chunks);
          for (const chunk of chunks) client.socket.write(chunk);
          await client.until(() => client.bytes.length >= sent.length);
          expect(client.bytes.equals(sent)).toBe(true);
        },
      ),
      { numRuns: 20 },
    );
    client.socket.destroy();
    await client.until(() => callee.plane.inbound.openExchanges === 0);
    const [event] = await callee.audit();
    expect(JSON.stringify(event)).toContain("kernel.channel");
    expect(JSON.stringify(event)).toContain('"statusCode":101');
  });

  test("keeps what the client sends early until the application agrees", async () => {
    let got = "";
    let reply: (() => void) | undefined;
    const app = await application((head, socket, rest) => {
      got += rest.toString("latin1");
      socket.on("data", (chunk) => {
        got += chunk.toString("latin1");
      });
      reply = () => agree(head, socket);
    });
    const { caller } = await pair(app.port);
    const client = new Client(caller.proxyPort);
    client.socket.write(`${handshake()}early`);
    await client.until(() => reply !== undefined);
    await sleep(20);
    expect(got).toBe("");
    reply?.();
    expect(await client.head()).toContain(" 101 ");
    await client.until(() => got === "early");
  });

  test.each([
    {
      name: "a refusal with a body",
      status: 403,
      answer: "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno",
      body: "no",
    },
    {
      name: "a redirect in chunks",
      status: 302,
      answer:
        "HTTP/1.1 302 Found\r\nlocation: /login\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
      body: "no",
    },
    {
      name: "200, as if nothing had been asked",
      status: 200,
      answer: "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
      body: "ok",
    },
    {
      name: "204, which has no body",
      status: 204,
      answer: "HTTP/1.1 204 No Content\r\ncountersign-status: 201\r\n\r\n",
      body: "",
    },
    {
      name: "a failure that pretends to be a success",
      status: 500,
      answer: "HTTP/1.1 500 x\r\ncountersign-status: 200\r\ncontent-length: 2\r\n\r\nno",
      body: "no",
    },
    {
      name: "a wrong accept",
      status: 502,
      answer:
        "HTTP/1.1 101 x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: AAAA\r\n\r\n",
      body: "UPSTREAM_FAILED",
    },
    {
      name: "another protocol than asked for",
      status: 502,
      answer: "HTTP/1.1 101 x\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
      body: "UPSTREAM_FAILED",
    },
  ])("is not agreed on: $name", async ({ answer, status, body }) => {
    const app = await application((_head, socket) => socket.write(answer));
    const { caller } = await pair(app.port);
    const got = await send(caller.proxyPort, handshake());
    expect(got.status).toBe(status);
    expect(got.body).toContain(body);
  });

  test.each([
    { name: "the kernel", path: "/api/kernels/k-2/channels" },
    { name: "the path", path: "/terminals/1" },
  ])("is denied at the handshake by $name, before the application is asked", async ({ path }) => {
    const app = await application((head, socket) => agree(head, socket));
    const { caller } = await pair(app.port, [allow("kernel.channel", ["k-1"])]);
    const got = await send(caller.proxyPort, handshake(path));
    expect(got.status).toBe(403);
    expect(app.heads).toEqual([]);
  });

  test("is another operation than a GET of the same path", async () => {
    const app = await application((_head, socket) =>
      socket.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
    );
    const { caller } = await pair(app.port);
    const get =
      "GET http://kernels.ml:8888/api/kernels/k-1/channels HTTP/1.1\r\nhost: kernels.ml:8888\r\n\r\n";
    expect((await send(caller.proxyPort, get)).status).toBe(403);
  });

  test.each([
    { name: "no key", bytes: handshake().replace(/Sec-WebSocket-Key.*\r\n/, ""), status: 400 },
    { name: "a key that is none", bytes: handshake().replace(KEY, "AAAA"), status: 400 },
    { name: "two keys", bytes: handshake(undefined, `Sec-WebSocket-Key: ${KEY}\r\n`), status: 400 },
    { name: "a body", bytes: `${handshake(undefined, "content-length: 1\r\n")}x`, status: 501 },
    { name: "POST", bytes: handshake().replace("GET", "POST"), status: 501 },
    { name: "two protocols", bytes: handshake(undefined, "", "websocket, h2c"), status: 501 },
    { name: "a protocol with two versions", bytes: handshake(undefined, "", "foo/1/2"), status: 501 },
  ])("a handshake with $name is answered $status", async ({ bytes, status }) => {
    const app = await application((head, socket) => agree(head, socket));
    const { caller } = await pair(app.port);
    expect((await send(caller.proxyPort, bytes)).status).toBe(status);
    expect(app.heads).toEqual([]);
  });

  test("carries the last bytes and the end of either side", async () => {
    let far: Socket | undefined;
    const got: Buffer[] = [];
    const app = await application((head, socket) => {
      far = socket;
      socket.on("data", (chunk) => got.push(chunk));
      agree(head, socket);
    });
    const { caller } = await pair(app.port);
    const first = new Client(caller.proxyPort);
    first.socket.write(handshake());
    await first.head();
    far?.end("\x88\x02\x03\xe8");
    await first.until(() => first.ended);
    expect(first.bytes.toString("latin1")).toBe(
      "\x88\x02\x03\xe8".replace(/[\x80-\xff]/g, (c) => Buffer.from(c).toString("latin1")),
    );
    const second = new Client(caller.proxyPort);
    second.socket.write(handshake());
    await second.head();
    got.length = 0;
    let farEnded = false;
    far?.on("end", () => {
      farEnded = true;
    });
    second.socket.end("bye");
    await second.until(() => farEnded);
    expect(Buffer.concat(got).toString()).toBe("bye");
  });

  test("a reset of the application is no orderly end for the client", async () => {
    let far: Socket | undefined;
    const app = await application((head, socket) => {
      far = socket;
      agree(head, socket);
    });
    const { caller } = await pair(app.port);
    const client = new Client(caller.proxyPort);
    client.socket.write(handshake());
    await client.head();
    far?.resetAndDestroy();
    await client.until(() => client.closed || client.ended);
    expect(client.bytes.length).toBe(0);
  });

  test("lives on in silence, however long", async () => {
    let far: Socket | undefined;
    const app = await application((head, socket) => {
      far = socket;
      agree(head, socket);
    });
    const { caller, callee } = await pair(app.port);
    const client = new Client(caller.proxyPort);
    client.socket.write(handshake());
    await client.head();
    // The mesh connection is asked for a sign of life; nothing else has a limit.
    caller.plane.outbound.sweep(systemClock.monotonicMs() + 86_400_000);
    for (const pool of [callee.plane]) pool.inbound.sweep(systemClock.monotonicMs() + 5_000);
    far?.write("still here");
    await client.until(() => client.bytes.toString() === "still here");
  });
});

describe("another upgrade", () => {
  test("may name a version, which must be the one that is agreed to", async () => {
    const app = await application((head, socket) => {
      const agreed = head.includes("?other") ? "foo/2" : "Foo/1";
      socket.write(`HTTP/1.1 101 x\r\nupgrade: ${agreed}\r\nconnection: upgrade\r\n\r\n`);
      socket.pipe(socket);
    });
    const { caller } = await pair(app.port);
    const client = new Client(caller.proxyPort);
    const plain = (path?: string): string => handshake(path, "", "foo/1").replace(/Sec-.*\r\n/g, "");
    client.socket.write(plain());
    expect((await client.head()).toLowerCase()).toContain("\r\nupgrade: foo/1\r\n");
    expect(app.heads[0]).toContain("\r\nupgrade: foo/1\r\n");
    client.socket.write("echo");
    await client.until(() => client.bytes.toString() === "echo");
    const other = await send(caller.proxyPort, plain("/api/kernels/k-1/channels?other"));
    expect(other.status).toBe(502);
  });

  test("whose answer is an ordinary one leaves the connection as it was", async () => {
    const app = await application((_head, socket) => {
      socket.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    });
    const { caller, callee } = await pair(app.port);
    const client = new Client(caller.proxyPort);
    client.socket.write(handshake());
    expect(await client.head()).toMatch(/^HTTP\/1\.1 200 /);
    await client.until(() => client.bytes.toString() === "ok");
    client.bytes = Buffer.alloc(0);
    client.socket.write(handshake());
    expect(await client.head()).toMatch(/^HTTP\/1\.1 200 /);
    await client.until(() => callee.plane.inbound.openExchanges === 0);
    expect(JSON.stringify((await callee.audit()).at(-1))).toContain('"statusCode":200');
  });

  test.each(["h2c", "HTTP/2.0", "TLS/1.3"])(
    "to HTTP again (%s) is a request like any other",
    async (upgrade) => {
      const app = await application((_head, socket) =>
        socket.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
      );
      const { caller } = await pair(app.port, [allow("kernel.read")]);
      const got = await send(
        caller.proxyPort,
        handshake(undefined, "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n", upgrade).replace(
          /Sec-.*\r\n/g,
          "",
        ),
      );
      expect(got.status).toBe(200);
      expect(app.heads[0]?.toLowerCase()).not.toMatch(/upgrade|http2-settings/);
    },
  );

  test("passes as it is", async () => {
    const app = await application((_head, socket) => {
      socket.write("HTTP/1.1 101 x\r\nupgrade: Custom\r\nconnection: upgrade\r\nx-more: 1\r\n\r\n");
      socket.pipe(socket);
    });
    const { caller } = await pair(app.port);
    const client = new Client(caller.proxyPort);
    client.socket.write(handshake(undefined, "", "custom").replace(/Sec-.*\r\n/g, ""));
    expect((await client.head()).toLowerCase()).toContain("\r\nupgrade: custom\r\nx-more: 1\r\n");
    client.socket.write("echo");
    await client.until(() => client.bytes.toString() === "echo");
  });
});
