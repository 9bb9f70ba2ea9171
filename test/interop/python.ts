// Virtual environments with Python packages, one for all suites (requirements.txt) but those that need others; and
// programs run in them.
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { type RunningProcess, startProgram } from "../demo/process.ts";
import { canTest } from "../left-out.ts";
import { installed, runInstaller } from "./installed.ts";

const OUTPUT_LIMIT_BYTES = 64 * 1024 * 1024;

export interface Python {
  /** Folder with the environment's programs. */
  readonly bin: string;
  /** Runs `clients/NAME.py` to its end and gives what it printed last, a line of JSON. */
  run(
    name: string,
    args: readonly string[],
    options?: { readonly env?: Readonly<Record<string, string>>; readonly timeoutMs?: number },
  ): Promise<unknown>;
  /** Starts `servers/NAME.py`. */
  serve(name: string, args: readonly string[], env?: Readonly<Record<string, string>>): RunningProcess;
  /** Starts a program of the environment. */
  start(program: string, args: readonly string[], env?: Readonly<Record<string, string>>): RunningProcess;
}

/**
 * The environment; undefined where Python is not installed or the packages cannot be had, which is said at the end.
 *
 * @param requirements file beside this one that pins every package.
 */
export async function pythonEnvironment(
  what: string,
  requirements = "requirements.txt",
): Promise<Python | undefined> {
  const needs = { python3: "Debian's python3-venv", flock: "Debian's util-linux" };
  if (!canTest(what, needs)) return undefined;
  const file = fileURLToPath(new URL(requirements, import.meta.url));
  const folder = await installed("python", readFileSync(file, "utf8"), async (target) => {
    await runInstaller("python3", ["-m", "venv", target]);
    const quiet = ["--quiet", "--disable-pip-version-check", "--no-compile", "--only-binary", ":all:"];
    await runInstaller(join(target, "bin", "pip"), ["install", ...quiet, "-r", file]);
  });
  if (folder === undefined) return undefined;
  const bin = join(folder, "bin");
  const interpreter = join(bin, "python3");
  const base = {
    PATH: `${bin}:${process.env["PATH"]}`,
    PYTHONUNBUFFERED: "1",
    no_proxy: "",
    NO_PROXY: "",
  };
  const source = (folderName: string, name: string): string =>
    fileURLToPath(new URL(`${folderName}/${name}.py`, import.meta.url));
  return {
    bin,
    run: async (name, args, { env = {}, timeoutMs = 110_000 } = {}) => {
      const { stdout, stderr } = await promisify(execFile)(interpreter, [source("clients", name), ...args], {
        env: { ...process.env, ...base, ...env },
        timeout: timeoutMs,
        maxBuffer: OUTPUT_LIMIT_BYTES,
      });
      const last = stdout.trimEnd().split("\n").at(-1) ?? "";
      if (!last.startsWith("{") && !last.startsWith("["))
        throw new Error(`${name}.py printed no result:\n${stdout.slice(-2000)}\n${stderr.slice(-2000)}`);
      return JSON.parse(last);
    },
    serve: (name, args, env = {}) =>
      startProgram(name, interpreter, [source("servers", name), ...args], { ...base, ...env }),
    start: (program, args, env = {}) => startProgram(program, join(bin, program), args, { ...base, ...env }),
  };
}
