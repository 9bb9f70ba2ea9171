// Takes the cluster down: pods, containers, parts, mounts, the bridge, the rules and the state. Every process by its pid.
import { existsSync, readFileSync, rmSync } from "node:fs";
import { progress, tryRun } from "./commands.ts";
import { parts } from "./configuration.ts";
import { adminKubeconfig, containerdSocket, home, programPath, stateFile } from "./layout.ts";
import { removeNetwork } from "./network.ts";
import { forgetPart, isRunning, stopPart } from "./processes.ts";

/** Ends everything that `up` started. Doing it again, or after half an `up`, is fine. */
export async function down(): Promise<void> {
  if (!existsSync(home())) {
    progress("is down already");
    return;
  }
  rmSync(stateFile(), { force: true });
  if (isRunning("kube-apiserver")) {
    progress("deleting pods");
    await quietly(programPath("kubectl"), [
      ...["--kubeconfig", adminKubeconfig(), "--request-timeout=10s", "delete", "pods", "--all"],
      ...["--all-namespaces", "--grace-period=0", "--force", "--wait=false"],
    ]);
  }
  // The kubelet first, or it starts again what is ended below.
  for (const name of ["kubelet", "kube-proxy"]) await stopPart(name);
  if (isRunning("containerd")) await removeContainers();
  for (const { name } of parts().toReversed()) {
    await stopPart(name);
    forgetPart(name);
  }
  await unmountAll();
  for (const problem of await removeNetwork()) progress(`left behind: ${problem}`);
  rmSync(home(), { recursive: true, force: true });
  progress("is down");
}

/** Ends every container's process; its shim ends with the task. */
async function removeContainers(): Promise<void> {
  const ctr = ["--address", containerdSocket(), "--namespace", "k8s.io"];
  const listed = await tryRun("ctr", [...ctr, "tasks", "list", "--quiet"]);
  const tasks = listed.stdout.split("\n").filter((id) => id !== "");
  progress(`ending ${tasks.length} containers`);
  // A few at a time: each is a program to start, and two hundred at once would take the machine.
  const next = tasks.values();
  const worker = async () => {
    for (const id of next) await quietly("ctr", [...ctr, "tasks", "delete", "--force", id]);
  };
  await Promise.all([worker(), worker(), worker(), worker()]);
}

/** Unmounts what lies below the home, the deepest first; lazily, as a dying container may still hold one. */
async function unmountAll(): Promise<void> {
  const below = readFileSync("/proc/self/mounts", "utf8")
    .split("\n")
    .map((line) => (line.split(" ")[1] ?? "").replaceAll("\\040", " "))
    .filter((path) => path.startsWith(`${home()}/`))
    .sort()
    .reverse();
  for (const path of below) await quietly("umount", ["--lazy", path]);
}

/** Runs what may fail because its work is done already. */
async function quietly(command: string, args: readonly string[]): Promise<void> {
  const { code, stderr } = await tryRun(command, args, { timeoutMs: 30_000 }).catch((error: Error) => ({
    code: 1,
    stderr: error.message,
  }));
  if (code !== 0 && process.env["COUNTERSIGN_CLUSTER_VERBOSE"]) progress(stderr.trim());
}
