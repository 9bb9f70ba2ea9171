// Large bodies through each pair, one at a time, both ways: bytes per second of CPU that both processes used.
import { atLeast, type BenchRow, cpuMicroseconds, median, row } from "../measure.ts";
import { moveBlob, startBlobs } from "./blobs.ts";
import { type StreamBenchOptions, withLineup } from "./lineup.ts";

const BYTES = 1_000_000_000;
const WARM_UP_BYTES = 1_000_000_000;

export async function benchBulk({ rounds, say }: StreamBenchOptions): Promise<BenchRow[]> {
  const blobs = await startBlobs(BYTES);
  try {
    return await withLineup(blobs.port, ["haproxy", "nginx", "envoy"], say, async ({ pairs }) => {
      const rows: BenchRow[] = [];
      for (const direction of ["down", "up"] as const) {
        const perCpuSecond = new Map<string, number[]>(pairs.map((pair) => [pair.name, []]));
        const elapsed = new Map<string, number[]>(pairs.map((pair) => [pair.name, []]));
        for (const pair of pairs) await moveBlob(pair.port, direction, WARM_UP_BYTES, pair.headers(0));
        for (let round = 0; round < rounds; round++) {
          for (const pair of pairs) {
            const pids = [pair.clientPid, pair.serverPid];
            const before = pids.map(cpuMicroseconds);
            const ms = await moveBlob(pair.port, direction, BYTES, pair.headers(0));
            const used = pids.map((pid, index) => cpuMicroseconds(pid) - (before[index] ?? 0));
            const total = (used[0] ?? 0) + (used[1] ?? 0);
            perCpuSecond.get(pair.name)?.push(BYTES / total);
            elapsed.get(pair.name)?.push(BYTES / 1e3 / ms);
            say(
              `${direction}, round ${round + 1}/${rounds}: ${pair.name.padEnd(12)} ${(BYTES / 1e3 / ms).toFixed(0)} MB/s, ${used.map((us) => (us / 1e6).toFixed(2)).join(" / ")} s of CPU, ${(BYTES / total).toFixed(0)} MB per CPU second`,
            );
          }
        }
        const of = (from: Map<string, number[]>, name: string) => median(from.get(name) ?? []);
        for (const peer of pairs.slice(1)) {
          const what = direction === "down" ? "download" : "upload";
          rows.push(
            row(
              "bulk",
              `${what} of 1 GB, both processes`,
              of(perCpuSecond, "countersign"),
              "MB per CPU second",
              { name: peer.name, value: of(perCpuSecond, peer.name) },
              peer.name === "haproxy" ? atLeast("ratio", 0.5, 0.8) : undefined,
            ),
            row("bulk", `${what} of 1 GB, one stream`, of(elapsed, "countersign"), "MB/s", {
              name: peer.name,
              value: of(elapsed, peer.name),
            }),
          );
        }
      }
      return rows;
    });
  } finally {
    blobs.close();
  }
}
