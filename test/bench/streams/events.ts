// Server-sent events: how much later an event arrives through a pair than straight from the application. Application
// and reader are in this process, so both read one clock.
import net from "node:net";
import { freePorts } from "../../demo/process.ts";
import { atMost, type BenchRow, median, row } from "../measure.ts";
import type { Application } from "./blobs.ts";
import { type StreamBenchOptions, withLineup } from "./lineup.ts";

const STREAMS = 16;
const EVERY_MS = 20;
/** At a fast pace: what is measured is processes that have run for a while, not their compilers. */
const WARM_UP_EVERY_MS = 2;
const WARM_UP_SECONDS = 5;

/** Sends each connection that asks an event with the time it was sent, as often as its header `every` says. */
async function startEvents(): Promise<Application> {
  const [port = 0] = await freePorts(1);
  const timers = new Set<NodeJS.Timeout>();
  const server = net.createServer((socket) => {
    socket.setNoDelay(true).on("error", () => {});
    socket.once("data", (head) => {
      const everyMs = Number(/\r\nevery: *(\d+)/i.exec(head.toString("latin1"))?.[1]);
      socket.write(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\ntransfer-encoding: chunked\r\n\r\n",
      );
      const timer = setInterval(() => {
        const event = `data: ${performance.now().toFixed(3)} ${"x".repeat(100)}\n\n`;
        socket.write(`${event.length.toString(16)}\r\n${event}\r\n`);
      }, everyMs);
      timers.add(timer);
      socket.on("close", () => clearInterval(timer));
    });
  });
  await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve));
  return {
    port,
    close: () => {
      for (const timer of timers) clearInterval(timer);
      server.close();
    },
  };
}

/** Delays in milliseconds of the events that arrived within `seconds`. */
async function listen(
  port: number,
  headers: readonly string[],
  seconds: number,
  everyMs: number = EVERY_MS,
): Promise<number[]> {
  const delays: number[] = [];
  const sockets: net.Socket[] = [];
  const open = (): void => {
    let text = "";
    const socket = net.connect(port, "127.0.0.1").setNoDelay(true);
    sockets.push(socket);
    socket.on("error", () => {});
    socket.setEncoding("latin1").on("data", (part: string) => {
      const nowMs = performance.now();
      text += part;
      for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
        const sent = /data: ([\d.]+) /.exec(text.slice(0, end))?.[1];
        if (sent !== undefined) delays.push(nowMs - Number(sent));
        text = text.slice(end + 2);
      }
    });
    socket.write(
      `GET /events HTTP/1.1\r\nhost: 127.0.0.1:${port}\r\naccept: text/event-stream\r\nevery: ${everyMs}\r\n${headers.map((line) => `${line}\r\n`).join("")}\r\n`,
    );
  };
  for (let stream = 0; stream < STREAMS; stream++)
    setTimeout(open, (stream * EVERY_MS) / STREAMS + Math.floor(stream / 4));
  await new Promise((resolve) => setTimeout(resolve, 500));
  delays.length = 0;
  await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
  for (const socket of sockets) socket.destroy();
  const expected = (STREAMS * seconds * 1000) / everyMs;
  if (delays.length < expected * 0.5)
    throw new Error(`only ${delays.length} of about ${expected} events arrived`);
  return delays.toSorted((a, b) => a - b);
}

export async function benchEvents({ rounds, seconds, say }: StreamBenchOptions): Promise<BenchRow[]> {
  const events = await startEvents();
  try {
    return await withLineup(events.port, ["envoy", "haproxy", "nginx"], say, async ({ pairs }) => {
      const added = new Map<string, { p50: number[]; p99: number[] }>(
        pairs.map((pair) => [pair.name, { p50: [], p99: [] }]),
      );
      for (const pair of pairs) await listen(pair.port, pair.headers(0), WARM_UP_SECONDS, WARM_UP_EVERY_MS);
      const at = (sorted: readonly number[], share: number) =>
        sorted[Math.floor(sorted.length * share)] ?? Number.NaN;
      for (let round = 0; round < rounds; round++) {
        const direct = await listen(events.port, [], seconds);
        for (const pair of pairs) {
          const delays = await listen(pair.port, pair.headers(0), seconds);
          const p50 = at(delays, 0.5) - at(direct, 0.5);
          const p99 = at(delays, 0.99) - at(direct, 0.99);
          added.get(pair.name)?.p50.push(p50);
          added.get(pair.name)?.p99.push(p99);
          say(
            `events, round ${round + 1}/${rounds}: ${pair.name.padEnd(12)} adds p50 ${p50.toFixed(2)} ms, p99 ${p99.toFixed(2)} ms (without a proxy p99 ${at(direct, 0.99).toFixed(2)} ms)`,
          );
        }
      }
      const of = (name: string, which: "p50" | "p99") => median(added.get(name)?.[which] ?? []);
      return pairs
        .slice(1)
        .flatMap((peer) =>
          (["p50", "p99"] as const).map((which) =>
            row(
              "events",
              `server-sent events, ${STREAMS} streams: added delay ${which}`,
              of("countersign", which),
              "ms",
              { name: peer.name, value: of(peer.name, which) },
              which === "p99" ? atMost("ours", 1, 0.3) : undefined,
            ),
          ),
        );
    });
  } finally {
    events.close();
  }
}
