import { describe, expect, test } from "@jest/globals";
import {
  connectionOptions,
  type Edge,
  HOP_BY_HOP_FIELDS,
  IDENTITY_FIELDS,
  isStripped,
  joinedField,
  lookupField,
  MESH_HOP_FIELDS,
  METHOD_OVERRIDE_FIELDS,
} from "../../../../sidecar/core/http/headers.ts";
import { FieldFlag, fieldFlags } from "../../../../sidecar/wire/field.ts";

describe("isStripped", () => {
  test.each<[string, Edge, boolean]>([
    ["x-mesh-caller", "from-mesh", true],
    ["x_mesh_caller", "from-mesh", true],
    ["x.mesh_caller", "from-application", true],
    ["x-forwarded-user", "from-application", true],
    ["txn-token", "from-application", false],
    ["txn_token", "from-application", true],
    ["txn-token", "from-mesh", true],
    ["txn-token", "response", true],
    ["countersign-port", "from-application", true],
    ["x-http-method-override", "from-mesh", true],
    ["x_http_method_override", "from-mesh", true],
    ["x-http-method-override", "from-application", false],
    ["connection", "response", true],
    ["te", "from-mesh", true],
    ["x-forwarded-for", "from-mesh", false],
    ["authorization", "from-mesh", false],
    ["content-type", "response", false],
  ])("%s at %s: %s", (name, edge, expected) => {
    expect(isStripped(name, edge)).toBe(expected);
  });
});

test("the flags of fields know the same names", () => {
  for (const name of IDENTITY_FIELDS) expect(fieldFlags(name) & FieldFlag.identity).not.toBe(0);
  for (const name of METHOD_OVERRIDE_FIELDS) expect(fieldFlags(name) & FieldFlag.methodOverride).not.toBe(0);
  for (const name of HOP_BY_HOP_FIELDS)
    expect(fieldFlags(name) & (FieldFlag.hopByHop | FieldFlag.framing)).not.toBe(0);
  for (const name of MESH_HOP_FIELDS) expect(IDENTITY_FIELDS.has(name)).toBe(true);
});

test.each([
  ["close", ["close"]],
  ["Keep-Alive, X-Foo", ["keep-alive", "x-foo"]],
  ["", []],
  ["close, x y", undefined],
  ["authorization", undefined],
  ["X_Mesh_Caller", undefined],
  ["workload-proof-token", undefined],
])("connection options of %j", (value, expected) => {
  expect(connectionOptions(value)).toEqual(expected);
});

test("a field sent twice is never read as its first value", () => {
  const fields = ["a", "b", "c"].map((value) => ({ name: "content-type", value }));
  expect([0, 1, 2, 3].map((count) => lookupField(fields.slice(0, count), "content-type"))).toEqual([
    undefined,
    "a",
    ["a", "b"],
    ["a", "b", "c"],
  ]);
  expect([0, 1, 2].map((count) => joinedField(fields.slice(0, count), "content-type"))).toEqual([
    undefined,
    "a",
    "a, b",
  ]);
});
