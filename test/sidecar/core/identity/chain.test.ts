import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import {
  checkChain,
  checkOperation,
  intersectScopes,
  narrowCaveat,
  scopeEntries,
} from "../../../../sidecar/core/identity/chain.ts";
import { testId } from "../../../fakes/authority.ts";

const via = (...names: string[]) => names.map((name) => ({ s: testId(name), o: "op" }));

describe("checkChain", () => {
  test.each([
    { name: "no earlier hop", hops: via(), n: 1, maxHops: 5, error: undefined },
    { name: "as many hops as permitted", hops: via("a", "b"), n: 3, maxHops: 3, error: undefined },
    { name: "one too many", hops: via("a", "b"), n: 3, maxHops: 2, error: "CHAIN_TOO_DEEP" },
    { name: "no hop permitted at all", hops: via(), n: 1, maxHops: 0, error: "CHAIN_TOO_DEEP" },
    {
      name: "a limit that is not a number",
      hops: via("a"),
      n: 2,
      maxHops: Number.NaN,
      error: "CHAIN_TOO_DEEP",
    },
    { name: "n that counts too few", hops: via("a", "b"), n: 1, maxHops: 5, error: "CHAIN_TOO_DEEP" },
    { name: "a workload twice", hops: via("a", "b", "a"), n: 4, maxHops: 5, error: undefined },
    { name: "a workload three times", hops: via("a", "b", "a", "a"), n: 5, maxHops: 5, error: "CHAIN_LOOP" },
    {
      name: "the caller twice before",
      hops: via("caller", "b", "caller"),
      n: 4,
      maxHops: 5,
      error: "CHAIN_LOOP",
    },
    { name: "the caller once before", hops: via("caller", "b"), n: 3, maxHops: 5, error: undefined },
  ])("$name", ({ hops, n, maxHops, error }) => {
    const result = checkChain(hops, testId("caller"), n, maxHops);
    expect(result.ok ? undefined : result.error).toBe(error);
  });
});

describe("checkOperation", () => {
  test.each([
    { op: "a.b", packs: "d1", expected: "match" },
    { op: "a.c", packs: "d1", expected: "AUTHN_PROOF_MISMATCH" },
    { op: "a.c", packs: "d2", expected: "skew" },
    { op: "a.b", packs: "d2", expected: "skew" },
  ])("$op with packs $packs is $expected", ({ op, packs, expected }) => {
    expect(checkOperation({ op, packs }, "a.b", "d1")).toBe(expected);
  });
});

describe("caveats", () => {
  test.each([
    { a: ["mlflow"], b: ["mlflow.runs"], both: ["mlflow.runs"] },
    { a: ["mlflow.runs"], b: ["mlflowx", "mlflow"], both: ["mlflow.runs"] },
    { a: ["mlflow"], b: ["mlflowx"], both: [] },
    { a: [], b: ["mlflow"], both: [] },
  ])("$a and $b both permit $both", ({ a, b, both }) => {
    expect(intersectScopes(a, b)).toEqual(both);
  });

  test("only narrow: what the result permits, both permit", () => {
    const entry = fc.constantFrom("a", "a.b", "a.b.c", "b", "ab");
    const caveat = fc.option(
      fc.record(
        { scope: fc.array(entry, { maxLength: 3 }).map((list) => list.join(" ")), exp: fc.nat(10) },
        { requiredKeys: [] },
      ),
      { nil: undefined },
    );
    const permits = (cav: { scope?: string; exp?: number } | undefined, op: string, now: number): boolean =>
      (cav?.scope === undefined || scopeEntries(cav.scope).some((e) => op === e || op.startsWith(`${e}.`))) &&
      (cav?.exp === undefined || now < cav.exp);
    fc.assert(
      fc.property(
        caveat,
        caveat,
        fc.constantFrom("a", "a.b", "a.b.c", "ab", "b", "c"),
        fc.nat(11),
        (a, b, op, now) => {
          expect(permits(narrowCaveat(a, b) as never, op, now)).toBe(
            permits(a, op, now) && permits(b, op, now),
          );
        },
      ),
    );
  });
});
