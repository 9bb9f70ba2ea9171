// Keeps two processes from using one state directory: a lock file that names its process, taken over when that
// process is gone.
import { existsSync } from "node:fs";
import { mkdir, open, readFile, rm } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { MeshError, systemCodeOf } from "./errors.ts";

/** Start time of a process in clock ticks since boot; tells a process from a later one with the same id. */
async function startTime(pid: number): Promise<string | undefined> {
  try {
    const stat = await readFile(`/proc/${pid}/stat`, "utf8");
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19];
  } catch {
    return undefined;
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return systemCodeOf(error) === "EPERM";
  }
}

async function holder(path: string): Promise<number | undefined> {
  try {
    const [pid = "", started = ""] = (await readFile(path, "utf8")).trim().split(" ");
    if (!/^\d+$/.test(pid) || !isRunning(Number(pid))) return undefined;
    const actual = await startTime(Number(pid));
    return actual === undefined || started === "" || actual === started ? Number(pid) : undefined;
  } catch {
    return undefined;
  }
}

/** Like `mkdir -p`; Node's own recursive mode never ends below `/proc`, where a folder's parent is there and yet it is not. */
async function makeDirectory(path: string): Promise<void> {
  try {
    await mkdir(path, { mode: 0o700 });
  } catch (error) {
    const code = systemCodeOf(error);
    if (code === "EEXIST") return;
    const parent = dirname(path);
    if (code !== "ENOENT" || parent === path || existsSync(parent)) throw error;
    await makeDirectory(parent);
    await mkdir(path, { mode: 0o700 });
  }
}

/**
 * Takes the lock of a state directory (made with mode 0700 when missing).
 *
 * @returns a function that gives it back.
 * @throws MeshError `bad_config` when another process holds it, `io_failed`.
 */
export async function lockStateDir(stateDir: string): Promise<() => Promise<void>> {
  const path = join(stateDir, "lock");
  try {
    await makeDirectory(resolve(stateDir));
  } catch (cause) {
    throw new MeshError("bad_config", `cannot make \`${stateDir}\`; use another \`--state-dir\``, { cause });
  }
  for (let attempt = 0; attempt < 2; attempt++) {
    try {
      const file = await open(path, "wx", 0o600);
      await file.writeFile(`${process.pid} ${(await startTime(process.pid)) ?? ""}\n`);
      await file.close();
      return () => rm(path, { force: true });
    } catch (error) {
      if (systemCodeOf(error) !== "EEXIST") {
        throw new MeshError("bad_config", `cannot write to \`${stateDir}\`; use another \`--state-dir\``, {
          cause: error,
        });
      }
      const pid = await holder(path);
      if (pid !== undefined) {
        throw new MeshError(
          "bad_config",
          `process ${pid} uses \`${stateDir}\` already; stop it or use another \`--state-dir\``,
        );
      }
      await rm(path, { force: true });
    }
  }
  throw new MeshError(
    "bad_config",
    `another process took \`${stateDir}\` just now; use another \`--state-dir\``,
  );
}
