// The port without TLS has health and metrics, and nothing of the management API.
import { expect, test } from "@jest/globals";
import { Registry } from "prom-client";
import { routesOf } from "../../../control-plane/management/routes.ts";
import { createMetricsServer } from "../../../control-plane/metrics.ts";
import { echoActions } from "../../fakes/secured-management.ts";

test("no management route answers on the metrics port", async () => {
  const server = await createMetricsServer("127.0.0.1", 0, new Registry(), () => true);
  try {
    const base = `http://127.0.0.1:${server.port}`;
    expect((await fetch(`${base}/readyz`)).status).toBe(200);
    const routes = routesOf(echoActions);
    expect(routes.length).toBeGreaterThan(8);
    for (const { path, method } of routes) {
      const body = method === "POST" ? "{}" : null;
      const answer = await fetch(`${base}${path}`, { method, body });
      expect([404, 405]).toContain(answer.status);
      expect((await fetch(`${base}${path}`)).status).toBe(404);
    }
  } finally {
    await server.close();
  }
});

test("every write needs a right of its own kind, and repeats no secret", () => {
  for (const { action, right, fields, method } of routesOf(echoActions)) {
    expect(right.verb).toBe(method === "GET" ? "get" : "update");
    if (method === "POST") expect(right.subresource).not.toBe("");
    expect(fields.join(" ")).not.toMatch(/token|key|secret|password/i);
    expect(action).toMatch(/^[a-z-]+$/);
  }
});
