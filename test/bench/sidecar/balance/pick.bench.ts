// Cost of choosing an endpoint, by algorithm and number of endpoints. Run: `node test/bench/sidecar/balance/pick.bench.ts`
// (Node 24).
import process from "node:process";
import {
  hash32,
  mix32,
  pickByHash,
  pickLeastRequest,
  pickRoundRobin,
} from "../../../../sidecar/balance/pick.ts";

const BATCH = 256;
const BATCHES = 300;

/** Median nanoseconds per pick. */
function measure(pick: (turn: number) => unknown): number {
  const times: number[] = [];
  for (let batch = 0; batch < BATCHES; batch++) {
    const start = process.hrtime.bigint();
    for (let i = 0; i < BATCH; i++)
      if (pick(batch * BATCH + i) === undefined) throw new Error("nothing picked");
    times.push(Number(process.hrtime.bigint() - start) / BATCH);
  }
  return times.sort((a, b) => a - b)[times.length >> 1] ?? 0;
}

if (process.argv[1]?.endsWith("pick.bench.ts")) {
  for (const count of [2, 10, 100, 1_000]) {
    const endpoints = Array.from({ length: count }, (_, index) => ({
      load: index % 7,
      usable: true,
      weight: 1,
      hash: hash32(`endpoint-${index}`),
    }));
    const rows = {
      "least request": () => pickLeastRequest(endpoints, undefined, Math.random),
      "round robin": (turn: number) => pickRoundRobin(endpoints, undefined, turn, Math.random),
      "consistent hash": (turn: number) => pickByHash(endpoints, undefined, mix32(turn)),
    };
    for (const [name, pick] of Object.entries(rows)) {
      measure(pick);
      console.log(
        JSON.stringify({
          bench: "pick",
          row: `${name}, ${count} endpoints`,
          ours: Math.round(measure(pick)),
          unit: "ns",
        }),
      );
    }
  }
}
