import { expect, test } from "@jest/globals";
import { Counters, Histograms } from "../../../sidecar/telemetry/counters.ts";
import { exposition } from "../../../sidecar/telemetry/exposition.ts";

test("counters and histograms come out as Prometheus text", () => {
  const counters = new Counters("c_total", "help", ["a", "b"]);
  const histograms = new Histograms("h_seconds", "help", ["a"], [0.1, 1]);
  for (let i = 0; i < 200; i++) counters.add(counters.series(`v${i % 100}`, "x"));
  counters.add(counters.series('q"\n', "x"), 5);
  const series = histograms.series("one");
  for (const value of [0.05, 0.1, 0.5, 3]) histograms.observe(series, value);
  const { body } = exposition({
    counters: () => [counters],
    histograms: () => [histograms],
    totals: () => [],
    gauges: () => [{ name: "g", help: "help", labels: [], read: () => [[[], 7]] }],
  });
  expect(body).toContain('c_total{a="v7",b="x"} 2\n');
  expect(body).toContain('c_total{a="q\\"\\n",b="x"} 5\n');
  expect(body).toContain('h_seconds_bucket{a="one",le="0.1"} 2\n');
  expect(body).toContain('h_seconds_bucket{a="one",le="1"} 3\n');
  expect(body).toContain('h_seconds_bucket{a="one",le="+Inf"} 4\n');
  expect(body).toContain('h_seconds_count{a="one"} 4\n');
  expect(body).toMatch(/^g 7$/m);
});

test("series beyond the bound share one", () => {
  const counters = new Counters("c_total", "help", ["a"]);
  for (let i = 0; i < 20_000; i++) counters.add(counters.series(String(i)));
  expect(counters.size).toBeLessThanOrEqual(10_001);
  expect(counters.total()).toBe(20_000);
});
