// Says loudly what a machine cannot test: collected here, printed after the test runner's summary, an error in CI.
import { spawnSync } from "node:child_process";
import { appendFileSync } from "node:fs";

/**
 * Whether every program is installed. If not, notes that `what` is left out, for test/run.mjs to print at the end.
 *
 * @param programs names on the PATH, each with what provides it.
 */
export function canTest(what: string, programs: Readonly<Record<string, string>>): boolean {
  const missing = Object.entries(programs).filter(
    ([program]) => spawnSync("sh", ["-c", `command -v ${program}`]).status !== 0,
  );
  if (missing.length === 0) return true;
  leaveOut(`${what}: needs ${missing.map(([program, provider]) => `${program} (${provider})`).join(", ")}`);
  return false;
}

/** Notes what is left out and why, for test/run.mjs to print at the end. */
export function leaveOut(line: string): void {
  const file = process.env["COUNTERSIGN_LEFT_OUT"];
  if (file !== undefined) appendFileSync(file, `${line}\n`);
}
