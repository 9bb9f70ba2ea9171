// One verb of a kind at a time: two that start or end the same parts would leave processes that nobody knows of.
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { ClusterError, progress, waitUntil } from "./commands.ts";
import { home } from "./layout.ts";
import { startTicksOf } from "./processes.ts";

/** What only one process may do at a time: build programs, change the cluster or its images, have the product installed. */
export type Lock = "install" | "state" | "release";

/** Longer than what the holder may take: Go builds, or images and waiting for a node. */
const LONGEST_WAIT_MS: Readonly<Record<Lock, number>> = {
  install: 60 * 60_000,
  state: 300_000,
  release: 30 * 60_000,
};

/** Runs `action` while no other process of this machine holds the lock; waits for its turn. */
export async function withLock<T>(lock: Lock, action: () => Promise<T>): Promise<T> {
  const path = `${home()}.${lock}.lock`; // beside the home, which `down` deletes
  if (!take(path)) {
    progress(`waiting for another \`cluster\` command (${path})`);
    await waitUntil("the end of another `cluster` command", async () => take(path), LONGEST_WAIT_MS[lock]);
  }
  try {
    return await action();
  } finally {
    rmSync(path, { force: true });
  }
}

/** Takes a lock for as long as this process lives, or until `letGo`; waits for its turn. Taking it again is nothing. */
export async function hold(lock: Lock): Promise<void> {
  const path = `${home()}.${lock}.lock`;
  if (held.has(lock)) return;
  if (!take(path)) {
    progress(`waiting for another process (${path})`);
    await waitUntil("the lock of another process", async () => take(path), LONGEST_WAIT_MS[lock]);
  }
  held.add(lock);
}

export function letGo(lock: Lock): void {
  if (held.delete(lock)) rmSync(`${home()}.${lock}.lock`, { force: true });
}

const held = new Set<Lock>();

function take(path: string): boolean {
  const mine = JSON.stringify({ pid: process.pid, startTicks: startTicksOf(process.pid) });
  try {
    writeFileSync(path, mine, { flag: "wx", mode: 0o600 }); // fails on a link as well
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST")
      throw new ClusterError(`cannot write \`${path}\`: ${error instanceof Error ? error.message : error}`);
  }
  if (!ownerIsGone(path)) return false;
  rmSync(path, { force: true }); // its owner was killed; the next try takes it
  return false;
}

function ownerIsGone(path: string): boolean {
  try {
    const owner = JSON.parse(readFileSync(path, "utf8")) as { pid: number; startTicks?: string }; // ours
    return startTicksOf(owner.pid) !== owner.startTicks;
  } catch {
    return false; // just released, or just being written: the next try tells
  }
}
