import { expect, test } from "@jest/globals";
import { Correlation, originChain } from "../../../sidecar/telemetry/correlation.ts";
import { TestTokenService, txnClaims } from "../../fakes/txn.ts";

const chain = (key: string) => ({ via: [{ s: key, o: "op" }], caveat: undefined, txn: undefined, key });

test("a chain is found while its request is open, and ten seconds after", () => {
  const correlation = new Correlation();
  correlation.begin("t", chain("a"), 0);
  expect(correlation.find("t", 60_000)?.key).toBe("a");
  correlation.end("t");
  expect(correlation.find("t", 69_000)?.key).toBe("a");
  expect(correlation.find("t", 200_000)).toBeUndefined();
});

test("two different chains under one trace id cancel each other, equal ones do not", () => {
  const correlation = new Correlation();
  correlation.begin("same", chain("a"), 0);
  correlation.begin("same", chain("a"), 1);
  expect(correlation.find("same", 2)?.key).toBe("a");
  correlation.begin("same", chain("b"), 3);
  expect(correlation.find("same", 4)).toBeUndefined();
});

test("memory is bounded, and open requests survive the turn", () => {
  const correlation = new Correlation();
  correlation.begin("open", chain("a"), 0);
  for (let i = 0; i < 200_000; i++) {
    correlation.begin(`t${i}`, chain("x"), 1);
    correlation.end(`t${i}`);
  }
  expect(correlation.size).toBeLessThanOrEqual(100_002);
  expect(correlation.find("open", 2)?.key).toBe("a");
});

test("a chain that begins here has no hops, and is told apart by its token", () => {
  const service = new TestTokenService();
  const [alice, bob] = ["alice", "bob"].map((user) => service.held(txnClaims(user, Date.UTC(2026, 10, 21))));
  if (alice === undefined || bob === undefined) throw new Error("no tokens");
  expect(originChain(alice)).toEqual({ via: [], caveat: undefined, txn: alice, key: alice.tth });
  expect(originChain(bob).key).not.toBe(originChain(alice).key);
});
