import { describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import type { TxnClaims } from "../../../sidecar/core/identity/txn.ts";
import { AMBIGUOUS, Correlation, chainOf, originChain } from "../../../sidecar/telemetry/correlation.ts";
import { TestTokenService, txnClaims } from "../../fakes/txn.ts";

const chain = (name: string) => chainOf([{ s: name, o: "op" }], undefined, undefined);

test("a chain is found while its request is open, and ten seconds after", () => {
  const correlation = new Correlation();
  correlation.begin("t", chain("a"), 0);
  expect(correlation.find("t", 60_000)).toEqual(chain("a"));
  correlation.end("t", 60_000);
  expect(correlation.find("t", 69_000)).toEqual(chain("a"));
  expect(correlation.find("t", 200_000)).toBeUndefined();
});

test("a request that took long is known ten seconds after all the same, however quiet it was meanwhile", () => {
  const correlation = new Correlation();
  correlation.begin("t", chain("a"), 0);
  correlation.end("t", 21_000);
  expect(correlation.find("t", 30_999)).toEqual(chain("a"));
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
    correlation.end(`t${i}`, 2);
  }
  expect(correlation.size).toBeLessThanOrEqual(100_002);
  expect(correlation.find("open", 2)).toEqual(chain("a"));
});

test("with too many open requests new ones continue nothing, and each costs no walk through all", () => {
  const correlation = new Correlation();
  let noted = 0;
  for (let i = 0; i < 200_000; i++) if (correlation.begin(`t${i}`, chain("a"), 1)) noted++;
  expect(noted).toBe(50_000);
  expect(correlation.size).toBe(50_000);
  expect(correlation.find("t49999", 2)).toEqual(chain("a"));
  expect(correlation.find("t50000", 2)).toBeUndefined();
  // What is known stays known, and is still told apart.
  expect(correlation.begin("t0", chain("b"), 2)).toBe(true);
  expect(correlation.find("t0", 2)).toBe(AMBIGUOUS);
  for (let i = 0; i < 50_000; i++) correlation.end(`t${i}`, 2);
  expect(correlation.begin("next", chain("a"), 3)).toBe(true);
});

test("whatever happens in whatever order, nobody is taken for somebody else, and a request is known while it is open and ten seconds after", () => {
  const people = ["alice", "bob", undefined] as const;
  const service = new TestTokenService();
  const chains = people.map((user) =>
    chainOf(
      [{ s: "gw", o: "op" }],
      undefined,
      user === undefined ? undefined : service.held(txnClaims(user, Date.UTC(2026, 10, 21))),
    ),
  );
  const step = fc.record({
    trace: fc.constantFrom("t1", "t2", "t3"),
    who: fc.constantFrom(0, 1, 2),
    action: fc.constantFrom("begin", "begin", "end", "find"),
    passesMs: fc.constantFrom(0, 1, 4_000, 11_000, 25_000),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const correlation = new Correlation();
      // Per trace: whose requests are open, and who ended one when.
      const open = new Map<string, number[]>();
      const ended = new Map<string, { who: number; atMs: number }[]>();
      let nowMs = 0;
      for (const { trace, who, action, passesMs } of steps) {
        nowMs += passesMs;
        const mine = open.get(trace) ?? [];
        if (action === "begin") {
          correlation.begin(trace, chains[who] ?? AMBIGUOUS, nowMs);
          open.set(trace, [...mine, who]);
        } else if (action === "end" && mine.length > 0) {
          correlation.end(trace, nowMs);
          const [first = 0, ...rest] = mine;
          open.set(trace, rest);
          ended.set(trace, [...(ended.get(trace) ?? []), { who: first, atMs: nowMs }]);
        }
        const now = open.get(trace) ?? [];
        const found = correlation.find(trace, nowMs);
        const lately = (ended.get(trace) ?? []).filter(({ atMs }) => nowMs - atMs < 10_000);
        const possible = new Set([...now, ...lately.map((one) => one.who)]);
        if (possible.size > 0) expect(found).toBeDefined();
        if (possible.size > 1) expect(found).toBe(AMBIGUOUS);
        if (possible.size === 1 && found !== AMBIGUOUS && found !== undefined)
          expect(possible.has(chains.indexOf(found))).toBe(true);
      }
    }),
  );
});

test("a chain that begins here has no hops, and is told apart by its token", () => {
  const service = new TestTokenService();
  const [alice, bob] = ["alice", "bob"].map((user) => service.held(txnClaims(user, Date.UTC(2026, 10, 21))));
  if (alice === undefined || bob === undefined) throw new Error("no tokens");
  expect(originChain(alice)).toMatchObject({ via: [], caveat: undefined, txn: alice });
  expect(originChain(bob).key).not.toBe(originChain(alice).key);
});

test("of two tokens of one login the later counts, whichever came first", () => {
  const service = new TestTokenService();
  const at = Date.UTC(2026, 10, 21);
  const claims = txnClaims("alice", at);
  const [early, late] = [0, 60].map((more) =>
    originChain(service.held({ ...claims, iat: claims.iat + more, exp: claims.exp + more })),
  );
  for (const order of [
    [early, late],
    [late, early],
  ]) {
    const correlation = new Correlation();
    for (const one of order) correlation.begin("t", one ?? AMBIGUOUS, 0);
    expect(correlation.find("t", 1)).toBe(late);
  }
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
    [
      "a renewed token of the same login",
      by(held({ iat: first.claims.iat + 1, exp: first.claims.exp + 1, txn: "next" })),
      true,
    ],
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
