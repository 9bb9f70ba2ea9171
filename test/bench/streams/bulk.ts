// Large bodies through each pair, one at a time, both ways: bytes per second of CPU that both processes used. Over HTTP,
// and as an opaque TCP connection.
import { atLeast, type BenchRow, cpuMicroseconds, median, row } from "../measure.ts";
import { moveBlob, startBlobs } from "./blobs.ts";
import { type PeerName, type StreamBenchOptions, withLineup } from "./lineup.ts";

const BYTES = 1_000_000_000;
/** Compiles and grows what is hot. */
const WARM_UP_BYTES = 1_000_000_000;

const VARIANTS: readonly { readonly protocol: "http" | "tcp"; readonly peers: readonly PeerName[] }[] = [
  { protocol: "http", peers: ["haproxy", "nginx", "envoy"] },
  { protocol: "tcp", peers: ["haproxy"] },
];

export async function benchBulk(options: StreamBenchOptions): Promise<BenchRow[]> {
  const blobs = await startBlobs(BYTES);
  try {
    const rows: BenchRow[] = [];
    for (const variant of VARIANTS) rows.push(...(await measure(blobs.port, variant, options)));
    return rows;
  } finally {
    blobs.close();
  }
}

function measure(
  backend: number,
  { protocol, peers }: (typeof VARIANTS)[number],
  { rounds, say }: StreamBenchOptions,
): Promise<BenchRow[]> {
  return withLineup(
    backend,
    peers,
    say,
    async ({ pairs }) => {
      const rows: BenchRow[] = [];
      for (const direction of ["down", "up"] as const) {
        const what = `${protocol.toUpperCase()}, ${direction === "down" ? "download" : "upload"} of 1 GB`;
        const perCpuSecond = new Map<string, number[]>(pairs.map((pair) => [pair.name, []]));
        const speed = new Map<string, number[]>(pairs.map((pair) => [pair.name, []]));
        for (const pair of pairs) await moveBlob(pair.port, direction, WARM_UP_BYTES, pair.headers(0));
        for (let round = 0; round < rounds; round++) {
          for (const pair of pairs) {
            const pids = [pair.clientPid, pair.serverPid];
            const before = pids.map(cpuMicroseconds);
            const ms = await moveBlob(pair.port, direction, BYTES, pair.headers(0));
            const used = pids.map((pid, index) => cpuMicroseconds(pid) - (before[index] ?? 0));
            const total = (used[0] ?? 0) + (used[1] ?? 0);
            perCpuSecond.get(pair.name)?.push(BYTES / total);
            speed.get(pair.name)?.push(BYTES / 1e3 / ms);
            say(
              `${what}, round ${round + 1}/${rounds}: ${pair.name.padEnd(12)} ${(BYTES / 1e3 / ms).toFixed(0)} MB/s, ${used.map((us) => (us / 1e6).toFixed(2)).join(" / ")} s of CPU, ${(BYTES / total).toFixed(0)} MB per CPU second`,
            );
          }
        }
        const of = (from: Map<string, number[]>, name: string) => median(from.get(name) ?? []);
        for (const { name } of pairs.slice(1)) {
          rows.push(
            row(
              "bulk",
              `${what}, both processes`,
              of(perCpuSecond, "countersign"),
              "MB per CPU second",
              { name, value: of(perCpuSecond, name) },
              name === "haproxy" ? atLeast("ratio", 0.5, 0.8) : undefined,
            ),
            row("bulk", `${what}, one stream`, of(speed, "countersign"), "MB/s", {
              name,
              value: of(speed, name),
            }),
          );
        }
      }
      return rows;
    },
    { protocol },
  );
}
