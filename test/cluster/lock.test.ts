// Two commands never change the cluster at once, and a lock whose owner was killed does not stay.
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { home } from "./layout.ts";
import { withLock } from "./lock.ts";

const before = process.env["COUNTERSIGN_CLUSTER_HOME"];
let folder = "";

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "countersign-lock-"));
  process.env["COUNTERSIGN_CLUSTER_HOME"] = join(folder, "home");
});
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
  if (before === undefined) delete process.env["COUNTERSIGN_CLUSTER_HOME"];
  else process.env["COUNTERSIGN_CLUSTER_HOME"] = before;
});

test("the second waits until the first is done, also when the first fails", async () => {
  const order: string[] = [];
  const gate = Promise.withResolvers<void>();
  const first = withLock("state", async () => {
    order.push("first begins");
    await gate.promise;
    order.push("first ends");
    throw new Error("failed");
  });
  const second = withLock("state", async () => order.push("second"));
  gate.resolve();
  await expect(first).rejects.toThrow("failed");
  await second;
  expect(order).toEqual(["first begins", "first ends", "second"]);
  expect(existsSync(`${home()}.state.lock`)).toBe(false);
});

test("building does not keep others from changing the cluster", async () => {
  expect(await withLock("install", () => withLock("state", async () => "both"))).toBe("both");
});

test("a lock is taken from an owner that no longer runs", async () => {
  writeFileSync(`${home()}.state.lock`, JSON.stringify({ pid: process.pid, startTicks: "1" }));
  expect(await withLock("state", async () => "done")).toBe("done");
});
