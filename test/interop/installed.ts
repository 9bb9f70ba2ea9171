// What the suites take from package registries, put once into the user's cache: one installation per content of a
// manifest, by one process at a time, and never a half one.
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { leaveOut } from "../left-out.ts";

const INSTALL_TIMEOUT_MS = 600_000;
const OUTPUT_LIMIT_BYTES = 16 * 1024 * 1024;

/** Folder of the user's cache that holds what suites installed. */
function interopCache(): string {
  const base = process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache");
  const folder = join(base, "countersign", "interop");
  mkdirSync(folder, { recursive: true });
  return folder;
}

/** Runs a program that installs something; its output is told when it fails. */
export async function runInstaller(
  program: string,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<void> {
  try {
    await promisify(execFile)(program, args, {
      env: { ...process.env, ...env },
      timeout: INSTALL_TIMEOUT_MS,
      maxBuffer: OUTPUT_LIMIT_BYTES,
    });
  } catch (error) {
    const { stderr = "", message } = error as Error & { stderr?: string }; // what execFile rejects with
    throw new Error(`\`${program} ${args.join(" ")}\` failed: ${stderr.slice(-2000) || message}`);
  }
}

/**
 * Folder with what `install` puts into it, made at the first use of this `manifest`. `install` gets the final path,
 * because virtual environments cannot be moved; the marker beside it says that it is whole.
 *
 * @returns undefined when it cannot be installed here: then `what` is left out, loudly.
 */
export async function installed(
  what: string,
  manifest: string,
  install: (folder: string) => Promise<void>,
): Promise<string | undefined> {
  const digest = createHash("sha256").update(manifest).digest("hex").slice(0, 16);
  const folder = join(interopCache(), `${what}-${digest}`);
  const marker = `${folder}.whole`;
  if (existsSync(marker)) return folder;
  try {
    await withFileLock(`${folder}.lock`, async () => {
      if (existsSync(marker)) return; // another process made it meanwhile
      rmSync(folder, { recursive: true, force: true });
      mkdirSync(folder, { recursive: true });
      await install(folder);
      mkdirSync(`${marker}.new`);
      renameSync(`${marker}.new`, marker);
    });
    return folder;
  } catch (error) {
    leaveOut(`${what} for interoperation: ${error instanceof Error ? error.message : String(error)}`);
    return undefined;
  }
}

/** Runs `action` while no other process holds the lock; flock(1) lets go of it when its holder dies. */
async function withFileLock(path: string, action: () => Promise<void>): Promise<void> {
  // `flock FILE sh -c …` holds the lock for as long as its standard input stays open.
  const child = execFile("flock", [path, "sh", "-c", "echo held; cat"], { timeout: INSTALL_TIMEOUT_MS });
  await new Promise<void>((resolve, reject) => {
    child.stdout?.once("data", () => resolve());
    child.once("error", reject);
    child.once("exit", () => reject(new Error(`flock on \`${path}\` ended`)));
  });
  try {
    await action();
  } finally {
    child.stdin?.end();
  }
}
