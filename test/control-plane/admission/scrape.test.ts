import { describe, expect, test } from "@jest/globals";
import { injectPod } from "../../../control-plane/admission/inject.ts";
import type { UnknownFields } from "../../../control-plane/admission/review.ts";
import { parseAppMetrics } from "../../../sidecar/capture/app-metrics.ts";
import { CONTEXT, flag, injected, podOf } from "./pod-fixture.ts";

const scraped = (annotations: Record<string, string>, more: Record<string, string> = {}) =>
  podOf({
    annotations: {
      ...Object.fromEntries(
        Object.entries(annotations).map(([key, value]) => [`prometheus.io/${key}`, value]),
      ),
      ...more,
    },
  });

describe("annotations of Prometheus", () => {
  test.each([
    { given: {}, path: "/metrics", app: undefined },
    { given: { scrape: "true" }, path: "/merged-metrics", app: "8080/metrics" },
    {
      given: { scrape: "true", port: "9090", path: "stats?x=$(y)" },
      path: "/merged-metrics",
      app: "9090/stats?x=$(y)",
    },
    { given: { scrape: "true", scheme: "http" }, path: "/merged-metrics", app: "8080/metrics" },
  ])("$given come to name the sidecar", ({ given, path, app }) => {
    const pod = injected(scraped(given as Record<string, string>));
    expect(pod.metadata.annotations).toMatchObject({
      "prometheus.io/scrape": "true",
      "prometheus.io/port": "16020",
      "prometheus.io/path": path,
    });
    expect(pod.metadata.annotations).not.toHaveProperty(["prometheus.io/scheme"]);
    const value = flag(pod, "--app-metrics")?.replaceAll("$$", "$");
    expect(value).toBe(app);
    if (value !== undefined) expect(parseAppMetrics(value).ok).toBe(true);
    expect(injectPod(pod as unknown as UnknownFields, CONTEXT)).toMatchObject({ patch: [] });
  });

  test.each([
    { given: { scrape: "true", scheme: "https" }, why: "only plain HTTP can be, from inside the pod" },
    { given: { scrape: "true", port: "x" }, why: "set the annotation `prometheus.io/port` to their port" },
    {
      given: { scrape: "true", port: "16014" },
      why: "set the annotation `prometheus.io/port` to their port",
    },
    { given: { scrape: "true", path: "/a b" }, why: "`prometheus.io/path` is not a path" },
  ])("$given that cannot be relayed get a warning, and the sidecar is still scraped", ({ given, why }) => {
    const pod = scraped(given as Record<string, string>);
    expect(injectPod(pod, CONTEXT).warnings).toEqual([`the application's metrics are not relayed: ${why}`]);
    expect(injected(pod).metadata.annotations["prometheus.io/path"]).toBe("/metrics");
    expect(flag(injected(pod), "--app-metrics")).toBeUndefined();
  });

  test.each([
    { name: "nobody is to scrape", given: { scrape: "false", port: "8080" }, more: {} },
    {
      name: "the port is outside the mesh",
      given: { scrape: "true", port: "9090" },
      more: { "countersign.dev/exclude-inbound-ports": "9090" },
    },
  ])("stay where $name", ({ given, more }) => {
    const pod = injected(scraped(given as Record<string, string>, more as Record<string, string>));
    expect(pod.metadata.annotations["prometheus.io/port"]).toBe(given.port);
    expect(flag(pod, "--app-metrics")).toBeUndefined();
  });

  test("an earlier value that is not of our form counts as none", () => {
    const text = JSON.stringify(injected(scraped({ scrape: "true" }))).replace("8080/metrics", "8080/a b");
    expect(flag(injected(JSON.parse(text)), "--app-metrics")).toBeUndefined();
  });
});
