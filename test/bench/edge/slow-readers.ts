// A thousand callers that ask for 100 MB each and hardly read: what the sidecars hold for them, and what other callers of
// the same pair notice of it.
import { mkdtempSync, rmSync } from "node:fs";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { runPaced } from "../datapath/load.ts";
import { startOurs } from "../datapath/ours.ts";
import { operationPath } from "../datapath/peers.ts";
import { atMost, type BenchRow, privateBytes, row } from "../measure.ts";

const READERS = 1_000;
const BODY_BYTES = 100_000_000;
const MIB = 1024 * 1024;
const SMALL = operationPath(0);
const LARGE = operationPath(1);
/** Requests of the others. */
const PER_SECOND = 200;
const SECONDS = 10;
/** Every so often a slow reader takes what has come. */
const TRICKLE_MS = 100;
const SETTLE_MS = 8_000;
const CHUNK = Buffer.alloc(65_536, "x");

/** Sends as much as is taken; costs no memory of its own. */
function startApplication(): Promise<Server> {
  const server = createServer((socket) => {
    let left = 0;
    const pump = (): void => {
      while (left > 0) {
        const part = left >= CHUNK.length ? CHUNK : CHUNK.subarray(0, left);
        left -= part.length;
        if (!socket.write(part)) return;
      }
    };
    let text = "";
    socket.on("error", () => {});
    socket.on("drain", pump);
    socket.on("data", (chunk) => {
      text += chunk.toString("latin1");
      for (let end = text.indexOf("\r\n\r\n"); end >= 0; end = text.indexOf("\r\n\r\n")) {
        const isLarge = text.startsWith(`GET ${LARGE} `);
        text = text.slice(end + 4);
        const bytes = isLarge ? BODY_BYTES : 1_024;
        socket.write(`HTTP/1.1 200 OK\r\ncontent-length: ${bytes}\r\n\r\n`);
        left += bytes;
        pump();
      }
    });
  });
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server)));
}

/** @returns when the first bytes of the answer are there; the rest is not read. */
function openReader(port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, "127.0.0.1");
    socket.on("error", reject);
    socket.on("close", () => reject(new Error("the sidecar closed a slow reader")));
    socket.once("data", (chunk) => {
      socket.pause();
      if (chunk.toString("latin1", 0, 12) === "HTTP/1.1 200") resolve(socket);
      else reject(new Error(`a slow reader got ${chunk.toString("latin1", 0, 80)}`));
    });
    socket.write(`GET ${LARGE} HTTP/1.1\r\nhost: slow\r\n\r\n`);
  });
}

export async function benchSlowReaders(say: (text: string) => void): Promise<BenchRow[]> {
  const dir = mkdtempSync(join(tmpdir(), "countersign-slow-"));
  const application = await startApplication();
  // A TCP server's address is an object once it listens.
  const { port } = application.address() as AddressInfo;
  const pair = await startOurs(join(dir, "ours"), port, "parity");
  const readers: Socket[] = [];
  let trickle: NodeJS.Timeout | undefined;
  try {
    const others = (): Promise<{ p99Ms: number; failures: number }> =>
      runPaced(pair.port, [{ path: SMALL, headers: [] }], 16, PER_SECOND, SECONDS);
    await others();
    const before = { client: privateBytes(pair.clientPid), server: privateBytes(pair.serverPid) };
    const alone = await others();
    for (let at = 0; at < READERS; at += 20)
      readers.push(...(await Promise.all(Array.from({ length: 20 }, () => openReader(pair.port)))));
    let next = 0;
    trickle = setInterval(() => {
      for (let n = 0; n < 20; n++) {
        const reader = readers[next++ % readers.length];
        reader?.resume();
        setImmediate(() => reader?.pause());
      }
    }, TRICKLE_MS);
    await delay(SETTLE_MS);
    const beside = await others();
    const grown = {
      client: (privateBytes(pair.clientPid) - before.client) / MIB,
      server: (privateBytes(pair.serverPid) - before.server) / MIB,
    };
    if (alone.failures + beside.failures > 0)
      throw new Error(`${alone.failures} and ${beside.failures} requests of the others failed`);
    say(
      `${READERS} slow readers: ${grown.client.toFixed(0)} and ${grown.server.toFixed(0)} MiB more; others' p99 ${alone.p99Ms.toFixed(1)} ms alone, ${beside.p99Ms.toFixed(1)} ms beside them`,
    );
    return [
      row(
        "edge",
        `${READERS} slow readers of 100 MB, caller's side`,
        grown.client,
        "MiB more",
        undefined,
        atMost("ours", 150, 80),
      ),
      row(
        "edge",
        `${READERS} slow readers of 100 MB, callee's side`,
        grown.server,
        "MiB more",
        undefined,
        atMost("ours", 150, 80),
      ),
      row(
        "edge",
        "p99 of other callers beside them",
        beside.p99Ms,
        "ms",
        { name: "without them", value: alone.p99Ms },
        atMost("ratio", 2, 2),
      ),
    ];
  } finally {
    clearInterval(trickle);
    for (const reader of readers) reader.removeAllListeners("close").destroy();
    await pair.stop();
    application.close();
    rmSync(dir, { recursive: true, force: true });
  }
}
