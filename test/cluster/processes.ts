// The parts of the cluster as plain processes: started detached with a log, found again and ended by their pid.
import { spawn } from "node:child_process";
import { closeSync, existsSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { ClusterError, waitUntil } from "./commands.ts";
import { inHome, stateFile } from "./layout.ts";

interface PartRecord {
  readonly pid: number;
  /** Start time in clock ticks since boot (proc(5), stat field 22): tells the process from a later one with its pid. */
  readonly startTicks: string;
  readonly command: string;
  readonly args: readonly string[];
}

const recordPath = (name: string) => inHome("run", `${name}.json`);

/** Start time of a process in clock ticks since boot; undefined when it ended. */
export function startTicksOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The name in field 2 may hold spaces; the fields after its closing bracket do not.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return fields[0] === "Z" ? undefined : fields[19];
  } catch {
    return undefined; // no such process
  }
}

function readRecord(name: string): PartRecord | undefined {
  if (!existsSync(recordPath(name))) return undefined;
  return JSON.parse(readFileSync(recordPath(name), "utf8")) as PartRecord; // written by startPart
}

/** Whether the part was started and still runs. */
export function isRunning(name: string): boolean {
  const record = readRecord(name);
  return record !== undefined && startTicksOf(record.pid) === record.startTicks;
}

/** Starts a part unless it runs. Its output goes to `log/NAME.log`. */
export function startPart(name: string, command: string, args: readonly string[]): void {
  if (isRunning(name)) return;
  const log = openSync(inHome("log", `${name}.log`), "a");
  const child = spawn(command, args, { cwd: inHome(), detached: true, stdio: ["ignore", log, log] });
  closeSync(log);
  const { pid } = child;
  child.on("error", () => {}); // reported below: without a pid it did not start
  if (pid === undefined) throw new ClusterError(`cannot start \`${command}\`; run \`install\` first`);
  child.unref();
  const record: PartRecord = { pid, startTicks: startTicksOf(pid) ?? "", command, args };
  writeFileSync(recordPath(name), JSON.stringify(record));
}

/** Starts a part again as `up` started it; for tests that stopped it. */
export function restartPart(name: string): void {
  const record = readRecord(name);
  if (record === undefined) throw new ClusterError(`\`${name}\` is not a part of the running cluster`);
  startPart(name, record.command, record.args);
}

/** Sends SIGTERM to a part, SIGKILL after `graceMs`; does nothing when it does not run. */
export async function stopPart(name: string, graceMs = 10_000): Promise<void> {
  const record = readRecord(name);
  if (record === undefined || !isRunning(name)) return;
  process.kill(record.pid, "SIGTERM");
  try {
    await waitUntil(`the end of ${name}`, async () => !isRunning(name), graceMs, 50);
  } catch {
    await killPart(name);
  }
}

/** Ends a part as a crash would. */
export async function killPart(name: string): Promise<void> {
  const record = readRecord(name);
  if (record === undefined || !isRunning(name)) return;
  process.kill(record.pid, "SIGKILL");
  // Its ports are free when its last thread is gone, which is later than that it counts as ended.
  const isGone = async () => !existsSync(`/proc/${record.pid}`);
  await waitUntil(`the end of ${name} after SIGKILL`, isGone, 10_000, 50);
}

/** Forgets a part that `down` ended. */
export function forgetPart(name: string): void {
  rmSync(recordPath(name), { force: true });
}

/** Names of all parts that were started. */
function startedParts(): readonly string[] {
  if (!existsSync(inHome("run"))) return [];
  return readdirSync(inHome("run"))
    .filter((file) => file.endsWith(".json"))
    .map((file) => file.slice(0, -".json".length));
}

/** Whether `up` finished and every part that it started still runs. */
export function isUp(): boolean {
  return existsSync(stateFile()) && startedParts().every(isRunning);
}

/** The last lines of a part's log. */
export function logTail(name: string, lines = 8): string {
  const path = inHome("log", `${name}.log`);
  return existsSync(path) ? readFileSync(path, "utf8").trim().split("\n").slice(-lines).join("\n") : "";
}
