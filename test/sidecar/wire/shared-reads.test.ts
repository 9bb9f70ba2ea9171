import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { type AddressInfo, connect, createServer, type OnReadOpts, type Server, Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect as connectTls, createServer as createTlsServer } from "node:tls";
import { afterAll, afterEach, describe, expect, test } from "@jest/globals";
import { createHttp2Shared } from "../../../sidecar/wire/http2/shared.ts";
import { SharedReads } from "../../../sidecar/wire/shared-reads.ts";
import { HIGH_WATER_BYTES, MeshSocket } from "../../../sidecar/wire/socket.ts";

const open: (Server | Socket)[] = [];
const folder = mkdtempSync(join(tmpdir(), "countersign-reads-"));
let made = 0;

afterAll(() => rmSync(folder, { recursive: true, force: true }));

afterEach(async () => {
  for (const it of open.splice(0)) {
    if ("destroy" in it) it.destroy();
    else await new Promise((resolve) => it.close(resolve));
  }
});

interface End {
  readonly socket: MeshSocket;
  readonly far: Socket;
  readonly chunks: Buffer[];
  /** Resolves once so many bytes have come. */
  bytes(count: number): Promise<string>;
  readonly events: string[];
  readonly closed: Promise<void>;
}

interface PairOptions {
  readonly onread?: OnReadOpts;
  readonly pauseOnConnect?: boolean;
  /** Of a Unix socket. */
  readonly path?: string;
}

/** Two ends of a loopback connection that allow half-closing; the second was accepted. */
async function pair({ onread, pauseOnConnect = false, path }: PairOptions = {}): Promise<[Socket, Socket]> {
  const server = createServer({ allowHalfOpen: true, pauseOnConnect });
  if (path === undefined) server.listen(0, "127.0.0.1");
  else server.listen(path);
  await once(server, "listening");
  const accepted = once(server, "connection");
  const opened = connect({
    ...(path === undefined ? { host: "127.0.0.1", port: (server.address() as AddressInfo).port } : { path }),
    allowHalfOpen: true,
    ...(onread === undefined ? {} : { onread }),
  });
  const [near] = (await accepted) as [Socket];
  open.push(opened, near, server);
  for (const socket of [opened, near]) socket.on("error", () => {});
  return [opened, near];
}

function record(socket: MeshSocket, far: Socket): End {
  const chunks: Buffer[] = [];
  const events: string[] = [];
  let wake = () => {};
  const closed = new Promise<void>((resolve) => {
    socket.attach({
      onData: (chunk) => {
        chunks.push(chunk);
        wake();
      },
      onEnd: () => {
        events.push("end");
        wake();
      },
      onDrain: () => {},
      onClose: (error) => {
        events.push(error === undefined ? "close" : "broken");
        resolve();
      },
    });
  });
  const bytes = async (count: number): Promise<string> => {
    while (chunks.reduce((sum, chunk) => sum + chunk.length, 0) < count)
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    return Buffer.concat(chunks).toString("latin1");
  };
  return { socket, far, chunks, bytes, events, closed };
}

/** A socket that we opened, reading through `reads`, and its plain other end. */
async function opened(reads: SharedReads): Promise<End> {
  const onread = reads.into((chunk) => socket.receive(chunk));
  const [raw, far] = await pair({ onread });
  const socket: MeshSocket = new MeshSocket(raw);
  return record(socket, far);
}

/** One that we accepted. */
const acceptedWith =
  (options: () => PairOptions) =>
  async (reads: SharedReads): Promise<End> => {
    const [far, raw] = await pair(options());
    const end = record(new MeshSocket(raw, HIGH_WATER_BYTES, { ...createHttp2Shared(), reads }), far);
    raw.resume();
    return end;
  };

const plain = acceptedWith(() => ({}));
const paused = acceptedWith(() => ({ pauseOnConnect: true }));
const unix = acceptedWith(() => ({ pauseOnConnect: true, path: join(folder, `${made++}.sock`) }));

/** One over TLS, whose far end is a client; a pre-shared key spares the certificates. */
async function overTls(reads: SharedReads): Promise<End> {
  const psk = { psk: Buffer.alloc(16, 7), identity: "test" };
  const shared = { ciphers: "PSK", maxVersion: "TLSv1.2" as const };
  const server = createTlsServer({ ...shared, allowHalfOpen: true, pskCallback: () => psk.psk });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const far = connectTls({
    ...{ ...shared, host: "127.0.0.1", port, allowHalfOpen: true },
    ...{ pskCallback: () => psk, checkServerIdentity: () => undefined },
  });
  const [near] = (await once(server, "secureConnection")) as [Socket];
  open.push(far, near, server);
  for (const socket of [far, near]) socket.on("error", () => {});
  return record(new MeshSocket(near, HIGH_WATER_BYTES, { ...createHttp2Shared(), reads }), far);
}

/** One that was looked at first, as where nothing says what is spoken: its first bytes were put back. */
async function sniffed(reads: SharedReads): Promise<End> {
  const [far, raw] = await pair({ pauseOnConnect: true });
  far.write("?");
  raw.resume();
  const [first] = (await once(raw, "data")) as [Buffer];
  raw.removeAllListeners("data");
  raw.pause();
  raw.unshift(first);
  const end = record(new MeshSocket(raw, HIGH_WATER_BYTES, { ...createHttp2Shared(), reads }), far);
  raw.resume();
  expect(await end.bytes(1)).toBe("?");
  end.chunks.length = 0;
  return end;
}

const turns = async (count: number): Promise<void> => {
  for (let turn = 0; turn < count; turn++) await new Promise((resolve) => setImmediate(resolve));
};

const ADOPTING = (): SharedReads => new SharedReads();
/** As in a Node that keeps its option elsewhere. */
const ELSEWHERE = (): SharedReads => new SharedReads(() => undefined);

const WAYS = [
  ["opened", opened, ADOPTING],
  ["accepted", plain, ADOPTING],
  ["accepted paused", paused, ADOPTING],
  ["accepted at a Unix socket", unix, ADOPTING],
  ["accepted over TLS", overTls, ADOPTING],
  ["sniffed", sniffed, ADOPTING],
  ["accepted by a Node that keeps the option elsewhere", paused, ELSEWHERE],
] as const;

describe.each(WAYS)("a socket that was %s", (_, end, createReads) => {
  test("what two sockets read through one buffer stays their own", async () => {
    const reads = createReads();
    const [a, b] = [await end(reads), await end(reads)];
    for (let round = 0; round < 20; round++) {
      a.far.write("a".repeat(500));
      b.far.write("b".repeat(700));
      await Promise.all([a.bytes(500 * (round + 1)), b.bytes(700 * (round + 1))]);
    }
    expect(await a.bytes(10_000)).toBe("a".repeat(10_000));
    expect(await b.bytes(14_000)).toBe("b".repeat(14_000));
  });

  test("more than the buffer comes whole and in order", async () => {
    const { far, bytes } = await end(createReads());
    const sent = Array.from({ length: 60_000 }, (_, at) => String(at).padStart(5, "0")).join("");
    far.write(sent, "latin1");
    expect(await bytes(sent.length)).toBe(sent);
  });

  test("a paused socket is not read, and goes on where it was", async () => {
    const { socket, far, chunks, bytes } = await end(createReads());
    far.write("one");
    await bytes(3);
    socket.pause();
    await new Promise<void>((resolve) => far.write("two", () => resolve()));
    // Two turns of the loop: what could be read would have been.
    for (let turn = 0; turn < 2; turn++) await new Promise((resolve) => setImmediate(resolve));
    expect(chunks).toHaveLength(1);
    socket.resume();
    expect(await bytes(6)).toBe("onetwo");
  });

  test("one that is resumed and paused again in the same turn is not read", async () => {
    const { socket, far, chunks, bytes } = await end(createReads());
    far.write("one");
    await bytes(3);
    socket.pause();
    await new Promise<void>((resolve) => far.write("two", () => resolve()));
    for (let round = 0; round < 3; round++) {
      socket.resume();
      socket.pause();
      await turns(2);
    }
    expect(chunks).toHaveLength(1);
    socket.resume();
    expect(await bytes(6)).toBe("onetwo");
  });

  test("may be paused, resumed and given to another from inside a delivery, and loses nothing", async () => {
    const { socket, far } = await end(createReads());
    const sent = Array.from({ length: 100_000 }, (_, at) => String(at).padStart(6, "0")).join("");
    const parts: string[] = [];
    let [received, handlers] = [0, 0];
    const done = new Promise<void>((resolve) => {
      const take = (): void => {
        const own = ++handlers;
        socket.attach({
          onData: (chunk) => {
            // The last one that was attached, and no other, is told.
            expect(own).toBe(handlers);
            parts.push(chunk.toString("latin1"));
            received += chunk.length;
            socket.pause();
            take();
            if (received % 2 === 0) socket.resume();
            else setImmediate(() => socket.resume());
            if (received === sent.length) resolve();
          },
          onEnd: () => {},
          onDrain: () => {},
          onClose: () => {},
        });
      };
      take();
    });
    far.write(sent, "latin1");
    await done;
    expect(parts.join("") === sent).toBe(true);
    expect(handlers).toBeGreaterThan(2);
  });

  test("destroyed or reset from inside a delivery, it says nothing more", async () => {
    for (const close of ["destroy", "reset"] as const) {
      const { socket, far } = await end(createReads());
      let deliveries = 0;
      const closed = new Promise<void>((resolve) => {
        socket.attach({
          onData: () => {
            deliveries++;
            socket[close]();
          },
          onEnd: () => {},
          onDrain: () => {},
          onClose: () => resolve(),
        });
      });
      far.write("x".repeat(1_000_000));
      await closed;
      await turns(2);
      expect(deliveries).toBe(1);
    }
  });

  test("may go on writing after the other end has finished, and ends in order", async () => {
    const { socket, far, events, closed, bytes } = await end(createReads());
    const told = once(far, "data");
    far.end("bye");
    await bytes(3);
    await turns(2);
    expect(events).toEqual(["end"]);
    socket.write("late");
    socket.end();
    expect(String((await told)[0])).toBe("late");
    await closed;
    expect(events).toEqual(["end", "close"]);
  });

  test("says nothing more once it is destroyed", async () => {
    const { socket, far, chunks, closed, bytes } = await end(createReads());
    far.write("x");
    await bytes(1);
    far.write("y");
    socket.destroy();
    await closed;
    await turns(2);
    expect(chunks).toHaveLength(1);
  });
});

// Unix sockets know no reset, and Node gives none over TLS.
test.each(WAYS.filter(([, end]) => end !== unix && end !== overTls))(
  "a socket that was %s tells when the other end breaks off",
  async (_, end, createReads) => {
    const { far, events, closed, bytes } = await end(createReads());
    far.write("x");
    await bytes(1);
    far.resetAndDestroy();
    await closed;
    expect(events).toEqual(["broken"]);
  },
);

describe("an accepted socket", () => {
  test("is adopted by the Node that runs this, which saves what it promises", async () => {
    const [, near] = await pair();
    const reads = new SharedReads();
    expect(reads.adopts).toBe(true);
    expect(reads.adopt(near, () => {})).toBe(true);
  });

  test("is left as it is by a Node that keeps the option elsewhere, which is said", async () => {
    const [, near] = await pair();
    const reads = new SharedReads(() => undefined);
    expect(reads.adopts).toBe(false);
    expect(reads.adopt(near, () => {})).toBe(false);
  });

  test("is adopted once, and only while nothing of it was read", async () => {
    const reads = new SharedReads();
    const [, once] = await pair();
    expect([reads.adopt(once, () => {}), reads.adopt(once, () => {})]).toEqual([true, false]);
    const [, flowing] = await pair();
    flowing.on("data", () => {});
    expect(reads.adopt(flowing, () => {})).toBe(false);
    const [, waiting] = await pair();
    waiting.pause();
    waiting.unshift(Buffer.from("seen"));
    expect(reads.adopt(waiting, () => {})).toBe(false);
    expect(reads.adopt(new Socket(), () => {})).toBe(false);
  });
});
