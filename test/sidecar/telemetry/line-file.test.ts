import { mkdtempSync, readFileSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import { silentLogger } from "../../../sidecar/core/runtime/log.ts";
import { LineFile } from "../../../sidecar/telemetry/line-file.ts";

const path = (): string => join(mkdtempSync(join(tmpdir(), "countersign-lines-")), "lines");

test("every line arrives once, in order, whatever its length", async () => {
  const file = new LineFile({ path: path(), maxHeldBytes: 1e9, log: silentLogger, delayMs: 1 });
  const lines = Array.from(
    { length: 5_000 },
    (_, i) => `${i} ${"ü".repeat(i % 200)}${i === 77 ? "x".repeat(300_000) : ""}`,
  );
  for (const line of lines) file.append(line, false);
  await file.close();
  await file.close();
  expect(file.written).toBe(5_000);
});

test("a full queue loses the oldest lines that may be lost, and counts them", async () => {
  const where = path();
  const file = new LineFile({ path: where, maxHeldBytes: 20_000, log: silentLogger, delayMs: 60_000 });
  for (let i = 0; i < 1_000; i++)
    file.append(`${i % 10 === 0 ? "deny" : "allow"} ${i} ${"x".repeat(40)}`, i % 10 === 0);
  expect(file.dropped).toBeGreaterThan(400);
  await file.close();
  const lines = readFileSync(where, "utf8").trimEnd().split("\n");
  expect(lines.filter((line) => line.startsWith("deny"))).toHaveLength(100);
  expect(lines.at(-1)).toMatch(/^allow 999 /);
  expect(file.written + file.dropped).toBe(1_000);
  expect(statSync(where).mode & 0o777).toBe(0o600);
});

test("a committed line is on the disk when it is said to be, with those that came beside it in one write", async () => {
  const where = path();
  const file = new LineFile({ path: where, maxHeldBytes: 1e6, log: silentLogger, delayMs: 60_000 });
  const told: string[] = [];
  const commit = (line: string): Promise<void> =>
    new Promise((resolve) =>
      file.commit(line, (ok) => {
        told.push(`${line} ${ok} ${readFileSync(where, "utf8").includes(`${line}\n`)}`);
        resolve();
      }),
    );
  file.append("before", false);
  await Promise.all([commit("one"), commit("two")]);
  await commit("three");
  expect(told).toEqual(["one true true", "two true true", "three true true"]);
  expect(readFileSync(where, "utf8")).toBe("before\none\ntwo\nthree\n");
  await file.close();
  expect(await new Promise((resolve) => file.commit("late", resolve))).toBe(false);
});

test("a full queue takes no line that must be safe", async () => {
  const file = new LineFile({ path: path(), maxHeldBytes: 100, log: silentLogger, delayMs: 60_000 });
  for (let i = 0; i < 3; i++) file.append("x".repeat(30), true);
  file.append("x".repeat(6), true);
  expect(file.hasRoom).toBe(false);
  expect(await new Promise((resolve) => file.commit("no", resolve))).toBe(false);
  await file.close();
});

test("a line that cannot be written is said to be lost", async () => {
  const file = new LineFile({ path: "/dev/full", maxHeldBytes: 1e6, log: silentLogger, delayMs: 60_000 });
  expect(await new Promise((resolve) => file.commit("no", resolve))).toBe(false);
  expect(file.failed).toBe(1);
  await file.close();
});
