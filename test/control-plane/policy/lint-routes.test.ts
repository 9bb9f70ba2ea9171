import { describe, expect, test } from "@jest/globals";
import { createLinter } from "../../../control-plane/policy/lint.ts";
import { createObjectParser, type TypedObject } from "../../../control-plane/policy/typed-object.ts";
import type { RoutePolicy, TrafficPolicy } from "../../../control-plane/sources/store.ts";
import { clusterState, workload } from "../../fakes/resources.ts";

const parse = createObjectParser();
function object(kind: "RoutePolicy" | "TrafficPolicy", name: string, spec: object): TypedObject {
  const parsed = parse({
    kind,
    name,
    namespace: "ns",
    labels: new Map(),
    generation: 1,
    status: undefined,
    spec,
  });
  if (!parsed.ok) throw new Error(JSON.stringify(parsed.error));
  return parsed.value;
}
const route = (name: string, rules: readonly object[], service = "scorer") =>
  object("RoutePolicy", name, { service, rules });
const contentOf = <T>(one: TypedObject): T => one.value as T; // made above, of the kind that is asked for

const linter = createLinter(new Map());
function lint(one: TypedObject, others: readonly TypedObject[] = []): string[] {
  const of = <T extends { readonly name: string }>(kind: string) =>
    new Map(
      others
        .filter((other) => other.kind === kind)
        .map((other) => [`ns/${contentOf<T>(other).name}`, contentOf<T>(other)] as const),
    );
  const state = clusterState([workload("scorer"), workload("v1"), workload("v2")], {
    routePolicies: of<RoutePolicy>("RoutePolicy"),
    trafficPolicies: of<TrafficPolicy>("TrafficPolicy"),
  });
  return linter.lint(one, state, 0).map(({ reason, path, message }) => `${reason} ${path}: ${message}`);
}
const to = { backends: [{ service: "v1" }] };
const asks = { match: { methods: ["GET"] } };

describe("a RoutePolicy", () => {
  test("of which every rule can matter gets no warning", () => {
    expect(lint(route("r", [{ ...asks, ...to }, to]))).toEqual([]);
  });

  test.each([
    {
      name: "a rule behind one for everything",
      rules: [to, { ...asks, ...to }],
      says: /^Shadowed spec\.rules\[1\]: rule 0/,
    },
    {
      name: "a rule given twice",
      rules: [
        { ...asks, ...to },
        { ...asks, backends: [{ service: "v2" }] },
      ],
      says: /^Shadowed spec\.rules\[1\]/,
    },
    {
      name: "a role that nobody can have",
      rules: [{ match: { user: { roles: ["r"] } }, ...to }],
      says: /^UnknownRole spec\.rules\[0\]\.match\.user\.roles\[0\]: nothing gives anybody a role `r`/,
    },
    {
      name: "a mirror of POST alone",
      rules: [{ match: { methods: ["POST"] }, mirror: { service: "v2" } }],
      says: /^NeverMatches spec\.rules\[0\]\.mirror: .*allMethods/,
    },
    {
      name: "a backend that is not there",
      rules: [{ backends: [{ service: "v3" }] }],
      says: /^BackendNotFound .*did you mean `v1`/,
    },
  ])("is warned of $name", ({ rules, says }) => {
    const found = lint(route("r", rules));
    expect(found).toHaveLength(1);
    expect(found[0]).toMatch(says);
  });

  test("is warned of a service that is not there, with the closest name", () => {
    expect(lint(route("r", [to], "scorrer"))).toEqual([
      "ServiceNotFound spec.service: there is no service `ns/scorrer` with workloads of the mesh; did you mean `scorer`",
    ]);
  });

  test("is warned of another one that comes first", () => {
    expect(lint(route("b", [to]), [route("a", [{ ...asks, ...to }])])[0]).toMatch(/^Overlapping .*`a`/);
    expect(lint(route("b", [to]), [route("a", [to])])[0]).toMatch(/^Shadowed .*`a` comes first/);
    expect(lint(route("a", [to]), [route("b", [to])])).toEqual([]);
  });
});

describe("a TrafficPolicy", () => {
  const traffic = (name: string, spec: object) => object("TrafficPolicy", name, spec);

  test("is warned of targets that are not there and of what another one says", () => {
    expect(lint(traffic("t", { lb: "roundRobin" }))).toEqual([]);
    expect(lint(traffic("t", { targets: [{ names: ["nobody"] }], lb: "roundRobin" }))[0]).toMatch(
      /^TargetNotFound spec\.targets/,
    );
    const found = lint(traffic("u", { slowStart: "2s" }), [traffic("t", { slowStart: "1s" })]);
    expect(found[0]).toMatch(/^Conflicted spec\.slowStart: TrafficPolicy `t`/);
  });
});
