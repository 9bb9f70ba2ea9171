import { describe, expect, test } from "@jest/globals";
import { readGatewayRoute } from "../../../control-plane/policy/gateway-route.ts";

const service = (name: string, more: object = {}) => ({ group: "", kind: "Service", name, ...more });

function read(spec: object, kind: "HTTPRoute" | "GRPCRoute" = "HTTPRoute") {
  return readGatewayRoute({
    kind,
    name: "r",
    namespace: "ml",
    generation: 3,
    createdAtMs: 7,
    spec: { parentRefs: [service("scorer")], ...spec },
  });
}
const rule = (fields: object) => ({ rules: [fields] });
const to = { backendRefs: [{ name: "v1", port: 80 }] };

describe("an HTTPRoute", () => {
  test("becomes one rule per match, with its filters and backends", () => {
    const { route, refused, refs } = read({
      hostnames: ["looked.at.by.nobody"],
      rules: [
        {
          matches: [
            { path: { type: "Exact", value: "/v2" }, method: "POST" },
            {
              path: { type: "PathPrefix", value: "/v2/models" },
              headers: [
                { name: "X-Canary", value: "yes" },
                { name: "x-canary", value: "the first counts" },
              ],
              queryParams: [{ name: "v", value: "2" }],
            },
          ],
          filters: [
            {
              type: "RequestHeaderModifier",
              requestHeaderModifier: { set: [{ name: "X-Version", value: "2" }], remove: ["X-Debug"] },
            },
            {
              type: "ResponseHeaderModifier",
              responseHeaderModifier: { add: [{ name: "x-by", value: "mesh" }] },
            },
            {
              type: "RequestMirror",
              requestMirror: {
                backendRef: { name: "v3", port: 80 },
                fraction: { numerator: 1, denominator: 20 },
              },
            },
          ],
          backendRefs: [
            { name: "v1", port: 80, weight: 9 },
            { name: "v2", port: 80 },
          ],
          timeouts: { request: "1m", backendRequest: "500ms" },
        },
      ],
    });
    expect([refused, refs]).toEqual([undefined, undefined]);
    expect(route).toMatchObject({
      kind: "HTTPRoute",
      parents: [{ service: "ml/scorer", port: undefined }],
      rules: [
        { matches: [{ path: { kind: "exact", value: "/v2" }, methods: ["POST"] }] },
        {
          name: "HTTPRoute ml/r rules[0]",
          matches: [
            {
              path: { kind: "prefix", value: "/v2/models" },
              headers: [{ name: "x-canary", kind: "exact", value: "yes" }],
              query: [{ name: "v", kind: "exact", value: "2" }],
            },
          ],
          backends: [
            { service: "ml/v1", port: 80, weight: 9 },
            { service: "ml/v2", port: 80, weight: 1 },
          ],
          mirrors: [{ service: "ml/v3", port: 80, share: 0.05, allMethods: true }],
          requestHeaders: [
            { action: "set", name: "x-version", value: "2" },
            { action: "remove", name: "x-debug", value: "" },
          ],
          responseHeaders: [{ action: "add", name: "x-by", value: "mesh" }],
          requestTimeoutMs: 60_000,
          tryTimeoutMs: 500,
        },
      ],
    });
  });

  test("matches everything without a match, and leads nowhere without a backend", () => {
    expect(read(rule(to)).route?.rules[0]).toMatchObject({ matches: [], backends: [{ service: "ml/v1" }] });
    const { route } = read(
      rule({ matches: [{ path: { type: "PathPrefix", value: "/" } }], timeouts: { request: "0s" } }),
    );
    expect(route?.rules[0]).toMatchObject({
      matches: [],
      backends: [{ service: undefined, weight: 1 }],
      requestTimeoutMs: undefined,
    });
    expect(
      read(rule({ backendRefs: [{ name: "v1", port: 80, weight: 0 }] })).route?.rules[0]?.backends,
    ).toEqual([{ service: undefined, port: undefined, weight: 1 }]);
  });

  test.each([
    {
      name: "a regular expression",
      fields: { matches: [{ path: { type: "RegularExpression", value: "/a.*" } }] },
    },
    {
      name: "a header by expression",
      fields: { matches: [{ headers: [{ name: "a", type: "RegularExpression", value: "." }] }] },
    },
    { name: "a path with an escape", fields: { matches: [{ path: { type: "Exact", value: "/a%20b" } }] } },
    { name: "a redirect", fields: { filters: [{ type: "RequestRedirect", requestRedirect: {} }] } },
    { name: "a rewritten URL", fields: { filters: [{ type: "URLRewrite", urlRewrite: {} }] } },
    {
      name: "a changed credential",
      fields: {
        filters: [{ type: "RequestHeaderModifier", requestHeaderModifier: { remove: ["Authorization"] } }],
      },
    },
    {
      name: "a value with a line break",
      fields: {
        filters: [
          { type: "RequestHeaderModifier", requestHeaderModifier: { set: [{ name: "a", value: "b\nc" }] } },
        ],
      },
    },
    {
      name: "filters of one backend",
      fields: { backendRefs: [{ name: "v1", filters: [{ type: "URLRewrite" }] }] },
    },
    { name: "retries", fields: { retry: { attempts: 3 } } },
    { name: "sessions", fields: { sessionPersistence: {} } },
    { name: "a timeout of a year", fields: { timeouts: { request: "9000h" } } },
  ])("with $name is refused whole", ({ fields }) => {
    const { route, refused } = read({ rules: [to, { ...to, ...fields }] });
    expect(route).toBeUndefined();
    expect(refused?.reason).toBe("UnsupportedValue");
    expect(refused?.message).toMatch(/^spec\.rules\[1\]/);
  });

  test.each([
    { ref: { name: "v1", kind: "Bucket", group: "s3.example" }, reason: "InvalidKind" },
    { ref: { name: "v1", namespace: "other" }, reason: "RefNotPermitted" },
  ])("with a backend of $ref keeps its share and says $reason", ({ ref, reason }) => {
    const { route, refs } = read(rule({ backendRefs: [{ name: "v2", port: 80 }, ref] }));
    expect(refs?.reason).toBe(reason);
    expect(route?.rules[0]?.backends.map((one) => one.service)).toEqual(["ml/v2", undefined]);
  });

  test("is looked at only for parents that are Services of its own namespace", () => {
    expect(read({ parentRefs: [{ name: "gw" }] })).toMatchObject({ route: undefined, parents: [] });
    const { route, parents } = read({
      parentRefs: [
        service("scorer", { port: 80 }),
        service("far", { namespace: "other" }),
        service("x", { sectionName: "http" }),
      ],
      ...rule(to),
    });
    expect(route?.parents).toEqual([{ service: "ml/scorer", port: 80 }]);
    expect(parents.map(({ service: id, refused }) => `${id} ${refused?.reason}`)).toEqual([
      "ml/scorer undefined",
      "other/far UnsupportedValue",
      "ml/x UnsupportedValue",
    ]);
  });

  test("of whatever shape is read without an error", () => {
    for (const spec of [
      null,
      7,
      { parentRefs: 1 },
      { parentRefs: [service("a")], rules: [null, 3, { matches: {} }] },
    ])
      expect(() =>
        readGatewayRoute({
          kind: "HTTPRoute",
          name: "r",
          namespace: "ml",
          generation: 1,
          createdAtMs: 0,
          spec,
        }),
      ).not.toThrow();
  });
});

describe("a GRPCRoute", () => {
  test("matches by service and method", () => {
    const { route } = read(
      {
        rules: [
          {
            matches: [{ method: { service: "inference.S", method: "M" } }, { method: { method: "N" } }],
            ...to,
          },
        ],
      },
      "GRPCRoute",
    );
    expect(route?.rules.map(({ matches }) => matches[0]?.grpc)).toEqual([
      { service: "inference.S", method: "M" },
      { service: "", method: "N" },
    ]);
  });

  test("with an expression is refused", () => {
    const { refused } = read(
      { rules: [{ matches: [{ method: { type: "RegularExpression", service: "a.*" } }] }] },
      "GRPCRoute",
    );
    expect(refused?.reason).toBe("UnsupportedValue");
  });
});
