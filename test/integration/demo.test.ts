// The demo as a user runs it: ends with 0 within its time, prints a row per call, and leaves no process behind.
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { beforeAll, describe, expect, test } from "@jest/globals";
import type { Row } from "../demo/perform.ts";
import { repositoryRoot } from "../demo/process.ts";

const run = (...args: string[]) =>
  promisify(execFile)(
    process.execPath,
    ["--disable-warning=ExperimentalWarning", "test/demo/main.ts", ...args],
    { cwd: repositoryRoot },
  );

describe("npm run demo", () => {
  let rows: Row[];
  const of = (step: string): Row[] => rows.filter((row) => row.step === step);
  beforeAll(async () => {
    const { stdout } = await run("--json");
    rows = stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Row);
  }, 400_000);

  test("answers every call as its policy says", () => {
    expect(rows.filter((row) => !row.expected)).toEqual([]);
    expect(rows.length).toBeGreaterThanOrEqual(25);
    expect(new Set(rows.map((row) => row.reason))).toEqual(
      new Set(["ALLOWED", "NO_MATCHING_ALLOW", "DENIED_BY_POLICY", "REQ_MALFORMED", "UNKNOWN_DESTINATION"]),
    );
  });

  test("before and after a sign-in, an edit, a rollback and a sign-out", () => {
    expect([...of("signed out"), ...of("edit"), ...of("rollback"), ...of("sign-out")]).toMatchObject([
      { step: "signed out", status: 403, reason: "NO_MATCHING_ALLOW", person: "okta-main|alice" },
      {
        step: "edit",
        status: 200,
        reason: "ALLOWED",
        operation: "serving.invoke.predict",
        rule: "ml-serving/fraud-scorer-callers/nightly-batch",
      },
      { step: "rollback", status: 403, reason: "NO_MATCHING_ALLOW" },
      { step: "sign-out", status: 403, reason: "NO_MATCHING_ALLOW", person: "okta-main|alice" },
    ]);
  });

  const direct = "notebook/nb-alice";
  test.each([
    ["T03", "alice", `gateway/people → ${direct}`, 200, "fraud-scorer-callers/interactive"],
    ["T05", "bob", "gateway/people → notebook/nb-bob", 403, "no-contractors-on-pii/contractors"],
    ["T10", "alice", direct, 200, "llm-budget/scientists"],
    ["T14", "dave", "gateway/people → agent/claims-agent", 200, "llm-budget/agents"],
    ["T15", "dave", "gateway/people → agent/claims-agent", 200, "claims-tools/on-behalf-of-handler"],
    ["T16", "dave", "gateway/people → agent/claims-agent", 403, ""],
    ["T23", "alice", direct, 200, "tracking/notebooks"],
    ["T26", "alice", direct, 403, "guard-admin-surface/admin-ops"],
    ["T37", "alice", direct, 200, "databricks-egress/query-and-run"],
    ["T38", "alice", direct, 403, ""],
  ])("%s of the decision table holds with %s signed in", (vector, person, path, status, rule) => {
    const row = of("people").find((one) => one.vector === vector);
    expect(row).toMatchObject({ person: `okta-main|${person}`, path, status });
    expect(row?.rule.endsWith(rule)).toBe(true);
    expect(row?.txn).toMatch(/^[0-9a-f-]{36}$/);
  });

  test("follows one transaction from a person through notebook and job to the model", () => {
    const chain = of("chain");
    expect(chain.map(({ path, to }) => `${path} → ${to}`)).toEqual([
      "gateway/people → notebook/nb-alice",
      "gateway/people → notebook/nb-alice → job/backfill",
      "gateway/people → notebook/nb-alice → job/backfill → serving/fraud-scorer",
    ]);
    expect(new Set(chain.map(({ person }) => person))).toEqual(new Set(["okta-main|alice"]));
    expect(new Set(chain.map(({ txn }) => txn)).size).toBe(1);
  });

  test("jobs call on nobody's behalf", () => {
    for (const { person, txn } of [...of("workloads"), ...of("edit")])
      expect([person, txn]).toEqual(["", ""]);
  });

  test("names a wrong option and shows the help", async () => {
    await expect(run("--jsn")).rejects.toMatchObject({ code: 2, stderr: expect.stringContaining("--jsn") });
  });
});
