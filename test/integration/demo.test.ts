// The demo as a user runs it: ends with 0 within its time, prints a row per call, and leaves no process behind.
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { describe, expect, test } from "@jest/globals";
import { repositoryRoot } from "../demo/process.ts";

interface Row {
  readonly step: string;
  readonly status: number;
  readonly reason: string;
  readonly operation: string;
  readonly rule: string;
  readonly expected: boolean;
}

const run = (...args: string[]) =>
  promisify(execFile)(
    process.execPath,
    ["--disable-warning=ExperimentalWarning", "test/demo/main.ts", ...args],
    { cwd: repositoryRoot },
  );

describe("npm run demo", () => {
  test("answers every call as its policy says, before and after an edit and a rollback", async () => {
    const { stdout } = await run("--json");
    const rows = stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Row);
    expect(rows.filter((row) => !row.expected)).toEqual([]);
    expect(rows.length).toBeGreaterThanOrEqual(14);
    expect(rows.filter((row) => row.step !== "first")).toMatchObject([
      {
        step: "edit",
        status: 200,
        reason: "ALLOWED",
        operation: "serving.invoke.predict",
        rule: "ml-serving/fraud-scorer-callers/nightly-batch",
      },
      { step: "rollback", status: 403, reason: "NO_MATCHING_ALLOW" },
    ]);
    expect(new Set(rows.map((row) => row.reason))).toEqual(
      new Set(["ALLOWED", "NO_MATCHING_ALLOW", "DENIED_BY_POLICY", "REQ_MALFORMED", "UNKNOWN_DESTINATION"]),
    );
  }, 90_000);

  test("names a wrong option and shows the help", async () => {
    await expect(run("--jsn")).rejects.toMatchObject({ code: 2, stderr: expect.stringContaining("--jsn") });
  });
});
