// Unary gRPC calls with 100-byte messages through our pair and Envoy's, loaded by h2load: CPU per call, mean of both
// processes.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { freePorts } from "../../demo/process.ts";
import { startProgram } from "../datapath/program.ts";
import { atMost, type BenchRow, cpuMicroseconds, median, row } from "../measure.ts";
import { type StreamBenchOptions, withLineup } from "../streams/lineup.ts";

const MESSAGE_BYTES = 100;
const WARM_UP_SECONDS = 4;
const LOADS = [
  { connections: 4, streams: 8 },
  { connections: 16, streams: 8 },
] as const;

interface Calls {
  readonly count: number;
  readonly perSecond: number;
}

/** @throws Error when h2load is missing (Debian's nghttp2-client) or a call was not answered with its echo. */
function runH2load(
  port: number,
  { connections, streams }: (typeof LOADS)[number],
  seconds: number,
  bodyFile: string,
  headers: readonly string[],
): Promise<Calls> {
  const fields = ["content-type: application/grpc", "te: trailers", ...headers];
  const args = [
    "-t1",
    `-c${connections}`,
    `-m${streams}`,
    `-D${seconds}`,
    `-d${bodyFile}`,
    ...fields.flatMap((line) => ["-H", line]),
    `http://127.0.0.1:${port}/bench.Echo/Unary`,
  ];
  return new Promise((resolve, reject) => {
    const child = spawn("h2load", args, { stdio: ["ignore", "pipe", "pipe"] });
    let text = "";
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding("utf8").on("data", (part: string) => {
        text += part;
      });
    child.on("error", (error) =>
      reject(new Error(`cannot run h2load: ${error.message}; install Debian's package nghttp2-client`)),
    );
    child.on("exit", () => {
      const requests = /requests: (\d+) total, .*?(\d+) succeeded, (\d+) failed, (\d+) errored/.exec(text);
      const codes = /status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx/.exec(text);
      // A denial is a 200 too, but echoes nothing.
      const echoed = /\((\d+)\) data/.exec(text);
      const [count, failed, errored] = [requests?.[2], requests?.[3], requests?.[4]].map(Number);
      if (!count || failed || errored || Number(codes?.[1]) < count)
        reject(new Error(`h2load said:\n${text}`));
      else if (Number(echoed?.[1]) < count * (5 + MESSAGE_BYTES))
        reject(new Error(`not every call was answered with its echo:\n${text}`));
      else resolve({ count, perSecond: count / seconds });
    });
  });
}

export async function benchGrpc({ rounds, seconds, say }: StreamBenchOptions): Promise<BenchRow[]> {
  const dir = mkdtempSync(join(tmpdir(), "countersign-grpc-"));
  const [port = 0] = await freePorts(1);
  const body = join(dir, "message");
  const message = Buffer.alloc(5 + MESSAGE_BYTES, 0x61);
  message.writeUInt8(0, 0);
  message.writeUInt32BE(MESSAGE_BYTES, 1);
  writeFileSync(body, message);
  const server = await startProgram(
    process.execPath,
    [
      "--disable-warning=ExperimentalWarning",
      fileURLToPath(new URL("echo-server.ts", import.meta.url)),
      String(port),
    ],
    port,
  );
  try {
    return await withLineup(
      port,
      ["envoy"],
      say,
      async ({ pairs }) => {
        const rows: BenchRow[] = [];
        for (const pair of pairs)
          await runH2load(pair.port, LOADS[0], WARM_UP_SECONDS, body, pair.headers(0));
        for (const load of LOADS) {
          const name = `unary gRPC, ${load.connections} connections of ${load.streams} calls`;
          const used = new Map<string, { us: number[]; rate: number[] }>(
            pairs.map((pair) => [pair.name, { us: [], rate: [] }]),
          );
          for (let round = 0; round < rounds; round++)
            for (const pair of pairs) {
              const pids = [pair.clientPid, pair.serverPid];
              const before = pids.map(cpuMicroseconds);
              const calls = await runH2load(pair.port, load, seconds, body, pair.headers(0));
              const each = pids.map(
                (pid, index) => (cpuMicroseconds(pid) - (before[index] ?? 0)) / calls.count,
              );
              used.get(pair.name)?.us.push(((each[0] ?? 0) + (each[1] ?? 0)) / 2);
              used.get(pair.name)?.rate.push(calls.perSecond);
              say(
                `${name}, round ${round + 1}/${rounds}: ${pair.name.padEnd(12)} ${each.map((us) => us.toFixed(1)).join(" / ")} µs, ${calls.perSecond.toFixed(0)} calls/s`,
              );
            }
          const of = (pair: string, which: "us" | "rate") => median(used.get(pair)?.[which] ?? []);
          for (const peer of pairs.slice(1))
            rows.push(
              row(
                "grpc",
                `${name}: CPU per call, mean of both`,
                of("countersign", "us"),
                "µs",
                { name: peer.name, value: of(peer.name, "us") },
                atMost("ratio", 0.6, 0.4),
              ),
              row("grpc", `${name}: throughput`, of("countersign", "rate"), "calls/s", {
                name: peer.name,
                value: of(peer.name, "rate"),
              }),
            );
        }
        return rows;
      },
      { protocol: "grpc" },
    );
  } finally {
    await server.stop();
    rmSync(dir, { recursive: true, force: true });
  }
}
