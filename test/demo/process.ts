// Child processes of the demo and of the integration tests: started from dist/, ended by their pid, their last words kept.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { fileURLToPath } from "node:url";

export const repositoryRoot = fileURLToPath(new URL("../../", import.meta.url));

export interface RunningProcess {
  readonly name: string;
  readonly pid: number;
  readonly child: ChildProcess;
  /** What it wrote to standard error so far, at most the last 64 KiB. */
  errors(): string;
  /** The next line on standard output; rejects when the process ends first. */
  nextLine(): Promise<string>;
  writeLine(line: string): void;
  /** Sends SIGTERM (SIGKILL after `graceMs`) and resolves with the exit code, or null after a signal. */
  stop(graceMs?: number): Promise<number | null>;
}

/** Children that run; ended with this process, also when it fails or its output is closed. */
const alive = new Set<ChildProcess>();
process.on("exit", () => {
  for (const child of alive) child.kill("SIGKILL");
});

/**
 * What a container image of ours sets: with an arena per thread glibc keeps 6 to 15 MB more of a busy sidecar, which has
 * threads but one that works.
 */
const PROCESS_ENV = { MALLOC_ARENA_MAX: "1" };

/** Starts `node args…` with the Node that runs this. */
export function startNode(
  name: string,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): RunningProcess {
  return startProgram(name, process.execPath, ["--disable-warning=ExperimentalWarning", ...args], env);
}

/** Starts any program; it must stay the process that it was started as, since it is ended by its pid. */
export function startProgram(
  name: string,
  program: string,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): RunningProcess {
  const child = spawn(program, args, {
    cwd: repositoryRoot,
    env: { ...process.env, ...PROCESS_ENV, ...env },
    stdio: ["pipe", "pipe", "pipe"],
  });
  alive.add(child);
  child.on("exit", () => alive.delete(child));
  let errors = "";
  let partial = "";
  const lines: string[] = [];
  const waiting: { resolve: (line: string) => void; reject: (error: Error) => void }[] = [];
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    errors = (errors + text).slice(-65_536);
  });
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    partial += text;
    for (let end = partial.indexOf("\n"); end >= 0; end = partial.indexOf("\n")) {
      const line = partial.slice(0, end);
      partial = partial.slice(end + 1);
      const next = waiting.shift();
      if (next) next.resolve(line);
      else lines.push(line);
    }
  });
  child.stdin.on("error", () => {}); // a process that ended: reported through nextLine
  const ended = () => child.exitCode !== null || child.signalCode !== null;
  child.on("exit", () => {
    for (const one of waiting.splice(0))
      one.reject(new Error(`${name} ended with ${child.exitCode ?? child.signalCode}:\n${errors}`));
  });
  return {
    name,
    pid: child.pid ?? -1,
    child,
    errors: () => errors,
    nextLine: () =>
      new Promise((resolve, reject) => {
        const line = lines.shift();
        if (line !== undefined) resolve(line);
        else if (ended())
          reject(new Error(`${name} ended with ${child.exitCode ?? child.signalCode}:\n${errors}`));
        else waiting.push({ resolve, reject });
      }),
    writeLine: (line) => {
      child.stdin.write(`${line}\n`);
    },
    stop: async (graceMs = 5000) => {
      if (ended()) return child.exitCode;
      const exit = once(child, "exit");
      child.kill("SIGTERM");
      const timer = setTimeout(() => child.kill("SIGKILL"), graceMs);
      await exit;
      clearTimeout(timer);
      return child.exitCode;
    },
  };
}

/**
 * Below what Linux gives to outgoing connections (32768 on) and Kubernetes to node ports (30000 on): one of those could
 * take a port before its process binds it.
 */
const FIRST_PORT = 18_000;
const SHARES = 16;
const PORTS_PER_SHARE = 750;
const MAX_TRIES = 1_000;
const given = new Set<number>();

/**
 * Free TCP ports on loopback, never one of them twice. Jest's workers choose from different shares, by their pids: between
 * choosing and binding lie seconds. Within a share chance decides, for the sake of other runs on this machine.
 */
export async function freePorts(count: number): Promise<number[]> {
  const first = FIRST_PORT + (process.pid % SHARES) * PORTS_PER_SHARE;
  const ports: number[] = [];
  for (let tries = 0; ports.length < count && tries < MAX_TRIES; tries++) {
    const port = first + Math.floor(Math.random() * PORTS_PER_SHARE);
    if (given.has(port) || !(await isFree(port))) continue;
    given.add(port);
    ports.push(port);
  }
  if (ports.length < count)
    throw new Error(`no ${count} free ports from ${first} to ${first + PORTS_PER_SHARE - 1}`);
  return ports;
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer();
  const bound = await new Promise<boolean>((resolve) => {
    server.once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => resolve(true));
  });
  if (!bound) return false;
  server.close();
  await once(server, "close");
  return true;
}
