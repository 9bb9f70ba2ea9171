import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "@jest/globals";
import type { HeldTxn } from "../../../sidecar/core/identity/held-txn.ts";
import { silentLogger } from "../../../sidecar/core/runtime/log.ts";
import { chainOf } from "../../../sidecar/telemetry/correlation.ts";
import { HeldChains } from "../../../sidecar/telemetry/held-chains.ts";
import { HeldFile } from "../../../sidecar/tokens/held-file.ts";
import { testId } from "../../fakes/authority.ts";
import { TestTokenService, txnClaims } from "../../fakes/txn.ts";

const NOW = Date.UTC(2026, 10, 21);
const keys = new TestTokenService();
const held = (user: string, atMs = NOW) => keys.held(txnClaims(user, atMs));

let stateDir: string;
beforeEach(() => {
  stateDir = mkdtempSync(join(tmpdir(), "cs-held-"));
});
afterEach(() => rmSync(stateDir, { recursive: true }));

const fileOf = (chains: HeldChains, own?: HeldTxn) =>
  new HeldFile({ stateDir, held: chains, own: () => own, log: silentLogger });
const via = [{ s: testId("gateway"), o: "notebook.kernel" }];

test("what a sidecar holds is held after its restart, but for what is over", async () => {
  const before = new HeldChains();
  const file = fileOf(before, held("own"));
  expect(file.start(NOW)).toBeUndefined();
  const alice = chainOf(via, { scope: "thing", exp: 5 }, held("alice"));
  const old = chainOf([], undefined, held("old", NOW - 400_000));
  for (const chain of [alice, old]) before.deliver(chain);
  await file.close();
  expect(statSync(join(stateDir, "held-txns.json")).mode & 0o777).toBe(0o600);
  const after = new HeldChains();
  const again = fileOf(after);
  expect(again.start(NOW + 1_000)?.claims.sub).toBe("okta-main|own");
  expect([...after.chains()]).toEqual([alice]);
  expect(after.find(alice.txn?.token ?? "")).toEqual(alice);
  await again.close();
  const later = fileOf(new HeldChains());
  expect(later.start(NOW + 400_000)).toBeUndefined();
  await later.close();
});

test.each([
  ["nothing", ""],
  ["a list", "[]"],
  ["another version", '{"version":2,"chains":[]}'],
  ["a token that is none", '{"version":1,"chains":[{"token":"a.b.c","via":[]}],"own":"x"}'],
  ["a hop that is none", JSON.stringify({ version: 1, chains: [{ token: held("a").token, via: ["x"] }] })],
  [
    "a caveat that cannot be read",
    JSON.stringify({ version: 1, chains: [{ token: held("a").token, via: [], caveat: "all" }] }),
  ],
])("a file with %s holds nothing", async (_name, text) => {
  writeFileSync(join(stateDir, "held-txns.json"), text);
  const chains = new HeldChains();
  const file = fileOf(chains);
  expect(file.start(NOW)).toBeUndefined();
  expect(chains.size).toBe(0);
  await file.close();
});

test("a token by two ways keeps the longer one, and goes a minute after its end", () => {
  const chains = new HeldChains();
  const txn = held("alice");
  const [short, long] = [chainOf([], undefined, txn), chainOf(via, undefined, txn)];
  chains.deliver(short);
  chains.deliver(long);
  chains.deliver(short);
  expect(chains.find(txn.token)).toBe(long);
  chains.sweep(NOW + 359_000);
  expect(chains.size).toBe(1);
  chains.sweep(NOW + 360_000);
  expect(chains.size).toBe(0);
});
