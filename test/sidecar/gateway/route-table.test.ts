import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import { RouteTable, rewriteTarget, routeOf } from "../../../sidecar/gateway/route-table.ts";
import { route } from "../../integration/gateway/edge.ts";

const listeners = [
  { name: "main", port: 8443, hosts: ["app.example.com", "*.nb.example.com"], secretName: "a" },
  { name: "other", port: 9443, hosts: ["alice.nb.example.com"], secretName: "b" },
];
const routes = [
  route({ name: "alice", hosts: ["alice.nb.example.com"] }),
  route({ name: "health", path: { kind: "exact", value: "/health" } }),
  route({ name: "api", path: { kind: "prefix", value: "/api" } }),
  route({ name: "notebooks", hosts: ["*.nb.example.com"] }),
];
const table = new RouteTable({ listeners, routes });
const named = (authority: string, path: string): string | undefined => {
  const entry = table.find(authority);
  return entry === undefined ? undefined : routeOf(entry, path)?.name;
};

describe("routes", () => {
  test.each([
    ["app.example.com", "/health", "health"],
    ["app.example.com", "/health/", undefined],
    ["app.example.com", "/api", "api"],
    ["app.example.com", "/api/x", "api"],
    ["app.example.com", "/apis", undefined],
    ["APP.example.com:8443", "/api", "api"],
    ["app.example.com.", "/api", "api"],
    ["bob.nb.example.com", "/", "notebooks"],
    ["alice.nb.example.com", "/", "alice"],
    ["a.b.nb.example.com", "/", undefined],
    ["nb.example.com", "/", undefined],
    ["evil.example", "/", undefined],
    ["app.example.com@evil.example", "/", undefined],
  ])("%s %s means %s", (authority, path, name) => {
    expect(named(authority, path)).toBe(name);
  });

  test("a name of its own keeps the listeners of the wildcard that covers it", () => {
    expect([...(table.find("alice.nb.example.com")?.listeners ?? [])].sort()).toEqual(["main", "other"]);
    expect([...(table.find("bob.nb.example.com")?.listeners ?? [])]).toEqual(["main"]);
  });

  test("no text is taken for a host that it does not name", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 40 }), (text) => {
        const found = table.find(text);
        if (found !== undefined) expect(text.toLowerCase()).toMatch(/example\.com\.?(?::\d+)?$/);
      }),
    );
  });
});

describe("rewriting", () => {
  const to = (value: string, prefix: string) =>
    route({ path: { kind: "prefix", value }, rewrite: { prefix, host: undefined } });
  test.each([
    ["/api", "/v2", "/api/x?y=1", "/v2/x?y=1"],
    ["/api", "/", "/api/x", "/x"],
    ["/api", "/", "/api", "/"],
    ["/api", "/", "/api?y", "/?y"],
    ["/api/", "/v2/", "/api/x", "/v2/x"],
    ["/", "/base", "/x", "/base/x"],
    ["/api", "/v2", "/%61pi/x", undefined],
  ])("%s to %s makes of %s %s", (value, prefix, target, expected) => {
    expect(rewriteTarget(to(value, prefix), target)).toBe(expected);
  });
});
