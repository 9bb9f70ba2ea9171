// What a pair adds to the latency at a fixed rate, over the same load without a proxy: an open loop, so a stall counts
// for every request that was due in it.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePorts } from "../../demo/process.ts";
import { atMost, type BenchRow, median, row } from "../measure.ts";
import { type StreamBenchOptions, withLineup } from "../streams/lineup.ts";
import { type LoadResult, runPaced, runWrk } from "./load.ts";
import { OPERATIONS, operationPath, type Pair, startBackend } from "./peers.ts";

const CONNECTIONS = 16;
const PER_SECOND = 1000;
const WARM_UP_SECONDS = 2;

const targets = (pair: Pick<Pair, "headers">) =>
  Array.from({ length: OPERATIONS }, (_, index) => ({
    path: operationPath(index),
    headers: pair.headers(index),
  }));

export async function benchLatency({ rounds, seconds, say }: StreamBenchOptions): Promise<BenchRow[]> {
  const dir = mkdtempSync(join(tmpdir(), "countersign-latency-"));
  const [port = 0] = await freePorts(1);
  const backend = await startBackend(dir, port, 1024);
  const bare = { name: "no proxy", port, headers: () => [] };
  const paced = async (to: Pick<Pair, "port" | "headers">): Promise<LoadResult> => {
    const load = await runPaced(to.port, targets(to), CONNECTIONS, PER_SECOND, seconds);
    if (load.failures > 0) throw new Error(`${load.failures} requests failed`);
    return load;
  };
  try {
    return await withLineup(port, ["envoy", "nginx", "haproxy"], say, async ({ pairs }) => {
      for (const pair of pairs) await runWrk(pair.port, targets(pair), 32, WARM_UP_SECONDS);
      const added = new Map<string, { p50: number[]; p99: number[] }>(
        pairs.map((pair) => [pair.name, { p50: [], p99: [] }]),
      );
      for (let round = 0; round < rounds; round++) {
        const direct = await paced(bare);
        for (const pair of pairs) {
          const load = await paced(pair);
          const p50 = load.p50Ms - direct.p50Ms;
          const p99 = load.p99Ms - direct.p99Ms;
          added.get(pair.name)?.p50.push(p50);
          added.get(pair.name)?.p99.push(p99);
          say(
            `latency, round ${round + 1}/${rounds}: ${pair.name.padEnd(12)} adds p50 ${p50.toFixed(2)} ms, p99 ${p99.toFixed(2)} ms (without a proxy ${direct.p50Ms.toFixed(2)} and ${direct.p99Ms.toFixed(2)})`,
          );
        }
      }
      const of = (name: string, which: "p50" | "p99") => median(added.get(name)?.[which] ?? []);
      return pairs
        .slice(1)
        .flatMap((peer) =>
          (["p50", "p99"] as const).map((which) =>
            row(
              "latency",
              `${PER_SECOND} requests/s over ${CONNECTIONS}, everything on: added latency ${which}`,
              of("countersign", which),
              "ms",
              { name: peer.name, value: of(peer.name, which) },
              peer.name !== "envoy"
                ? undefined
                : which === "p50"
                  ? atMost("ratio", 1.2, 0.8)
                  : atMost("ratio", 1.5, 1),
            ),
          ),
        );
    });
  } finally {
    await backend.stop();
    rmSync(dir, { recursive: true, force: true });
  }
}
