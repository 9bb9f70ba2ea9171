// Parts of the cluster are found and ended by pid and start time, and nothing else is.
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { waitUntil } from "./commands.ts";
import { inHome, stateFile } from "./layout.ts";
import {
  forgetPart,
  isRunning,
  isUp,
  logTail,
  restartPart,
  startPart,
  startTicksOf,
  stopPart,
} from "./processes.ts";

const before = process.env["COUNTERSIGN_CLUSTER_HOME"];
let folder = "";

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "countersign-processes-"));
  process.env["COUNTERSIGN_CLUSTER_HOME"] = folder;
  for (const name of ["run", "log"]) mkdirSync(inHome(name));
});
afterAll(async () => {
  for (const name of ["plain", "stubborn"]) await stopPart(name, 0);
  rmSync(folder, { recursive: true, force: true });
  if (before === undefined) delete process.env["COUNTERSIGN_CLUSTER_HOME"];
  else process.env["COUNTERSIGN_CLUSTER_HOME"] = before;
});

const pidOf = (name: string) =>
  (JSON.parse(readFileSync(inHome("run", `${name}.json`), "utf8")) as { pid: number }).pid;

describe("parts", () => {
  test("a part runs detached with its output in a log, once, until it is stopped, and again", async () => {
    startPart("plain", "sh", ["-c", "echo began; exec sleep 600"]);
    await waitUntil("its output", async () => logTail("plain") === "began", 60_000, 20);
    const first = pidOf("plain");
    startPart("plain", "sh", ["-c", "echo began twice"]);
    expect(pidOf("plain")).toBe(first);
    expect(isRunning("plain")).toBe(true);
    expect(isUp()).toBe(false);
    writeFileSync(stateFile(), "{}");
    expect(isUp()).toBe(true);

    await stopPart("plain");
    expect(isRunning("plain")).toBe(false);
    expect(isUp()).toBe(false);
    await stopPart("plain"); // twice is fine

    restartPart("plain");
    expect(isRunning("plain")).toBe(true);
    expect(pidOf("plain")).not.toBe(first);
    await stopPart("plain");
    forgetPart("plain");
    expect(() => restartPart("plain")).toThrow("`plain` is not a part of the running cluster");
  });

  test("a part that does not heed SIGTERM is killed after its grace", async () => {
    startPart("stubborn", "sh", ["-c", "trap '' TERM; echo deaf; while :; do sleep 0.05; done"]);
    await waitUntil("its output", async () => logTail("stubborn") === "deaf", 60_000, 20);
    await stopPart("stubborn", 200);
    expect(isRunning("stubborn")).toBe(false);
  });

  test("another process that has got the pid of a part that ended is not touched", async () => {
    const stranger = spawn("sleep", ["600"]);
    try {
      await waitUntil("its start", async () => startTicksOf(stranger.pid!) !== undefined, 60_000, 20);
      writeFileSync(
        inHome("run", "gone.json"),
        JSON.stringify({ pid: stranger.pid, startTicks: "1", command: "sleep", args: [] }),
      );
      expect(isRunning("gone")).toBe(false);
      await stopPart("gone");
      expect(startTicksOf(stranger.pid!)).toBeDefined();
      expect(stranger.exitCode ?? stranger.signalCode).toBeNull();
    } finally {
      stranger.kill("SIGKILL");
      forgetPart("gone");
    }
  });
});
