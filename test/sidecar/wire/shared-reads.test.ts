import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { afterEach, expect, test } from "@jest/globals";
import { SharedReads } from "../../../sidecar/wire/shared-reads.ts";
import { MeshSocket } from "../../../sidecar/wire/socket.ts";

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

/** A connection that we opened, reading through `reads`, and its plain other end. */
async function end(reads: SharedReads): Promise<End> {
  const server = createServer({ allowHalfOpen: true });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const accepted = once(server, "connection");
  const onread = reads.into((chunk) => socket.receive(chunk));
  const raw = connect({ host: "127.0.0.1", port: (server.address() as AddressInfo).port, onread });
  const socket = new MeshSocket(raw);
  const chunks: Buffer[] = [];
  const events: string[] = [];
  let wake = () => {};
  const closed = new Promise<void>((resolve) => {
    socket.attach({
      onData: (chunk) => {
        chunks.push(chunk);
        wake();
      },
      onEnd: () => void events.push("end"),
      onDrain: () => {},
      onClose: () => {
        events.push("close");
        resolve();
      },
    });
  });
  const [far] = (await accepted) as [Socket];
  far.on("error", () => {});
  open.push(raw, far, server);
  const bytes = async (count: number): Promise<string> => {
    while (chunks.reduce((sum, chunk) => sum + chunk.length, 0) < count)
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    return Buffer.concat(chunks).toString("latin1");
  };
  return { socket, far, chunks, bytes, events, closed };
}

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

test("the other end's end and our own are told", async () => {
  const { socket, far, events, closed } = await end(new SharedReads());
  far.end("bye");
  await closed;
  expect(events).toEqual(["end", "close"]);
  expect(socket.closed).toBe(true);
});
