import { describe, expect, test } from "@jest/globals";
import type { TxnClaims } from "../../../sidecar/core/identity/txn.ts";
import { AMBIGUOUS, Correlation, chainOf, originChain } from "../../../sidecar/telemetry/correlation.ts";
import { TestTokenService, txnClaims } from "../../fakes/txn.ts";

const chain = (name: string) => chainOf([{ s: name, o: "op" }], undefined, undefined);

test("a chain is found while its request is open, and ten seconds after", () => {
  const correlation = new Correlation();
  correlation.begin("t", chain("a"), 0);
  expect(correlation.find("t", 60_000)).toEqual(chain("a"));
  correlation.end("t");
  expect(correlation.find("t", 69_000)).toEqual(chain("a"));
  expect(correlation.find("t", 200_000)).toBeUndefined();
});

test("two different chains under one trace id cancel each other, equal ones do not", () => {
  const correlation = new Correlation();
  correlation.begin("same", chain("a"), 0);
  correlation.begin("same", chain("a"), 1);
  expect(correlation.find("same", 2)).toEqual(chain("a"));
  correlation.begin("same", chain("b"), 3);
  expect(correlation.find("same", 4)).toBe(AMBIGUOUS);
});

test("memory is bounded, and open requests survive the turn", () => {
  const correlation = new Correlation();
  correlation.begin("open", chain("a"), 0);
  for (let i = 0; i < 200_000; i++) {
    correlation.begin(`t${i}`, chain("x"), 1);
    correlation.end(`t${i}`);
  }
  expect(correlation.size).toBeLessThanOrEqual(100_002);
  expect(correlation.find("open", 2)).toEqual(chain("a"));
});

test("a chain that begins here has no hops, and is told apart by its token", () => {
  const service = new TestTokenService();
  const [alice, bob] = ["alice", "bob"].map((user) => service.held(txnClaims(user, Date.UTC(2026, 10, 21))));
  if (alice === undefined || bob === undefined) throw new Error("no tokens");
  expect(originChain(alice)).toMatchObject({ via: [], caveat: undefined, txn: alice });
  expect(originChain(bob).key).not.toBe(originChain(alice).key);
});

describe("chains under one trace id", () => {
  const service = new TestTokenService();
  const NOW = Date.UTC(2026, 10, 21);
  const held = (over: Partial<TxnClaims>, user = "alice") => service.held(txnClaims(user, NOW, over));
  const first = held({});
  const by = (txn: typeof first | undefined, operation = "a.b", name = "gw", caveat?: { scope: string }) =>
    chainOf([{ s: name, o: operation }], caveat, txn);
  test.each<[string, ReturnType<typeof by>, boolean]>([
    ["the same", by(first), true],
    ["another operation of the same way", by(first, "c.d"), true],
    ["a renewed token of the same login", by(held({ exp: first.claims.exp - 1, txn: "next" })), true],
    ["another user", by(held({}, "bob")), false],
    ["no user", by(undefined), false],
    ["another login of the same user", by(held({ rctx: { sid: "other" } })), false],
    ["a stronger login", by(held({ tctx: { ...first.claims.tctx, acr: "3" } })), false],
    ["a narrower scope", by(held({ scope: "a" })), false],
    ["another way", by(first, "a.b", "other"), false],
    ["another caveat", by(first, "a.b", "gw", { scope: "a" }), false],
  ])("%s", (_name, second, isOne) => {
    const correlation = new Correlation();
    correlation.begin("t", by(first), 0);
    correlation.begin("t", second, 1);
    expect(correlation.find("t", 2)).toBe(
      isOne && second.key !== by(first).key ? second : correlation.find("t", 2),
    );
    expect(correlation.find("t", 2) === AMBIGUOUS).toBe(!isOne);
    // Once it stood for two, it is nobody's as long as it is known.
    correlation.begin("t", by(first), 3);
    expect(correlation.find("t", 4) === AMBIGUOUS).toBe(!isOne);
  });
});
