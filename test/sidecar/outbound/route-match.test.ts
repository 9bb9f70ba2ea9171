import { describe, expect, test } from "@jest/globals";
import type { Classified } from "../../../sidecar/core/policy/classified.ts";
import type { RouteMatch } from "../../../sidecar/core/traffic/route.ts";
import { compileMatches, matchesCall, type RoutedCall } from "../../../sidecar/outbound/route-match.ts";
import { createField } from "../../../sidecar/wire/field.ts";
import { txnClaims } from "../../fakes/txn.ts";

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
const caller = { kind: "notebook", name: "nb-1" };

function call(over: {
  method?: string;
  path?: string;
  query?: string;
  fields?: readonly [string, string][];
  operation?: string;
  roles?: readonly string[];
}): RoutedCall {
  const { method = "GET", path = "/", query, fields = [], operation, roles } = over;
  const claims = txnClaims("okta|alice", 0);
  const [, service, name, rest] = path.split("/");
  const grpc = service && name && rest === undefined ? { service, method: name } : undefined;
  return {
    method,
    fields: fields.map(([one, value]) => createField(one, value)),
    classified: {
      operation: operation === undefined ? { kind: "unknown" } : { kind: "known", name: operation },
      request: { method, path, grpc, mcp: undefined },
      query,
    } as unknown as Classified, // what matches look at
    claims: roles && { ...claims, tctx: { ...claims.tctx, roles } },
  };
}

const holds = (match: Partial<RouteMatch>, one: RoutedCall): boolean =>
  matchesCall(compileMatches([{ ...NONE, ...match }], caller), one);

describe("matches", () => {
  test.each<[string, Partial<RouteMatch>, RoutedCall, boolean]>([
    ["exact path", { path: { kind: "exact", value: "/a" } }, call({ path: "/a" }), true],
    ["exact path of another case", { path: { kind: "exact", value: "/a" } }, call({ path: "/A" }), false],
    ["exact path below", { path: { kind: "exact", value: "/a" } }, call({ path: "/a/b" }), false],
    ["prefix itself", { path: { kind: "prefix", value: "/v2" } }, call({ path: "/v2" }), true],
    ["prefix below", { path: { kind: "prefix", value: "/v2" } }, call({ path: "/v2/x" }), true],
    ["prefix of a longer segment", { path: { kind: "prefix", value: "/v2" } }, call({ path: "/v20" }), false],
    ["prefix with a slash", { path: { kind: "prefix", value: "/v2/" } }, call({ path: "/v2" }), true],
    ["prefix of everything", { path: { kind: "prefix", value: "/" } }, call({ path: "/x" }), true],
    ["method", { methods: ["POST", "GET"] }, call({}), true],
    ["another method", { methods: ["POST"] }, call({}), false],
    ["header", { headers: [{ name: "x", kind: "exact", value: "1" }] }, call({ fields: [["x", "1"]] }), true],
    [
      "header of two values",
      { headers: [{ name: "x", kind: "exact", value: "1" }] },
      call({
        fields: [
          ["x", "1"],
          ["x", "2"],
        ],
      }),
      false,
    ],
    [
      "header that begins so",
      { headers: [{ name: "x", kind: "prefix", value: "ab" }] },
      call({ fields: [["x", "abc"]] }),
      true,
    ],
    [
      "header that is there",
      { headers: [{ name: "x", kind: "present", value: "" }] },
      call({ fields: [["x", ""]] }),
      true,
    ],
    ["header that is not there", { headers: [{ name: "x", kind: "present", value: "" }] }, call({}), false],
    ["query", { query: [{ name: "v", kind: "exact", value: "a b" }] }, call({ query: "u=1&v=a%20b" }), true],
    [
      "query of another value",
      { query: [{ name: "v", kind: "exact", value: "2" }] },
      call({ query: "v=1" }),
      false,
    ],
    [
      "query given twice",
      { query: [{ name: "v", kind: "exact", value: "1" }] },
      call({ query: "v=1&v=1" }),
      false,
    ],
    ["gRPC service", { grpc: { service: "s.S", method: "" } }, call({ path: "/s.S/M" }), true],
    ["gRPC method", { grpc: { service: "", method: "M" } }, call({ path: "/s.S/M" }), true],
    ["another gRPC method", { grpc: { service: "s.S", method: "N" } }, call({ path: "/s.S/M" }), false],
    ["operation", { operations: ["serving.invoke"] }, call({ operation: "serving.invoke" }), true],
    ["operation below", { operations: ["serving.invoke"] }, call({ operation: "serving.invoke.chat" }), true],
    [
      "operation of a longer name",
      { operations: ["serving.invoke"] },
      call({ operation: "serving.invoker" }),
      false,
    ],
    ["unknown operation", { operations: ["serving"] }, call({}), false],
    ["kind of the caller", { callerKinds: ["notebook"] }, call({}), true],
    ["another kind", { callerKinds: ["job"] }, call({}), false],
    ["name of the caller", { callerNames: ["nb-*"] }, call({}), true],
    ["another name", { callerNames: ["nb"] }, call({}), false],
    ["role of nobody", { roles: ["oncall"] }, call({}), false],
    ["role of the user", { roles: ["admin", "oncall"] }, call({ roles: ["ds", "oncall"] }), true],
    ["another role", { roles: ["oncall"] }, call({ roles: ["on"] }), false],
    ["no role", { roles: ["oncall"] }, call({ roles: [] }), false],
    [
      "two conditions of which one fails",
      { methods: ["GET"], path: { kind: "exact", value: "/b" } },
      call({ path: "/a" }),
      false,
    ],
  ])("%s", (_name, match, one, expected) => {
    expect(holds(match, one)).toBe(expected);
  });

  test("are decided once where only the caller matters", () => {
    expect(compileMatches([], caller)).toBe("always");
    expect(compileMatches([{ ...NONE, callerKinds: ["notebook"] }], caller)).toBe("always");
    const asRole = { ...NONE, roles: ["r"] };
    expect(compileMatches([{ ...NONE, callerKinds: ["job"] }, asRole], caller)).toEqual([asRole]);
    expect(compileMatches([{ ...asRole, callerKinds: ["job"] }], caller)).toBe("never");
  });
});
