import { once } from "node:events";
import { type AddressInfo, connect, createServer, type OnReadOpts, type Server, Socket } from "node:net";
import { afterEach, describe, expect, test } from "@jest/globals";
import { createHttp2Shared } from "../../../sidecar/wire/http2/shared.ts";
import { SharedReads } from "../../../sidecar/wire/shared-reads.ts";
import { HIGH_WATER_BYTES, MeshSocket } from "../../../sidecar/wire/socket.ts";

const open: (Server | Socket)[] = [];

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

/** Two ends of a loopback connection that allow half-closing; the second was accepted. */
async function pair(onread?: OnReadOpts): Promise<[Socket, Socket]> {
  const server = createServer({ allowHalfOpen: true });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const accepted = once(server, "connection");
  const opened = connect({
    host: "127.0.0.1",
    port: (server.address() as AddressInfo).port,
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
  const [raw, far] = await pair(onread);
  const socket: MeshSocket = new MeshSocket(raw);
  return record(socket, far);
}

/** One that we accepted. */
async function accepted(reads: SharedReads): Promise<End> {
  const [far, raw] = await pair();
  return record(new MeshSocket(raw, HIGH_WATER_BYTES, { ...createHttp2Shared(), reads }), far);
}

const turns = async (count: number): Promise<void> => {
  for (let turn = 0; turn < count; turn++) await new Promise((resolve) => setImmediate(resolve));
};

describe.each([
  ["opened", opened],
  ["accepted", accepted],
])("a socket that was %s", (_, end) => {
  test("what two sockets read through one buffer stays their own", async () => {
    const reads = new SharedReads();
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
    const { far, bytes } = await end(new SharedReads());
    const sent = Array.from({ length: 60_000 }, (_, at) => String(at).padStart(5, "0")).join("");
    far.write(sent, "latin1");
    expect(await bytes(sent.length)).toBe(sent);
  });

  test("a paused socket is not read, and goes on where it was", async () => {
    const { socket, far, chunks, bytes } = await end(new SharedReads());
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

  test("may go on writing after the other end has finished, and ends in order", async () => {
    const { socket, far, events, closed, bytes } = await end(new SharedReads());
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

  test("tells when the other end breaks off", async () => {
    const { far, events, closed, bytes } = await end(new SharedReads());
    far.write("x");
    await bytes(1);
    far.resetAndDestroy();
    await closed;
    expect(events).toEqual(["broken"]);
  });

  test("says nothing more once it is destroyed", async () => {
    const { socket, far, chunks, closed, bytes } = await end(new SharedReads());
    far.write("x");
    await bytes(1);
    far.write("y");
    socket.destroy();
    await closed;
    await turns(2);
    expect(chunks).toHaveLength(1);
  });
});

describe("an accepted socket", () => {
  test("is adopted by the Node that runs this, which saves what it promises", async () => {
    const [, near] = await pair();
    expect(new SharedReads().adopt(near, () => {})).toBe(true);
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
