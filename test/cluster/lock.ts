// One verb at a time: two that start or end the same parts would leave processes that nobody knows of.
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { ClusterError, progress, waitUntil } from "./commands.ts";
import { home } from "./layout.ts";
import { startTicksOf } from "./processes.ts";

const LONGEST_WAIT_MS = 300_000;
/** Beside the home, which `down` deletes. */
const lockPath = () => `${home()}.lock`;

/** Runs `action` while no other process of this machine runs one; waits for its turn at most five minutes. */
export async function withLock<T>(action: () => Promise<T>): Promise<T> {
  if (!take()) {
    progress(`waiting for another \`cluster\` command (${lockPath()})`);
    await waitUntil("the end of another `cluster` command", async () => take(), LONGEST_WAIT_MS);
  }
  try {
    return await action();
  } finally {
    rmSync(lockPath(), { force: true });
  }
}

function take(): boolean {
  const mine = JSON.stringify({ pid: process.pid, startTicks: startTicksOf(process.pid) });
  try {
    writeFileSync(lockPath(), mine, { flag: "wx", mode: 0o600 }); // fails on a link as well
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST")
      throw new ClusterError(
        `cannot write \`${lockPath()}\`: ${error instanceof Error ? error.message : error}`,
      );
  }
  if (!ownerIsGone()) return false;
  rmSync(lockPath(), { force: true }); // its owner was killed; the next try takes it
  return false;
}

function ownerIsGone(): boolean {
  try {
    const owner = JSON.parse(readFileSync(lockPath(), "utf8")) as { pid: number; startTicks?: string }; // ours
    return startTicksOf(owner.pid) !== owner.startTicks;
  } catch {
    return false; // just released, or just being written: the next try tells
  }
}
