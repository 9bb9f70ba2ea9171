import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "@jest/globals";
import { batchedAudit, createTokenAuditFile, type TokenRecord } from "../../../control-plane/tokens/audit.ts";

const RECORD: TokenRecord = {
  ...{ time: "2026-11-21T10:00:00Z", action: "token.session", caller: "spiffe://a/b", address: "10.0.0.1" },
  ...{ outcome: "granted", reason: "", user: "okta-main|alice" },
};
let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "token-audit-"));
});
afterEach(() => rm(dir, { recursive: true, force: true }));

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test("records of one turn, and those that come while one is written, go together; each is awaited until it is kept", async () => {
  const written: string[] = [];
  let free = Promise.withResolvers<void>();
  const audit = batchedAudit(async (lines) => {
    await free.promise;
    written.push(lines);
  });
  const first = Promise.all([audit(RECORD), audit(RECORD)]);
  await turn();
  await turn();
  const others = [audit(RECORD), audit(RECORD), audit(RECORD)];
  let kept = 0;
  for (const one of others) void one.then(() => kept++);
  free.resolve();
  await first;
  await Promise.all(others);
  expect(written.map((lines) => lines.trim().split("\n").length)).toEqual([2, 3]);
  expect(kept).toBe(3);
  free = Promise.withResolvers<void>();
});

test("what cannot be written is told to who waits for it, and the next is tried", async () => {
  let fails = true;
  const audit = batchedAudit(async () => {
    if (fails) throw new Error("disk full");
  });
  await expect(audit(RECORD)).rejects.toThrow("disk full");
  fails = false;
  await audit(RECORD);
});

test("files are bounded in size and number, and nothing is lost between them", async () => {
  const { record: audit, close } = await createTokenAuditFile(dir, 1_000);
  for (let at = 0; at < 12; at++) await audit({ ...RECORD, txn: String(at) });
  const names = (await readdir(join(dir, "audit"))).sort();
  expect(names).toEqual(
    ["tokens.jsonl", ...[1, 2, 3, 4].map((at) => `tokens.jsonl.${at}`)].slice(0, names.length),
  );
  const all: string[] = [];
  for (const name of [...names].reverse()) {
    const text = await readFile(join(dir, "audit", name), "utf8");
    expect(text.length).toBeLessThanOrEqual(1_000);
    for (const line of text.trim().split("\n")) all.push(JSON.parse(line).txn);
  }
  expect(all).toEqual(Array.from({ length: all.length }, (_, at) => String(12 - all.length + at)));
  expect(names.length).toBeGreaterThan(2);
  // A restart goes on where it was.
  await close();
  const again = await createTokenAuditFile(dir, 1_000);
  await again.record({ ...RECORD, txn: "last" });
  await again.close();
  expect(await readFile(join(dir, "audit/tokens.jsonl"), "utf8")).toContain("last");
});
