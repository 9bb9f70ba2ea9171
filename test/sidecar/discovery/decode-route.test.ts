import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { buildRoute } from "../../../control-plane/resources/route-message.ts";
import { messageCodec } from "../../../proto/load.ts";
import { decodeResource } from "../../../sidecar/discovery/decode.ts";
import { sampleRoute } from "../../fakes/resources.ts";

const codec = messageCodec<object, object>("countersign.mesh.v1.Route");

const decode = (body: object) =>
  decodeResource("route", "ml/scorer", codec.encode({ service: "ml/scorer", ...body }));

const delta = messageCodec<object, { readonly upsert: readonly { readonly body: Buffer }[] }>(
  "countersign.mesh.v1.Delta",
);
function deltaOf(encoded: Buffer): { readonly body: Buffer } {
  const [resource] = delta.decode(encoded).upsert;
  if (resource === undefined) throw new Error("no resource");
  return resource;
}

const rule = (fields: object) => ({ rules: [{ name: "r", ...fields }] });
const match = (fields: object) => rule({ matches: [fields] });

describe("a route", () => {
  test("keeps every condition and destination of its rules", () => {
    const decoded = decode({
      rules: [
        {
          name: "RoutePolicy ml/canary rules[0]",
          matches: [
            {
              pathPrefix: "/v2",
              methods: ["POST"],
              headers: [{ name: "x-canary", kind: "exact", value: "1" }],
            },
            { grpcService: "inference.GRPCInferenceService" },
            { query: [{ name: "v", kind: "exact", value: "2" }], operations: ["serving.invoke"] },
            { roles: ["oncall"], callerKinds: ["notebook"], callerNames: ["nb-*"] },
          ],
          ports: [80],
          backends: [
            { service: "ml/scorer-v1", weight: 90 },
            { service: "", weight: 10, port: 81 },
          ],
          mirrors: [{ service: "ml/scorer-v3", sharePpm: 50_000, allMethods: true }],
          stickyBy: { by: "cookie", name: "Session" },
          requestTimeoutMs: 2_000,
          requestHeaders: [{ action: "set", name: "x-version", value: "2" }],
          responseHeaders: [{ action: "remove", name: "x-debug" }],
        },
      ],
    });
    const none = {
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
    expect(decoded).toEqual({
      ok: true,
      value: {
        kind: "route",
        value: {
          service: "ml/scorer",
          rules: [
            {
              name: "RoutePolicy ml/canary rules[0]",
              matches: [
                {
                  ...none,
                  path: { kind: "prefix", value: "/v2" },
                  methods: ["POST"],
                  headers: [{ name: "x-canary", kind: "exact", value: "1" }],
                },
                { ...none, grpc: { service: "inference.GRPCInferenceService", method: "" } },
                {
                  ...none,
                  query: [{ name: "v", kind: "exact", value: "2" }],
                  operations: ["serving.invoke"],
                },
                { ...none, roles: ["oncall"], callerKinds: ["notebook"], callerNames: ["nb-*"] },
              ],
              ports: [80],
              backends: [
                { service: "ml/scorer-v1", port: undefined, weight: 90 },
                { service: undefined, port: 81, weight: 10 },
              ],
              mirrors: [{ service: "ml/scorer-v3", port: undefined, share: 0.05, allMethods: true }],
              stickyBy: { by: "cookie", name: "Session" },
              requestTimeoutMs: 2_000,
              tryTimeoutMs: undefined,
              requestHeaders: [{ action: "set", name: "x-version", value: "2" }],
              responseHeaders: [{ action: "remove", name: "x-debug", value: "" }],
            },
          ],
          traffic: undefined,
        },
      },
    });
  });

  test("keeps how calls are carried", () => {
    const decoded = decode({
      traffic: {
        lb: "consistentHash",
        hashBy: { by: "header", name: "x-session" },
        preferZone: true,
        healthCheck: {
          kind: "http",
          path: "/ready",
          intervalMs: 10_000,
          timeoutMs: 1_000,
          healthyThreshold: 1,
          unhealthyThreshold: 3,
        },
        outlier: { consecutive_5xx: 5, ejectForMs: 30_000, maxEjectPercent: 50, panicPercent: 0 },
        slowStartMs: 15_000,
        limits: { requests: 100 },
        timeouts: { connectMs: 500, streamMs: 3_600_000 },
        retries: {
          attempts: 2,
          on: ["503"],
          onlyAccess: ["read"],
          idempotent: ["serving.invoke"],
          budgetPercent: 20,
        },
      },
    });
    expect(decoded).toMatchObject({
      ok: true,
      value: {
        value: {
          rules: [],
          traffic: {
            lb: { kind: "consistentHash", key: { by: "header", name: "x-session" } },
            preferZone: true,
            healthCheck: {
              probe: { kind: "http", path: "/ready" },
              intervalMs: 10_000,
              unhealthyThreshold: 3,
            },
            outlier: { consecutive5xx: 5, ejectForMs: 30_000, maxEjectPercent: 50, panicPercent: 0 },
            slowStartMs: 15_000,
            limits: { connections: undefined, pending: undefined, requests: 100 },
            timeouts: { connectMs: 500, requestMs: undefined, idleMs: undefined, streamMs: 3_600_000 },
            retries: {
              attempts: 2,
              on: ["503"],
              onlyAccess: ["read"],
              idempotent: ["serving.invoke"],
              budgetPercent: 20,
              perTryTimeoutMs: undefined,
            },
          },
        },
      },
    });
  });

  test("of the control plane says here what it said there", () => {
    const { body } = deltaOf(sampleRoute().encoded);
    const decoded = decodeResource("route", "ns/svc", body);
    if (!decoded.ok || decoded.value.kind !== "route") throw new Error("not a route");
    const again = buildRoute(decoded.value.value);
    expect(again.hash).toBe(sampleRoute().hash);
    expect(decoded.value.value.rules[0]).toMatchObject({
      stickyBy: { by: "header", name: "x-session" },
      tryTimeoutMs: 500,
    });
    expect(decoded.value.value.traffic).toMatchObject({ limits: { pending: 2 }, timeouts: { streamMs: 4 } });
  });

  test.each([
    { body: {}, says: "route says nothing" },
    { body: { service: "ml/other", traffic: {} }, says: "body is about `ml/other`" },
    { body: match({}), says: "no condition that is known" },
    { body: match({ pathExact: "/a", pathPrefix: "/b" }), says: "two paths" },
    { body: match({ pathExact: "a b" }), says: "path `a b`" },
    { body: match({ methods: ["get"] }), says: "method `get`" },
    { body: match({ headers: [{ name: "X-Up", kind: "exact" }] }), says: "header `X-Up`" },
    { body: match({ headers: [{ name: "x", kind: "regex" }] }), says: "kind of match `regex`" },
    { body: match({ query: [{ name: "q", kind: "present" }] }), says: "query parameter" },
    { body: match({ callerKinds: ["toaster"] }), says: "kind `toaster`" },
    { body: rule({ backends: [{ service: "ml/a", weight: 0 }] }), says: "no backend with a weight" },
    { body: rule({ ports: [70_000] }), says: "port `70000`" },
    { body: rule({ mirrors: [{ service: "ml/a", sharePpm: 1_000_001 }] }), says: "more than all calls" },
    { body: rule({ stickyBy: { by: "moon" } }), says: "key `moon`" },
    { body: rule({ stickyBy: { by: "cookie" } }), says: "names no cookie" },
    {
      body: rule({ requestHeaders: [{ action: "set", name: "authorization", value: "x" }] }),
      says: "not for routes",
    },
    {
      body: rule({ requestHeaders: [{ action: "set", name: "x-a", value: "a\r\nb: c" }] }),
      says: "value of a header",
    },
    { body: rule({ requestHeaders: [{ action: "drop", name: "x-a" }] }), says: "action `drop`" },
    { body: { traffic: { lb: "random" } }, says: "load balancing `random`" },
    { body: { traffic: { lb: "consistentHash" } }, says: "no key" },
    { body: { traffic: { healthCheck: { kind: "http" } } }, says: "path ``" },
    { body: { traffic: { healthCheck: { kind: "tcp" } } }, says: "interval is 0" },
    {
      body: { traffic: { outlier: { consecutive_5xx: 1, ejectForMs: 1, panicPercent: 101 } } },
      says: "panic",
    },
    { body: { traffic: { retries: { attempts: 1, on: ["rain"] } } }, says: "cause of retries `rain`" },
    { body: { traffic: { retries: { on: ["503"] } } }, says: "number of retries is 0" },
  ])("refuses $says", ({ body, says }) => {
    const decoded = decode(body);
    expect(decoded.ok ? "accepted" : decoded.error).toContain(says);
  });

  test("of any bytes is read or refused, never thrown at the caller", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        const decoded = decodeResource("route", "ml/scorer", Buffer.from(bytes));
        if (decoded.ok) expect(decoded.value.kind).toBe("route");
        else expect(decoded.error).not.toBe("");
      }),
    );
  });
});
