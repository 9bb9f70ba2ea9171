// Both ends of large bodies on loopback: an application that serves and swallows blobs, and a client that fetches and
// sends one. Raw sockets with a reused read buffer, so that the ends are cheap beside the proxies they measure.
import net from "node:net";
import { freePorts } from "../../demo/process.ts";

const CHUNK = Buffer.alloc(262_144, 0x61);
const READ_BYTES = 262_144;
const STALLED_MS = 20_000;

export interface Application {
  readonly port: number;
  close(): void;
}

/** Writes `bytes` as fast as the socket takes them. */
function pour(socket: net.Socket, bytes: number): void {
  let left = bytes;
  const more = (): void => {
    while (left > 0 && !socket.destroyed) {
      const chunk = left >= CHUNK.length ? CHUNK : CHUNK.subarray(0, left);
      left -= chunk.length;
      if (!socket.write(chunk)) return void socket.once("drain", more);
    }
  };
  more();
}

/** Calls `onHead` with the text of a head, then `onBytes` with the number of body bytes as they come. */
function reader(onHead: (head: string) => void, onBytes: (count: number) => void): (chunk: Buffer) => void {
  let text = "";
  let inBody = false;
  return (chunk) => {
    if (inBody) return onBytes(chunk.length);
    text += chunk.toString("latin1");
    const end = text.indexOf("\r\n\r\n");
    if (end < 0) return;
    inBody = true;
    const rest = text.length - end - 4;
    onHead(text.slice(0, end));
    if (rest > 0) onBytes(rest);
  };
}

/** Answers `GET` with `bytes` bytes, and any request with a body once that has arrived. One request per connection. */
export async function startBlobs(bytes: number): Promise<Application> {
  const [port = 0] = await freePorts(1);
  const server = net.createServer((socket) => {
    let left = 0;
    socket.setNoDelay(true).on("error", () => {});
    const answer = (): void => {
      socket.write("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok");
    };
    const read = reader(
      (head) => {
        if (head.startsWith("GET")) {
          socket.write(`HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: ${bytes}\r\n\r\n`);
          pour(socket, bytes);
        } else left = Number(/\r\ncontent-length: *(\d+)/i.exec(head)?.[1] ?? 0);
      },
      (count) => {
        left -= count;
        if (left === 0) answer();
      },
    );
    socket.on("data", read);
  });
  await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve));
  return { port, close: () => void server.close() };
}

/**
 * Moves one blob through what listens on `port`.
 *
 * @param direction `down` fetches it, `up` sends it.
 * @param bytes length of the blob.
 * @param headers further header lines.
 * @returns milliseconds from the request to the last byte (of the answer).
 * @throws Error when the answer is not 200, not whole, or nothing moves for 20 s.
 */
export function moveBlob(
  port: number,
  direction: "down" | "up",
  bytes: number,
  headers: readonly string[],
): Promise<number> {
  return new Promise((resolve, reject) => {
    const startedMs = performance.now();
    let left = -1;
    const finish = (error?: Error): void => {
      socket.destroy();
      if (error === undefined) resolve(performance.now() - startedMs);
      else reject(error);
    };
    const read = reader(
      (head) => {
        if (!head.startsWith("HTTP/1.1 200")) finish(new Error(`answered ${head.slice(0, 200)}`));
        left = Number(/\r\ncontent-length: *(\d+)/i.exec(head)?.[1] ?? Number.NaN);
        if (left !== (direction === "down" ? bytes : 2))
          finish(new Error(`unexpected head ${head.slice(0, 300)}`));
      },
      (count) => {
        left -= count;
        if (left === 0) finish();
      },
    );
    const buffer = Buffer.alloc(READ_BYTES);
    const socket = net.connect({
      port,
      host: "127.0.0.1",
      onread: {
        buffer,
        callback: (count) => {
          read(buffer.subarray(0, count));
          return true;
        },
      },
    });
    socket.setNoDelay(true);
    socket.setTimeout(STALLED_MS, () => finish(new Error(`nothing moved for ${STALLED_MS} ms`)));
    socket.on("error", finish);
    socket.on("close", () => finish(new Error("the connection ended before the answer did")));
    const length = direction === "up" ? `content-length: ${bytes}\r\n` : "";
    socket.write(
      `${direction === "up" ? "PUT" : "GET"} /blob HTTP/1.1\r\nhost: 127.0.0.1:${port}\r\n${length}${headers.map((line) => `${line}\r\n`).join("")}\r\n`,
    );
    if (direction === "up") pour(socket, bytes);
  });
}
