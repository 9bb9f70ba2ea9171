// Callees restarted one after the other under load; the long run is `npm run soak -- --restarts 10`.
import { expect, test } from "@jest/globals";
import { runRestarts } from "../soak/restarts.ts";

test("no call and no open stream fails while its callees are restarted", async () => {
  const report = await runRestarts({ upstreams: 3, rounds: 2, rate: 200, streams: 12, leavesTable: true });
  expect(report.failures).toEqual([]);
  expect(report.failed).toBe(0);
  expect(report.restarts).toBe(6);
  expect(report.requests).toBeGreaterThan(300);
  expect(report.streams).toBeGreaterThan(20);
}, 400_000);
