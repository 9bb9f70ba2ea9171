import { expect, test } from "@jest/globals";
import { routeLines } from "../../../control-plane/cli/route-text.ts";
import { parseRoutePolicy } from "../../../control-plane/policy/route-policy.ts";

test("a route in words, in the order in which its rules count", () => {
  const parsed = parseRoutePolicy({
    kind: "RoutePolicy",
    name: "canary",
    namespace: "ml",
    labels: new Map(),
    generation: 1,
    status: undefined,
    spec: {
      service: "scorer",
      rules: [
        {
          match: { path: { prefix: "/v2" }, headers: [{ name: "x-canary", exact: "yes" }] },
          backends: [{ service: "v2" }],
          timeouts: { request: "250ms" },
        },
        {
          match: { methods: ["GET"] },
          backends: [{ service: "v1", weight: 9 }, { service: "v2" }],
          mirror: { service: "v3", percent: 5 },
          stickyBy: "header:x-user",
        },
      ],
    },
  });
  if (!parsed.ok) throw new Error(JSON.stringify(parsed.error));
  const traffic = {
    lb: { kind: "roundRobin" as const },
    preferZone: true,
    healthCheck: undefined,
    outlier: { consecutive5xx: 5, ejectForMs: 30_000, maxEjectPercent: 50, panicPercent: 50 },
    slowStartMs: undefined,
    limits: undefined,
    timeouts: { connectMs: 500, requestMs: undefined, idleMs: 300_000, streamMs: undefined },
    retries: undefined,
  };
  expect(routeLines({ service: "ml/scorer", rules: parsed.value.rules, traffic })).toEqual([
    "routes    path /v2 and below, header x-canary: yes -> ml/v2; within 250ms  [RoutePolicy ml/canary rules[0]]",
    "          method GET -> ml/v1 90%, ml/v2 10%; by header x-user; 5% copied to ml/v3  [RoutePolicy ml/canary rules[1]]",
    "          everything else -> ml/scorer",
    "traffic   roundRobin; own zone first; ejected for 30s after 5 failures in a row; timeout connect 500ms; timeout idle 5m",
  ]);
});
