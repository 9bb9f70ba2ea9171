// Runs other programs: to their end, with their output and a deadline, and with errors that say what failed.
import { spawn } from "node:child_process";
import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";

/** Something the person at the keyboard can put right; shown without a stack. */
export class ClusterError extends Error {}

export interface CommandOptions {
  readonly stdin?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** After this the program is killed and the promise rejects; default 60 s. */
  readonly timeoutMs?: number;
  /** Show what the program says instead of keeping it. */
  readonly show?: boolean;
}

export interface CommandResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end, whatever its exit status. Rejects when it cannot be started or takes too long. */
export function tryRun(
  command: string,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<CommandResult> {
  const { promise, resolve, reject } = Promise.withResolvers<CommandResult>();
  const child = spawn(command, args, {
    cwd: options.cwd,
    env: { ...process.env, ...options.env },
    stdio: ["pipe", options.show ? 2 : "pipe", options.show ? 2 : "pipe"], // standard output stays for results
  });
  const out: Buffer[] = [];
  const err: Buffer[] = [];
  child.stdout?.on("data", (chunk: Buffer) => out.push(chunk));
  child.stderr?.on("data", (chunk: Buffer) => err.push(chunk));
  const text = (chunks: Buffer[]) => Buffer.concat(chunks).toString("utf8");
  const timeoutMs = options.timeoutMs ?? 60_000;
  const timer = setTimeout(() => {
    child.kill("SIGKILL");
    reject(
      new ClusterError(
        `\`${shown(command, args)}\` took longer than ${timeoutMs} ms: ${lastWords(text(err))}`,
      ),
    );
  }, timeoutMs);
  child.on("error", (error) => {
    clearTimeout(timer);
    reject(new ClusterError(`cannot start \`${command}\`: ${error.message}`, { cause: error }));
  });
  child.on("close", (code) => {
    clearTimeout(timer);
    resolve({ code: code ?? 1, stdout: text(out), stderr: text(err) });
  });
  child.stdin?.on("error", () => {}); // a program that ends without reading: its exit status tells
  child.stdin?.end(options.stdin);
  return promise;
}

/** Runs a program that must succeed; resolves with its standard output. */
export async function run(
  command: string,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<string> {
  const result = await tryRun(command, args, options);
  if (result.code === 0) return result.stdout;
  throw new ClusterError(
    `\`${shown(command, args)}\` ended with ${result.code}: ${lastWords(result.stderr || result.stdout)}`,
  );
}

/** Path of a program on the PATH, or undefined. */
export function findProgram(name: string): string | undefined {
  const folders = name.startsWith("/")
    ? [""]
    : [...(process.env["PATH"] ?? "").split(delimiter), "/usr/sbin", "/sbin"];
  return folders
    .map((folder) => join(folder, name))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK);
        return true;
      } catch {
        return false; // not here: the next folder
      }
    });
}

/** Calls `check` until it holds. Rejects after `timeoutMs` with what it last complained about. */
export async function waitUntil(
  what: string,
  check: () => Promise<boolean>,
  timeoutMs: number,
  everyMs = 200,
): Promise<void> {
  const endMs = performance.now() + timeoutMs;
  let last = "";
  for (;;) {
    try {
      if (await check()) return;
      last = "";
    } catch (error) {
      last = error instanceof Error ? `: ${error.message}` : "";
    }
    if (performance.now() > endMs) throw new ClusterError(`${what} did not happen in ${timeoutMs} ms${last}`);
    await new Promise((resolve) => setTimeout(resolve, everyMs));
  }
}

/** One line on standard error; standard output is for results. */
export function progress(line: string): void {
  process.stderr.write(`cluster: ${line}\n`);
}

const shown = (command: string, args: readonly string[]) =>
  [command.split("/").at(-1), ...args].join(" ").slice(0, 200);
const lastWords = (text: string) => text.trim().split("\n").slice(-12).join("\n");
