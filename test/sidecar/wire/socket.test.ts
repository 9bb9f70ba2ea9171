import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { connect as connectTls, createServer as createTlsServer } from "node:tls";
import { afterEach, describe, expect, test } from "@jest/globals";
import { createHttp2Shared } from "../../../sidecar/wire/http2/shared.ts";
import { HIGH_WATER_BYTES, MeshSocket, type SocketHandler } from "../../../sidecar/wire/socket.ts";

const open: (Server | Socket)[] = [];

afterEach(async () => {
  for (const it of open.splice(0)) {
    if ("destroy" in it) it.destroy();
    else await new Promise((resolve) => it.close(resolve));
  }
});

/** Two ends of a loopback connection; the far one is a plain socket. */
async function pair(): Promise<{ near: Socket; far: Socket }> {
  const server = createServer({ allowHalfOpen: true });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const far = connect({
    port: (server.address() as AddressInfo).port,
    host: "127.0.0.1",
    allowHalfOpen: true,
  });
  const [near] = (await once(server, "connection")) as [Socket];
  far.on("error", () => {});
  open.push(far, near, server);
  return { near, far };
}

/** Likewise over TLS; the far end is the client. A pre-shared key spares the certificates. */
async function tlsPair(): Promise<{ near: Socket; far: Socket }> {
  const psk = { psk: Buffer.alloc(16, 7), identity: "test" };
  const shared = { ciphers: "PSK", maxVersion: "TLSv1.2" as const };
  const server = createTlsServer({ ...shared, pskCallback: () => psk.psk });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const port = (server.address() as AddressInfo).port;
  const options = { ...shared, pskCallback: () => psk, checkServerIdentity: () => undefined };
  const far = connectTls({ ...options, port, host: "127.0.0.1" });
  const [near] = (await once(server, "secureConnection")) as [Socket];
  open.push(far, near, server);
  return { near, far };
}

interface Told {
  readonly events: string[];
  readonly handler: SocketHandler;
  readonly closed: Promise<Error | undefined>;
}

function recorder(): Told {
  const events: string[] = [];
  let close: (error: Error | undefined) => void = () => {};
  const closed = new Promise<Error | undefined>((resolve) => {
    close = resolve;
  });
  const handler: SocketHandler = {
    onData: (chunk) => events.push(`data ${chunk.toString("latin1")}`),
    onEnd: () => events.push("end"),
    onDrain: () => events.push("drain"),
    onClose: (error) => {
      events.push("close");
      close(error);
    },
  };
  return { events, handler, closed };
}

async function readAll(socket: Socket): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of socket) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

describe("MeshSocket", () => {
  test("sends strings, small and large buffers in order", async () => {
    const { near, far } = await pair();
    const socket = new MeshSocket(near);
    socket.attach(recorder().handler);
    const parts = [
      "a\xff",
      Buffer.from("small"),
      Buffer.alloc(100_000, "L"),
      "b",
      Buffer.alloc(16_384, "s"),
      "c".repeat(70_000),
      Buffer.from("z"),
    ];
    for (const part of parts) socket.write(part);
    socket.end();
    socket.write("ignored");
    const expected = Buffer.concat(parts.map((p) => (typeof p === "string" ? Buffer.from(p, "latin1") : p)));
    expect(Buffer.compare(await readAll(far), expected)).toBe(0);
  });

  test.each([
    ["TCP", pair],
    ["TLS", tlsPair],
  ])("merges in buffers that are used again once their bytes are sent: %s", async (_, connected) => {
    const { near, far } = await connected();
    const socket = new MeshSocket(near, HIGH_WATER_BYTES, createHttp2Shared());
    socket.attach(recorder().handler);
    const received = readAll(far);
    let expected = "";
    const send = (text: string) => {
      expected += text;
      socket.write(text);
      socket.write(Buffer.from(text.toUpperCase(), "latin1"));
      expected += text.toUpperCase();
    };
    for (let turn = 0; turn < 300; turn++) {
      send(`head ${turn} ${"h".repeat(turn)}`);
      // Some turns hold more than the kernel takes, or runs with a large part between them.
      if (turn % 50 === 0) {
        const large = "L".repeat(400_000);
        expected += large;
        socket.write(Buffer.from(large));
        for (let n = 0; n < 40; n++) send("x".repeat(3_000));
      }
      if (turn % 7 === 0) await new Promise((resolve) => setImmediate(resolve));
      else socket.flush();
    }
    socket.end();
    expect((await received).toString("latin1") === expected).toBe(true);
  });

  test("gathers the writes of a turn into one", async () => {
    const { near, far } = await pair();
    const socket = new MeshSocket(near);
    socket.attach(recorder().handler);
    let writes = 0;
    const write = near.write.bind(near) as (data: string | Buffer) => boolean;
    near.write = ((data: string | Buffer) => {
      writes++;
      return write(data);
    }) as typeof near.write;
    for (let n = 0; n < 100; n++) socket.write(n % 2 === 0 ? "text " : Buffer.from("bytes "));
    expect(writes).toBe(0);
    expect(socket.bufferedBytes).toBe(550);
    const [data] = (await once(far, "data")) as [Buffer];
    expect(writes).toBe(1);
    expect(data).toHaveLength(550);
  });

  test("tells when it has drained, and not from inside write", async () => {
    const { near, far } = await pair();
    const socket = new MeshSocket(near);
    const told = recorder();
    const drained = new Promise<void>((resolve) => {
      socket.attach({ ...told.handler, onDrain: resolve });
    });
    const big = Buffer.alloc(8 * 1024 * 1024, "x");
    socket.write(big);
    expect(socket.bufferedBytes).toBeGreaterThanOrEqual(HIGH_WATER_BYTES);
    far.resume();
    await drained;
    expect(socket.bufferedBytes).toBeLessThan(HIGH_WATER_BYTES);
  });

  // Node's own `drain` comes only from 64 KiB on.
  test("tells of a drain at a mark of its own, however little waited", async () => {
    const { near, far } = await pair();
    const socket = new MeshSocket(near, 1_000);
    const told = recorder();
    const drained = new Promise<void>((resolve) => {
      socket.attach({ ...told.handler, onDrain: resolve });
    });
    // Fills the kernel, so that little waits.
    while (near.writableLength === 0) near.write(Buffer.alloc(65_536));
    const waiting = near.writableLength;
    socket.write("x".repeat(2_000));
    expect(socket.congested).toBe(true);
    await new Promise(setImmediate);
    expect(socket.bufferedBytes).toBe(waiting + 2_000);
    far.resume();
    await drained;
    expect(socket.bufferedBytes).toBeLessThan(1_000);
  });

  test("reports data, half-close and close in order", async () => {
    const { near, far } = await pair();
    const socket = new MeshSocket(near);
    const told = recorder();
    socket.attach({
      ...told.handler,
      onEnd: () => {
        told.handler.onEnd();
        socket.write("answer after the peer's end");
        socket.end();
      },
    });
    far.end("question");
    expect((await readAll(far)).toString()).toBe("answer after the peer's end");
    expect(await told.closed).toBeUndefined();
    expect(told.events).toEqual(["data question", "end", "close"]);
  });

  test("gives an error of the connection to onClose and nothing afterwards", async () => {
    const { near, far } = await pair();
    const socket = new MeshSocket(near);
    const told = recorder();
    socket.attach(told.handler);
    far.resetAndDestroy();
    expect(await told.closed).toMatchObject({ code: "ECONNRESET" });
    socket.write("into the void");
    socket.flush();
    socket.end();
    socket.destroy();
    expect(told.events).toEqual(["close"]);
    expect(socket.closed).toBe(true);
    expect(socket.bufferedBytes).toBe(0);
  });

  test("destroy is idempotent, drops what was gathered and keeps its reason", async () => {
    const { near, far } = await pair();
    const socket = new MeshSocket(near);
    const told = recorder();
    socket.attach(told.handler);
    const reason = new Error("policy");
    socket.write("never sent");
    socket.destroy(reason);
    socket.destroy(new Error("second"));
    expect(await told.closed).toBe(reason);
    expect((await readAll(far)).length).toBe(0);
    expect(told.events).toEqual(["close"]);
    expect(socket.remoteAddress).toBe("127.0.0.1");
    expect(socket.localPort).toBeGreaterThan(0);
  });

  test("pause holds data back until resume", async () => {
    const { near, far } = await pair();
    const socket = new MeshSocket(near);
    const told = recorder();
    socket.attach(told.handler);
    socket.pause();
    far.end("x".repeat(10));
    const other = await pair();
    other.far.end("turns of the loop pass");
    await readAll(other.near);
    expect(told.events).toEqual([]);
    socket.resume();
    socket.end();
    await told.closed;
    expect(told.events).toEqual(["data xxxxxxxxxx", "end", "close"]);
  });

  test("tells a handler that is attached late that the socket has closed", async () => {
    const { near, far } = await pair();
    const socket = new MeshSocket(near);
    socket.destroy();
    await once(near, "close");
    const told = recorder();
    socket.attach(told.handler);
    expect(await told.closed).toBeUndefined();
    far.destroy();
  });

  test("works over TLS: gathered writes, large buffers and the end", async () => {
    const { near, far } = await tlsPair();
    const socket = new MeshSocket(near);
    const told = recorder();
    socket.attach(told.handler);
    const large = Buffer.alloc(300_000, "L");
    for (const part of ["a", Buffer.from("b"), large, "c"]) socket.write(part);
    socket.end();
    const got = await readAll(far);
    expect(Buffer.compare(got, Buffer.concat([Buffer.from("ab"), large, Buffer.from("c")]))).toBe(0);
    expect(await told.closed).toBeUndefined();
  });

  // What the reuse of output buffers rests on: Node could begin to keep what it is given.
  test.each([
    { name: "TLS", make: tlsPair },
    { name: "TCP", make: pair },
  ])("writeNow says when a buffer may be written over ($name)", async ({ make }) => {
    const { near, far } = await make();
    const socket = new MeshSocket(near);
    socket.attach(recorder().handler);
    const all = readAll(far);
    const expected: Buffer[] = [];
    const spare: Buffer[] = [];
    let again = 0;
    // Far more than kernel and stream take at once, so that some writes wait.
    for (let n = 0; n < 2_000; n++) {
      const buffer = spare.pop() ?? Buffer.alloc(16_384);
      buffer.fill(n & 0xff);
      expected.push(Buffer.from(buffer));
      if (n % 3 === 0) await new Promise(setImmediate);
      if (n % 10 === 5) {
        socket.write(`between ${n}`);
        expected.splice(-1, 0, Buffer.from(`between ${n}`));
      }
      if (!socket.writeNow(buffer)) continue;
      again++;
      buffer.fill(0xee);
      spare.push(buffer);
    }
    socket.end();
    expect(again).toBeGreaterThan(10);
    expect(Buffer.compare(await all, Buffer.concat(expected))).toBe(0);
  });
});
