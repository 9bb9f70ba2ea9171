// Cost of following a route: the rules that do not match, and the choice. Run: `node test/bench/sidecar/outbound/route.bench.ts`
// (Node 24).
import process from "node:process";
import type { RouteMatch, RouteRule } from "../../../../sidecar/core/traffic/route.ts";
import type { Destination } from "../../../../sidecar/outbound/resolve.ts";
import { DestinationRoute } from "../../../../sidecar/outbound/route.ts";
import type { RoutedCall } from "../../../../sidecar/outbound/route-match.ts";
import { createField } from "../../../../sidecar/wire/field.ts";

const BATCH = 256;
const BATCHES = 300;
const RULE: RouteRule = {
  name: "r",
  matches: [],
  ports: undefined,
  backends: [
    { service: "ns/v1", port: undefined, weight: 90 },
    { service: "ns/v2", port: undefined, weight: 10 },
  ],
  mirrors: [],
  stickyBy: undefined,
  requestTimeoutMs: undefined,
  tryTimeoutMs: undefined,
  requestHeaders: [],
  responseHeaders: [],
};
const NONE: RouteMatch = {
  path: undefined,
  methods: undefined,
  headers: [],
  query: [],
  grpc: undefined,
  roles: undefined,
  callerKinds: undefined,
  callerNames: undefined,
  operations: undefined,
};
const call: RoutedCall = {
  method: "POST",
  fields: ["host", "user-agent", "accept", "content-type", "x-request-id", "x-user"].map((name) =>
    createField(name, "some-value"),
  ),
  claims: undefined,
  // What rules look at.
  classified: {
    operation: { kind: "known", name: "serving.invoke.predict" },
    request: { method: "POST", path: "/v2/models/fraud/infer", grpc: undefined, mcp: undefined },
    query: undefined,
  } as unknown as RoutedCall["classified"],
};

/** Median nanoseconds per choice. */
function measure(route: DestinationRoute): number {
  const times: number[] = [];
  for (let batch = 0; batch < BATCHES; batch++) {
    const start = process.hrtime.bigint();
    for (let i = 0; i < BATCH; i++) if (route.choose(call) === undefined) throw new Error("nothing chosen");
    times.push(Number(process.hrtime.bigint() - start) / BATCH);
  }
  return times.sort((a, b) => a - b)[times.length >> 1] ?? 0;
}

if (process.argv[1]?.endsWith("route.bench.ts")) {
  const destination = { port: { port: 80 } } as unknown as Destination;
  const byHeader = (i: number): RouteRule => ({
    ...RULE,
    matches: [{ ...NONE, headers: [{ name: "x-canary", kind: "exact", value: `v${i}` }] }],
  });
  const byPath = (i: number): RouteRule => ({
    ...RULE,
    matches: [{ ...NONE, path: { kind: "prefix", value: `/v2/models/m${i}` } }],
  });
  const many = (count: number, rule: (i: number) => RouteRule): RouteRule[] => [
    ...Array.from({ length: count }, (_, i) => rule(i)),
    RULE,
  ];
  const rows: Readonly<Record<string, readonly RouteRule[]>> = {
    "split by weight": [RULE],
    "split by weight, kept by a header": [{ ...RULE, stickyBy: { by: "header", name: "x-user" } }],
    "1 rule by header before it": many(1, byHeader),
    "15 rules by header before it": many(15, byHeader),
    "15 rules by path before it": many(15, byPath),
  };
  for (const [row, rules] of Object.entries(rows)) {
    const route = new DestinationRoute(destination, rules, {
      caller: { kind: "job", name: "j", spiffeId: "spiffe://d/ns/a/sa/b/job/j" },
      pod: "p",
      random: Math.random,
      destinationOf: () => destination,
    });
    measure(route);
    console.log(JSON.stringify({ bench: "route", row, ours: Math.round(measure(route)), unit: "ns" }));
  }
}
