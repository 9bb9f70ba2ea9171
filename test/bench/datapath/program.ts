// A program beside us (a peer proxy, the backend): started in the foreground, waited for until its port answers, ended
// by its pid.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import net from "node:net";
import { setTimeout as delay } from "node:timers/promises";

export interface ProgramProcess {
  readonly pid: number;
  stop(): Promise<void>;
}

/** Programs that run; ended with this process, whatever ends it. */
const alive = new Set<ChildProcess>();
process.on("exit", () => {
  for (const child of alive) child.kill("SIGKILL");
});

/** @throws Error with what the program said, when it ends or does not listen within ten seconds. */
export async function startProgram(
  command: string,
  args: readonly string[],
  port: number,
): Promise<ProgramProcess> {
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] });
  alive.add(child);
  child.on("exit", () => alive.delete(child));
  let said = "";
  let failed: Error | undefined;
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding("utf8").on("data", (text: string) => {
      said = (said + text).slice(-4096);
    });
  child.on("error", (error) => {
    failed = error;
  });
  const stop = async () => {
    if (child.exitCode !== null || child.signalCode !== null || failed) return;
    const exit = once(child, "exit");
    child.kill("SIGTERM");
    const timer = setTimeout(() => child.kill("SIGKILL"), 3000);
    await exit;
    clearTimeout(timer);
  };
  const deadline = performance.now() + 10_000;
  while (!(await answers(port))) {
    if (failed || child.exitCode !== null || performance.now() > deadline) {
      await stop();
      throw new Error(`cannot start ${command}: ${failed?.message ?? said}`);
    }
    await delay(20);
  }
  return { pid: child.pid ?? -1, stop };
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = net.connect(port, "127.0.0.1");
    socket.on("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.on("error", () => resolve(false));
  });
}
