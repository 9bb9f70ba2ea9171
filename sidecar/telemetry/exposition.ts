// Counters and histograms as Prometheus text: hands them to prom-client, which is loaded with the first scrape only.
import type { Counters, Gauge, Histograms } from "./counters.ts";

export interface Metrics {
  counters(): readonly Counters[];
  histograms(): readonly Histograms[];
  gauges(): readonly Gauge[];
}

interface Value {
  readonly value: number;
  readonly labels: Record<string, string | number>;
  readonly metricName?: string;
}

function labelsOf(names: readonly string[], values: readonly string[]): Record<string, string> {
  return Object.fromEntries(names.map((name, index) => [name, values[index] ?? ""]));
}

function counterValues(family: Counters): Value[] {
  return Array.from({ length: family.size }, (_, index) => ({
    value: family.read(index),
    labels: labelsOf(family.labels, family.labelsOf(index)),
  }));
}

function histogramValues(family: Histograms): Value[] {
  const values: Value[] = [];
  for (let index = 0; index < family.size; index++) {
    const labels = labelsOf(family.labels, family.labelsOf(index));
    const { cumulative, sum } = family.read(index);
    for (const [bucket, count] of cumulative.entries()) {
      values.push({
        value: count,
        labels: { ...labels, le: family.bounds[bucket] ?? "+Inf" },
        metricName: `${family.name}_bucket`,
      });
    }
    values.push(
      { value: sum, labels, metricName: `${family.name}_sum` },
      { value: cumulative.at(-1) ?? 0, labels, metricName: `${family.name}_count` },
    );
  }
  return values;
}

/** The text of one scrape, and its content type. */
export async function exposition(
  metrics: Metrics,
): Promise<{ readonly contentType: string; readonly body: string }> {
  const { default: prometheus } = await import("prom-client");
  const registry = new prometheus.Registry();
  const register = (
    family: { readonly name: string; readonly help: string },
    type: string,
    values: () => Value[],
  ): void => {
    // prom-client asks each registered metric for this shape; ours keeps its numbers elsewhere.
    const metric = {
      name: family.name,
      get: () =>
        Promise.resolve({ name: family.name, help: family.help, type, values: values(), aggregator: "sum" }),
    };
    registry.registerMetric(metric as unknown as Parameters<typeof registry.registerMetric>[0]);
  };
  for (const family of metrics.counters()) register(family, "counter", () => counterValues(family));
  for (const family of metrics.histograms()) register(family, "histogram", () => histogramValues(family));
  for (const family of metrics.gauges()) {
    register(family, "gauge", () =>
      [...family.read()].map(([values, value]) => ({ value, labels: labelsOf(family.labels, values) })),
    );
  }
  return { contentType: registry.contentType, body: await registry.metrics() };
}
