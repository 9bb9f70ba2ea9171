import { expect, test } from "@jest/globals";
import { HealthRecord } from "../../../sidecar/balance/health.ts";

const thresholds = { healthyThreshold: 2, unhealthyThreshold: 3 };

test.each([
  { name: "counts as healthy at first", results: [], healthy: true },
  { name: "bears fewer bad results than the threshold", results: [false, false], healthy: true },
  {
    name: "starts counting again after a good one",
    results: [false, false, true, false, false],
    healthy: true,
  },
  { name: "is unhealthy after so many in a row", results: [false, false, false], healthy: false },
  { name: "needs so many good ones to recover", results: [false, false, false, true], healthy: false },
  { name: "recovers", results: [false, false, false, true, true], healthy: true },
  {
    name: "starts counting again after a bad one",
    results: [false, false, false, true, false, true],
    healthy: false,
  },
])("an endpoint $name", ({ results, healthy }) => {
  const record = new HealthRecord(0);
  let believed = true;
  for (const good of results) if (record.note(good, thresholds)) believed = record.healthy;
  expect(record.healthy).toBe(healthy);
  expect(believed).toBe(healthy);
});

test("checks are spread by a tenth of the interval", () => {
  const record = new HealthRecord(0);
  record.schedule(1_000, 10_000, 0);
  expect(record.dueMs).toBe(10_000);
  record.schedule(1_000, 10_000, 1);
  expect(record.dueMs).toBe(12_000);
});
