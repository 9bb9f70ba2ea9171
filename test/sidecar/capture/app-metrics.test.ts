import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { AppMetricsRelay, parseAppMetrics } from "../../../sidecar/capture/app-metrics.ts";
import { SidecarMetrics } from "../../../sidecar/metrics.ts";

describe("parseAppMetrics", () => {
  test.each([
    ["8080/metrics", { port: 8080, path: "/metrics" }],
    ["8080", { port: 8080, path: "/metrics" }],
    ["9/a/b?format=prometheus", { port: 9, path: "/a/b?format=prometheus" }],
  ])("reads %s", (text, value) => {
    expect(parseAppMetrics(text)).toEqual({ ok: true, value });
  });

  test.each([
    "",
    "/metrics",
    "0/metrics",
    "65536",
    "8080metrics",
    "8080/a b",
    "8080/a\r\nb: c",
    "-1",
    "8080/é",
  ])("refuses `%s`", (text) => {
    expect(parseAppMetrics(text).ok).toBe(false);
  });
});

describe("AppMetricsRelay", () => {
  let answer: (request: IncomingMessage, response: ServerResponse) => void = () => {};
  const asked: string[] = [];
  const server = createServer((request, response) => {
    asked.push(`${request.method} ${request.url} ${request.headers["accept-encoding"]}`);
    answer(request, response);
  });
  let relay: AppMetricsRelay;
  beforeAll(async () => {
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    relay = new AppMetricsRelay(
      { port: (server.address() as AddressInfo).port, path: "/stats?all=1" },
      "127.0.0.1",
    );
  });
  afterAll(() => {
    server.closeAllConnections();
    server.close();
  });

  test("gives the application's page as it is", async () => {
    answer = (_, response) => response.end("a 1\n# what ever\nüb 2\n");
    expect(await relay.page()).toMatchObject({ status: 200, body: "a 1\n# what ever\nüb 2\n" });
    expect(asked.at(-1)).toBe("GET /stats?all=1 identity");
  });

  test("merges it with the sidecar's own, which it cannot forge or spoil", async () => {
    const metrics = new SidecarMetrics();
    metrics.addGauge({ name: "process_resident_memory_bytes", help: "x", labels: [], read: () => [[[], 5]] });
    answer = (_, response) =>
      response.end('process_resident_memory_bytes 7\ncountersign_forwarded_total 99\n<html>\nb{c="ü"} 2');
    const page = await relay.mergedPage(metrics);
    expect(page.status).toBe(200);
    expect(page.body).toContain("# TYPE countersign_requests_total counter\n");
    expect(page.body).toMatch(/\nprocess_resident_memory_bytes 7\nb\{c="ü"\} 2\n$/);
    expect(page.body).not.toContain("process_resident_memory_bytes 5");
    expect(page.body).not.toContain("99");
    expect(page.body).toContain("countersign_app_metrics_up 1\n");
    expect(page.body).toContain("countersign_app_metrics_dropped_lines 2\n");
  });

  test.each([
    { name: "another status", reply: (response: ServerResponse) => response.writeHead(302).end() },
    {
      name: "an encoding",
      reply: (response: ServerResponse) => response.writeHead(200, { "content-encoding": "gzip" }).end("x"),
    },
    { name: "too much", reply: (response: ServerResponse) => response.end("a 1\n".repeat(600_000)) },
    { name: "a broken answer", reply: (response: ServerResponse) => response.destroy() },
  ])("leaves out $name, and keeps the sidecar's", async ({ reply }) => {
    answer = (_, response) => reply(response);
    expect((await relay.page()).status).toBe(502);
    const merged = await relay.mergedPage(new SidecarMetrics());
    expect(merged.status).toBe(200);
    expect(merged.body).toContain("countersign_app_metrics_up 0\n");
    expect(merged.body).not.toContain("a 1\n");
  });

  test("asks the application once for all who ask at a time", async () => {
    const before = asked.length;
    answer = (_, response) => response.end("a 1\n");
    const pages = await Promise.all(Array.from({ length: 20 }, () => relay.page()));
    expect(pages.every(({ body }) => body === "a 1\n")).toBe(true);
    expect(asked).toHaveLength(before + 1);
  });
});
