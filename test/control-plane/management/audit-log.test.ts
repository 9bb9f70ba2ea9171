import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import {
  auditedArguments,
  createFileAudit,
  createStreamAudit,
  type ManagementRecord,
} from "../../../control-plane/management/audit-log.ts";

const RECORD: ManagementRecord = {
  ...{ time: "2026-11-21T07:00:00.000Z", user: "admin", groups: 2, address: "10.0.0.1", action: "rollback" },
  ...{ arguments: { revision: 3 }, outcome: "done", detail: "line\nbreak" },
};

test("a stream gets one line per record, marked as audit", async () => {
  const lines: string[] = [];
  await createStreamAudit((line) => void lines.push(line))(RECORD);
  expect(lines).toHaveLength(1);
  expect(lines[0]?.indexOf("\n")).toBe((lines[0]?.length ?? 0) - 1);
  expect(JSON.parse(lines[0] ?? "")).toEqual({ audit: "management", ...RECORD });
});

test("a file is appended to, and nobody else may read it", async () => {
  const stateDir = mkdtempSync(join(tmpdir(), "countersign-audit-"));
  try {
    const audit = await createFileAudit(stateDir);
    await audit(RECORD);
    await audit({ ...RECORD, outcome: "refused" });
    const file = join(stateDir, "audit", "management.jsonl");
    const lines = readFileSync(file, "utf8").trim().split("\n");
    expect(lines.map((line) => JSON.parse(line).outcome)).toEqual(["done", "refused"]);
    expect(statSync(file).mode & 0o777).toBe(0o600);
  } finally {
    rmSync(stateDir, { recursive: true });
  }
});

test("arguments are known fields only, cut short", () => {
  const body = { workload: "w".repeat(2_000), ttlSeconds: 5, nested: { deep: ["x"] }, password: "hunter2" };
  expect(auditedArguments(body, ["workload", "ttlSeconds", "nested", "absent"])).toEqual({
    ...{ workload: "w".repeat(512), ttlSeconds: 5, nested: '{"deep":["x"]}' },
  });
});
