import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { sniffBytes, sniffSocket } from "../../../sidecar/wire/sniff.ts";

describe("sniffBytes", () => {
  test.each([
    { bytes: "GET / HTTP/1.1\r\n", is: "http" },
    { bytes: "POST http://host/ HTTP/1.1\r\n", is: "http" },
    { bytes: "M-SEARCH * HTTP/1.1\r\n", is: "http" },
    { bytes: "GET /", is: "http" },
    { bytes: "GET ", is: "undecided" },
    { bytes: "GE", is: "undecided" },
    { bytes: "", is: "undecided" },
    { bytes: "GET  /", is: "tcp" },
    { bytes: "GET \r", is: "tcp" },
    { bytes: "get / HTTP/1.1", is: "tcp" },
    { bytes: "AB /", is: "tcp" },
    { bytes: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", is: "h2c" },
    { bytes: "PRI * HTTP/2.0", is: "h2c" },
    { bytes: "PRI * HTTP/2.", is: "undecided" },
    { bytes: "PRI ", is: "undecided" },
    { bytes: "PRI * HTTP/1.1\r\n", is: "tcp" },
    { bytes: "PRI /", is: "tcp" },
    { bytes: "\x16\x03\x01\x02\x00\x01", is: "undecided" },
    { bytes: "\x16", is: "undecided" },
    { bytes: "\x16\x02", is: "tcp" },
    { bytes: "ABCDEFGHIJKLMNOPQ", is: "tcp" },
    { bytes: "\0\0\0\x08\x04\xd2\x16\x2f", is: "tcp" },
  ])("$bytes is $is", ({ bytes, is }) => {
    expect(sniffBytes(Buffer.from(bytes, "latin1"))?.protocol ?? "undecided").toBe(is);
  });

  test("never takes back what it said, however much follows", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), fc.uint8Array({ maxLength: 40 }), (head, more) => {
        const first = sniffBytes(Buffer.from(head));
        if (first !== undefined) expect(sniffBytes(Buffer.concat([head, more]))).toEqual(first);
      }),
    );
  });
});

describe("sniffSocket", () => {
  async function accepted(write: readonly string[]): Promise<{ socket: Socket; close: () => Promise<void> }> {
    const server = createServer({ pauseOnConnect: true }).listen(0, "127.0.0.1");
    await once(server, "listening");
    const client = connect((server.address() as AddressInfo).port, "127.0.0.1");
    for (const part of write) client.write(part);
    const [socket] = (await once(server, "connection")) as [Socket];
    const close = async () => {
      client.destroy();
      socket.destroy();
      server.close();
      await once(server, "close");
    };
    return { socket, close };
  }

  test("gives back every byte it read", async () => {
    const { socket, close } = await accepted(["GE", "T / HTTP/1.1\r\n\r\n"]);
    expect((await sniffSocket(socket, 5_000)).protocol).toBe("http");
    socket.resume();
    const [chunk] = (await once(socket, "data")) as [Buffer];
    expect("GET / HTTP/1.1\r\n\r\n").toContain(chunk.toString());
    expect(chunk.toString()).toMatch(/^GET/);
    await close();
  });

  test("sees what came while this process stood still", async () => {
    const { socket, close } = await accepted(["GET / HTTP/1.1\r\n\r\n"]);
    const told = sniffSocket(socket, 20);
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 200);
    expect((await told).protocol).toBe("http");
    await close();
  });

  test("takes silence for another protocol", async () => {
    const { socket, close } = await accepted([]);
    expect(await sniffSocket(socket, 5)).toEqual({ protocol: "tcp", serverName: undefined });
    await close();
  });
});
