// WebSocket messages there and back through a pair, one under way on each connection: CPU per echo and what the pair adds
// to its time. Both ends are here, made by hand: what is measured is the proxies.
import { createHash } from "node:crypto";
import net from "node:net";
import { freePorts } from "../../demo/process.ts";
import { type BenchRow, cpuMicroseconds, median, row } from "../measure.ts";
import type { Application } from "./blobs.ts";
import { type StreamBenchOptions, withLineup } from "./lineup.ts";

const CONNECTIONS = 16;
const MESSAGE_BYTES = 100;
const KEY = "dGhlIHNhbXBsZSBub25jZQ==";
/** RFC 6455 section 4.2.2; the key that arrives is the last proxy's, since HTTP/2 carries none. */
const acceptOf = (key: string) =>
  createHash("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");
const WARM_UP_SECONDS = 3;

/** A text message as a client sends it (RFC 6455 section 5.2), masked with zeros, so it reads as it stands. */
function clientFrame(): Buffer {
  const frame = Buffer.alloc(6 + MESSAGE_BYTES, 0x61);
  frame.set([0x81, 0x80 | MESSAGE_BYTES, 0, 0, 0, 0]);
  return frame;
}

/** The same as a server sends it. */
function serverFrame(): Buffer {
  const frame = Buffer.alloc(2 + MESSAGE_BYTES, 0x61);
  frame.set([0x81, MESSAGE_BYTES]);
  return frame;
}

/** Answers each client frame with the server's: all have one length, so counting bytes is reading. */
async function startEcho(): Promise<Application> {
  const [port = 0] = await freePorts(1);
  const size = clientFrame().length;
  const echo = serverFrame();
  const server = net.createServer((socket) => {
    let open = false;
    let bytes = 0;
    let head = "";
    socket.setNoDelay(true).on("error", () => {});
    socket.on("data", (chunk) => {
      if (open) bytes += chunk.length;
      else {
        head += chunk.toString("latin1");
        const end = head.indexOf("\r\n\r\n");
        if (end < 0) return;
        open = true;
        bytes = head.length - end - 4;
        const key = /\r\nsec-websocket-key: *(\S+)/i.exec(head)?.[1] ?? "";
        socket.write(
          `HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: ${acceptOf(key)}\r\n\r\n`,
        );
      }
      for (; bytes >= size; bytes -= size) socket.write(echo);
    });
  });
  await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve));
  return { port, close: () => void server.close() };
}

interface Echoes {
  readonly count: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

/** @throws Error when a connection is not switched, or ends. */
function talk(port: number, headers: readonly string[], seconds: number): Promise<Echoes> {
  const times: number[] = [];
  const message = clientFrame();
  const size = serverFrame().length;
  const sockets: net.Socket[] = [];
  return new Promise((resolve, reject) => {
    let over = false;
    const fail = (error: Error): void => {
      over = true;
      for (const socket of sockets) socket.destroy();
      reject(error);
    };
    for (let n = 0; n < CONNECTIONS; n++) {
      const socket = net.connect(port, "127.0.0.1").setNoDelay(true);
      sockets.push(socket);
      let open = false;
      let bytes = 0;
      let head = "";
      let sentMs = 0;
      const send = (): void => {
        sentMs = performance.now();
        socket.write(message);
      };
      socket.on("error", (error) => {
        if (!over) fail(error);
      });
      socket.on("close", () => {
        if (!over) fail(new Error("the connection ended"));
      });
      socket.on("data", (chunk) => {
        if (open) {
          bytes += chunk.length;
          if (bytes < size) return;
          bytes -= size;
          times.push(performance.now() - sentMs);
          send();
          return;
        }
        head += chunk.toString("latin1");
        if (!head.includes("\r\n\r\n")) return;
        if (!head.startsWith("HTTP/1.1 101")) return fail(new Error(`answered ${head.slice(0, 200)}`));
        open = true;
        send();
      });
      socket.write(
        `GET /echo HTTP/1.1\r\nhost: 127.0.0.1:${port}\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: ${KEY}\r\n${headers.map((line) => `${line}\r\n`).join("")}\r\n`,
      );
    }
    setTimeout(() => {
      if (over) return;
      over = true;
      for (const socket of sockets) socket.destroy();
      times.sort((a, b) => a - b);
      const at = (share: number) => times[Math.floor(times.length * share)] ?? Number.NaN;
      if (times.length === 0) reject(new Error("no message came back"));
      else resolve({ count: times.length, p50Ms: at(0.5), p99Ms: at(0.99) });
    }, seconds * 1000);
  });
}

export async function benchWebSocket({ rounds, seconds, say }: StreamBenchOptions): Promise<BenchRow[]> {
  const echo = await startEcho();
  try {
    return await withLineup(echo.port, ["envoy"], say, async ({ pairs }) => {
      const figures = new Map<string, { us: number[]; p50: number[]; p99: number[] }>(
        pairs.map((pair) => [pair.name, { us: [], p50: [], p99: [] }]),
      );
      for (const pair of pairs) await talk(pair.port, pair.headers(0), WARM_UP_SECONDS);
      for (let round = 0; round < rounds; round++)
        for (const pair of pairs) {
          const pids = [pair.clientPid, pair.serverPid];
          const before = pids.map(cpuMicroseconds);
          const echoes = await talk(pair.port, pair.headers(0), seconds);
          const us = pids
            .map((pid, index) => (cpuMicroseconds(pid) - (before[index] ?? 0)) / echoes.count)
            .reduce((sum, one) => sum + one / pids.length, 0);
          const one = figures.get(pair.name);
          one?.us.push(us);
          one?.p50.push(echoes.p50Ms);
          one?.p99.push(echoes.p99Ms);
          say(
            `websocket, round ${round + 1}/${rounds}: ${pair.name.padEnd(12)} ${us.toFixed(1)} µs an echo and process, p50 ${echoes.p50Ms.toFixed(2)} ms, p99 ${echoes.p99Ms.toFixed(2)} ms`,
          );
        }
      const of = (name: string, which: "us" | "p50" | "p99") => median(figures.get(name)?.[which] ?? []);
      return pairs.slice(1).flatMap((peer) =>
        (
          [
            ["us", "CPU per echo, mean of both", "µs"],
            ["p50", "time of an echo p50", "ms"],
            ["p99", "time of an echo p99", "ms"],
          ] as const
        ).map(([which, what, unit]) =>
          row("websocket", `WebSocket, ${CONNECTIONS} connections: ${what}`, of("countersign", which), unit, {
            name: peer.name,
            value: of(peer.name, which),
          }),
        ),
      );
    });
  } finally {
    echo.close();
  }
}
