// Two sockets joined by a tunnel: back-pressure both ways, half-close, resets.
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { afterEach, beforeEach, describe, expect, test } from "@jest/globals";
import { CREDIT_HIGH_WATER_BYTES, MeshSocket } from "../../../sidecar/wire/socket.ts";
import { SocketStream } from "../../../sidecar/wire/socket-stream.ts";
import { Tunnel } from "../../../sidecar/wire/tunnel.ts";

const TOTAL = 48 * 1024 * 1024;

let server: Server;
let near: Socket;
let far: Socket;
let ends: (string | undefined)[];
let closed: number;
let tunnel: Tunnel;

/** One connection to the server: the end that connected, and the one that was accepted. */
async function pair(): Promise<[Socket, Socket]> {
  const { port } = server.address() as AddressInfo;
  const one = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
  const [[other]] = (await Promise.all([once(server, "connection"), once(one, "connect")])) as [
    [Socket],
    unknown,
  ];
  for (const socket of [one, other]) socket.on("error", () => {});
  return [one, other];
}

beforeEach(async () => {
  server = createServer({ allowHalfOpen: true, pauseOnConnect: true });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const [client, accepted] = await pair();
  const [outward, host] = await pair();
  near = client;
  far = host;
  ends = [];
  closed = 0;
  const nearSocket = new MeshSocket(accepted, CREDIT_HIGH_WATER_BYTES);
  const farSocket = new MeshSocket(outward, CREDIT_HIGH_WATER_BYTES);
  nearSocket.pause();
  farSocket.pause();
  const stream = new SocketStream(farSocket);
  tunnel = new Tunnel(nearSocket, stream, {
    onTunnelOver: (end) => ends.push(end),
    onTunnelClosed: () => closed++,
  });
  tunnel.start();
  stream.join(tunnel);
});
afterEach(async () => {
  near.destroy();
  far.destroy();
  await new Promise((resolve) => server.close(resolve));
});

async function read(socket: Socket): Promise<number> {
  let bytes = 0;
  socket.on("data", (chunk: Buffer) => {
    bytes += chunk.length;
  });
  socket.resume();
  await once(socket, "end");
  return bytes;
}

describe("SocketStream", () => {
  test.each(["to the far side", "to the near side"])(
    "holds bytes %s back while it does not read",
    async (way) => {
      const [from, to] = way === "to the far side" ? [near, far] : [far, near];
      const piece = Buffer.alloc(65_536, 7);
      let written = 0;
      const more = (): void => {
        while (written < TOTAL) {
          written += piece.length;
          if (!from.write(piece)) return;
        }
        from.end();
      };
      from.on("drain", more);
      more();
      // Nothing moves any more.
      for (let last = -1; last !== written; ) {
        last = written;
        await new Promise((resolve) => setTimeout(resolve, 200));
      }
      expect(written).toBeLessThan(TOTAL);
      expect(await read(to)).toBe(TOTAL);
      expect(ends).toEqual([]);
    },
  );

  test("each direction ends on its own, then the tunnel is over", async () => {
    near.end("question");
    const asked = (await once(far.resume(), "data")) as [Buffer];
    await once(far, "end");
    far.end("answer");
    const answered = (await once(near, "data")) as [Buffer];
    await once(near, "close");
    expect([String(asked[0]), String(answered[0]), ends, closed]).toEqual([
      "question",
      "answer",
      [undefined],
      1,
    ]);
    expect([tunnel.received, tunnel.sent]).toEqual([8, 6]);
  });

  test.each(["near", "far"])("what breaks the %s side resets the other", async (which) => {
    const [broken, other] = which === "near" ? [near, far] : [far, near];
    const error = new Promise<NodeJS.ErrnoException>((resolve) => other.once("error", resolve));
    other.resume();
    broken.write("half");
    await once(other, "data");
    broken.resetAndDestroy();
    expect((await error).code).toBe("ECONNRESET");
    expect(ends).toHaveLength(1);
    expect(ends[0]).toBeDefined();
  });

  test("that is cut resets both sides", async () => {
    const errors = Promise.all(
      [near, far].map((socket) => new Promise((resolve) => socket.resume().once("close", resolve))),
    );
    tunnel.cut("enough");
    await errors;
    expect(ends).toEqual(["enough"]);
  });
});
