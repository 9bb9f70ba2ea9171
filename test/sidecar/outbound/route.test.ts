import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import type { RouteRule, StickyKey } from "../../../sidecar/core/traffic/route.ts";
import type { Destination } from "../../../sidecar/outbound/resolve.ts";
import { cookieOf, DestinationRoute, stickyHash } from "../../../sidecar/outbound/route.ts";
import type { RoutedCall } from "../../../sidecar/outbound/route-match.ts";
import { createField } from "../../../sidecar/wire/field.ts";
import { txnClaims } from "../../fakes/txn.ts";

const RULE: RouteRule = {
  name: "r",
  matches: [],
  ports: undefined,
  backends: [],
  mirrors: [],
  stickyBy: undefined,
  requestTimeoutMs: undefined,
  tryTimeoutMs: undefined,
  requestHeaders: [],
  responseHeaders: [],
};
// Of a destination a route looks at its port alone.
const destination = (name: string): Destination => ({ name, port: { port: 80 } }) as unknown as Destination;
const OWN = destination("own");
const V1 = destination("v1");
const V2 = destination("v2");

function routeOf(rule: Partial<RouteRule>, random: () => number = Math.random): DestinationRoute {
  return new DestinationRoute(OWN, [{ ...RULE, ...rule }], {
    caller: { kind: "job", name: "j", spiffeId: "spiffe://d/ns/a/sa/b/job/j" },
    pod: "pod-1",
    random,
    destinationOf: (service) => ({ "ns/v1": V1, "ns/v2": V2 })[service],
  });
}
const call = (fields: readonly [string, string][] = []): RoutedCall => ({
  method: "GET",
  fields: fields.map(([name, value]) => createField(name, value)),
  classified: {} as RoutedCall["classified"], // a rule without matches does not look at it
  claims: undefined,
});
const weights = (one: number, two: number) => [
  { service: "ns/v1", port: undefined, weight: one },
  { service: "ns/v2", port: undefined, weight: two },
];
const USER: StickyKey = { by: "header", name: "x-user" };
const of = (route: DestinationRoute, user: string): Destination | undefined =>
  route.choose(call([["x-user", user]]))?.destination;

describe("a split by weight", () => {
  test("gives each backend the part of the random numbers that its weight is", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 100 }),
        fc.integer({ min: 1, max: 100 }),
        fc.integer({ min: 0, max: 999 }),
        (one, two, step) => {
          const route = routeOf({ backends: weights(one, two) }, () => step / 1_000);
          const expected = (step / 1_000) * (one + two) < one ? V1 : V2;
          expect(route.choose(call())?.destination).toBe(expected);
        },
      ),
    );
  });

  test("keeps a key on its side, and moves only what the weights moved", () => {
    const before = routeOf({ backends: weights(90, 10), stickyBy: USER });
    const after = routeOf({ backends: weights(80, 20), stickyBy: USER });
    let second = 0;
    let moved = 0;
    for (let i = 0; i < 10_000; i++) {
      const side = of(before, `user-${i}`);
      expect(of(before, `user-${i}`)).toBe(side);
      if (side === V2) second++;
      const now = of(after, `user-${i}`);
      if (now === side) continue;
      moved++;
      // Nobody goes back.
      expect([side, now]).toEqual([V1, V2]);
    }
    expect(second / 10_000).toBeGreaterThan(0.08);
    expect(second / 10_000).toBeLessThan(0.12);
    expect(moved / 10_000).toBeGreaterThan(0.08);
    expect(moved / 10_000).toBeLessThan(0.12);
  });

  test("leaves a request without the key to chance", () => {
    const sides = [0.1, 0.9].map(
      (place) =>
        routeOf({ backends: weights(50, 50), stickyBy: USER }, () => place).choose(call())?.destination,
    );
    expect(sides).toEqual([V1, V2]);
  });
});

describe("a route", () => {
  test("without backends goes to the service itself, with an unknown one nowhere", () => {
    expect(routeOf({}).choose(call())).toMatchObject({ destination: OWN });
    const backends = [{ service: undefined, port: undefined, weight: 1 }];
    expect(routeOf({ backends }).choose(call())).toMatchObject({ destination: undefined });
  });

  test("of another port, or of callers of another kind, is none", () => {
    expect(routeOf({ ports: [90] }).isEmpty).toBe(true);
    expect(routeOf({ ports: [80] }).isEmpty).toBe(false);
  });
});

describe("sticky keys", () => {
  const fields = [createField("cookie", "a=1; sid=x y; sid=2"), createField("cookie", "b=3")];

  test("cookies are found by their whole name, the first of one name counts", () => {
    expect(cookieOf(fields, "sid")).toBe("x y");
    expect(cookieOf(fields, "b")).toBe("3");
    expect(cookieOf(fields, "id")).toBeUndefined();
  });

  test("a user is the same everywhere, nobody is alone, and every pod and workload is its own", () => {
    const hash = (key: StickyKey, pod = "p", sub?: string) =>
      stickyHash(
        key,
        { fields, claims: sub === undefined ? undefined : txnClaims(sub, 0) },
        "spiffe://d",
        pod,
      );
    expect(hash({ by: "user" })).toBeUndefined();
    expect(hash({ by: "user" }, "p", "i|a")).toBe(hash({ by: "user" }, "q", "i|a"));
    expect(hash({ by: "user" }, "p", "i|a")).not.toBe(hash({ by: "user" }, "p", "i|b"));
    expect(hash({ by: "workload" })).toBe(hash({ by: "workload" }, "q"));
    expect(hash({ by: "sourceIp" })).not.toBe(hash({ by: "sourceIp" }, "q"));
    expect(hash({ by: "cookie", name: "b" })).toBe(hash({ by: "cookie", name: "b" }));
  });
});
