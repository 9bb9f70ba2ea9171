// One stream between sidecars that are 10 ms apart: what flow control of the hop lets through, both ways.
import { atLeast, type BenchRow, median, row } from "../measure.ts";
import { moveBlob, startBlobs } from "./blobs.ts";
import { type DelayedPath, startDelayedPath } from "./delay.ts";
import { type StreamBenchOptions, withLineup } from "./lineup.ts";

const BYTES = 250_000_000;
const ONE_WAY_MS = 5;

export async function benchDistance({ rounds, say }: StreamBenchOptions): Promise<BenchRow[]> {
  const blobs = await startBlobs(BYTES);
  let path: DelayedPath | undefined;
  const between = async (meshPort: number) => {
    path = await startDelayedPath(meshPort, ONE_WAY_MS);
    return path.port;
  };
  try {
    return await withLineup(
      blobs.port,
      [],
      say,
      async ({ ours }) => {
        const rows: BenchRow[] = [];
        for (const direction of ["down", "up"] as const) {
          const speeds: number[] = [];
          for (let round = 0; round < rounds; round++) {
            const ms = await moveBlob(ours.port, direction, BYTES, ours.headers(0));
            speeds.push(BYTES / 1e3 / ms);
            say(`${direction}, round ${round + 1}/${rounds}: ${(BYTES / 1e3 / ms).toFixed(0)} MB/s`);
          }
          rows.push(
            row(
              "distance",
              `${direction === "down" ? "download" : "upload"} of 250 MB, 10 ms round trip between the sidecars`,
              median(speeds),
              "MB/s",
              undefined,
              atLeast("ours", 50, 80),
            ),
          );
        }
        return rows;
      },
      { between },
    );
  } finally {
    path?.close();
    blobs.close();
  }
}
