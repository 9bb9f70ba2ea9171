// Load for the data path: wrk at full speed, and a paced generator for a fixed rate (open loop: requests start when
// they are due, however slow the answers are). Only ever to loopback, bounded in time.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

export interface LoadResult {
  readonly requests: number;
  readonly failures: number;
  readonly requestsPerSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

/** What one request looks like: the target and header lines beside Host. */
export interface Target {
  readonly path: string;
  readonly headers: readonly string[];
}

const luaString = (text: string) => `"${text.replace(/[\\"]/g, "\\$&").replace(/\r\n/g, "\\r\\n")}"`;

function requestText(port: number, target: Target, host = "127.0.0.1"): string {
  return `GET ${target.path} HTTP/1.1\r\nHost: ${host}:${port}\r\n${target.headers.map((line) => `${line}\r\n`).join("")}\r\n`;
}

/** wrk with one thread; targets in rotation. @param origin scheme and host. */
export function runWrk(
  port: number,
  targets: readonly Target[],
  connections: number,
  seconds: number,
  origin = "http://127.0.0.1",
): Promise<LoadResult> {
  const dir = mkdtempSync(join(tmpdir(), "countersign-wrk-"));
  const script = join(dir, "load.lua");
  const host = origin.slice(origin.indexOf("//") + 2);
  const list = targets.map((target) => luaString(requestText(port, target, host))).join(",\n");
  writeFileSync(
    script,
    `local requests = {${list}}
local next = 0
request = function() next = next % #requests + 1; return requests[next] end
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d\\n", summary.requests, e.connect + e.read + e.write + e.timeout + e.status, summary.duration, latency:percentile(50), latency:percentile(99)))
end
`,
  );
  return new Promise((resolve, reject) => {
    const child = spawn(
      "wrk",
      ["-t1", `-c${connections}`, `-d${seconds}s`, "-s", script, `${origin}:${port}/`],
      { stdio: ["ignore", "pipe", "pipe"] },
    );
    let text = "";
    child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
      text += chunk;
    });
    child.stderr.setEncoding("utf8").on("data", (chunk: string) => {
      text += chunk;
    });
    child.on("error", (error) =>
      reject(new Error(`cannot run wrk: ${error.message}; install Debian's package wrk`)),
    );
    child.on("exit", () => {
      rmSync(dir, { recursive: true, force: true });
      const match = /RESULT (\d+) (\d+) (\d+) (\d+) (\d+)/.exec(text);
      if (!match) return reject(new Error(`wrk said:\n${text}`));
      const [requests = 0, failures = 0, durationUs = 1, p50Us = 0, p99Us = 0] = match.slice(1).map(Number);
      resolve({
        requests,
        failures,
        requestsPerSecond: (requests * 1e6) / durationUs,
        p50Ms: p50Us / 1000,
        p99Ms: p99Us / 1000,
      });
    });
  });
}

/**
 * Keeps a fixed rate over `connections` keep-alive connections. A request that finds its connection busy waits in that
 * connection's queue, and its latency counts from when it was due, so a stall is not left out of the figures.
 */
export function runPaced(
  port: number,
  targets: readonly Target[],
  connections: number,
  perSecond: number,
  seconds: number,
): Promise<LoadResult> {
  const texts = targets.map((target) => Buffer.from(requestText(port, target), "latin1"));
  const latencies: number[] = [];
  let failures = 0;
  let sent = 0;
  const total = perSecond * seconds;
  const startMs = performance.now();
  const dueAtMs = (index: number) => startMs + (index * 1000) / perSecond;

  class Connection {
    readonly #socket: net.Socket;
    readonly #queue: number[] = [];
    #busyDueMs = -1;
    #need = -1;
    #held: Buffer = Buffer.alloc(0);
    constructor() {
      this.#socket = net.connect(port, "127.0.0.1").setNoDelay(true);
      this.#socket.on("data", (chunk) => this.#onData(chunk));
      this.#socket.on("error", () => {});
      this.#socket.on("close", () => {
        if (this.#busyDueMs >= 0) failures += 1;
      });
    }
    push(index: number): void {
      this.#queue.push(index);
      if (this.#busyDueMs < 0) this.#next();
    }
    #next(): void {
      const index = this.#queue.shift();
      if (index === undefined) return;
      this.#busyDueMs = dueAtMs(index);
      this.#need = -1;
      const text = texts[index % texts.length];
      if (text) this.#socket.write(text);
    }
    #onData(chunk: Buffer): void {
      this.#held = this.#held.length === 0 ? chunk : Buffer.concat([this.#held, chunk]);
      if (this.#need < 0) {
        const end = this.#held.indexOf("\r\n\r\n");
        if (end < 0) return;
        const head = this.#held.toString("latin1", 0, end);
        this.#need = end + 4 + Number(/\r\ncontent-length: (\d+)/i.exec(head)?.[1] ?? 0);
        if (!head.startsWith("HTTP/1.1 200")) failures += 1;
      }
      if (this.#held.length < this.#need) return;
      this.#held = this.#held.subarray(this.#need);
      latencies.push(performance.now() - this.#busyDueMs);
      this.#busyDueMs = -1;
      this.#next();
    }
    close(): void {
      this.#socket.destroy();
    }
  }

  const pool = Array.from({ length: connections }, () => new Connection());
  return new Promise((resolve) => {
    const timer = setInterval(() => {
      const nowMs = performance.now();
      while (sent < total && dueAtMs(sent) <= nowMs) {
        pool[sent % connections]?.push(sent);
        sent += 1;
      }
      if (sent < total && nowMs < startMs + seconds * 1000 + 5000) return;
      if (latencies.length + failures < total && nowMs < startMs + seconds * 1000 + 5000) return;
      clearInterval(timer);
      for (const one of pool) one.close();
      latencies.sort((a, b) => a - b);
      resolve({
        requests: latencies.length,
        failures: failures + (total - latencies.length),
        requestsPerSecond: latencies.length / seconds,
        p50Ms: latencies[Math.floor(latencies.length * 0.5)] ?? Number.NaN,
        p99Ms: latencies[Math.floor(latencies.length * 0.99)] ?? Number.NaN,
      });
    }, 1);
  });
}
