// What end-to-end tests do on the cluster: kubectl and helm, objects, waiting, commands and logs of pods, and a namespace per test.
import { ClusterError, type CommandOptions, type CommandResult, run, tryRun, waitUntil } from "./commands.ts";
import { adminKubeconfig, programPath } from "./layout.ts";
import { PATIENCE } from "./waiting.ts";

const environment = (): Readonly<Record<string, string>> => ({ KUBECONFIG: adminKubeconfig() });

/** Runs kubectl as the admin; resolves with its standard output, rejects with what it complained about. */
export function kubectl(args: readonly string[], options: CommandOptions = {}): Promise<string> {
  return run(programPath("kubectl"), args, { ...options, env: { ...environment(), ...options.env } });
}

/** As {@link kubectl}, for calls that are expected to be refused. */
export function tryKubectl(args: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
  return tryRun(programPath("kubectl"), args, { ...options, env: { ...environment(), ...options.env } });
}

/** Runs helm as the admin; waits at most five minutes. */
export function helm(args: readonly string[], options: CommandOptions = {}): Promise<string> {
  return run(programPath("helm"), args, {
    timeoutMs: 300_000,
    ...options,
    env: { ...environment(), ...options.env },
  });
}

/** As {@link helm}, for calls that may be refused. */
export function tryHelm(args: readonly string[]): Promise<CommandResult> {
  return tryRun(programPath("helm"), args, { timeoutMs: 300_000, env: environment() });
}

/** An object of the API, as far as tests look into it. */
export type KubeObject = Readonly<Record<string, unknown>>;

/** Applies objects (YAML text, or values) in a namespace; unknown fields are an error. */
export async function apply(objects: string | readonly KubeObject[], namespace?: string): Promise<void> {
  const text =
    typeof objects === "string"
      ? objects
      : JSON.stringify({ apiVersion: "v1", kind: "List", items: objects });
  await kubectl(
    ["apply", "--filename", "-", "--validate=strict", ...(namespace ? ["--namespace", namespace] : [])],
    { stdin: text },
  );
}

/** Reads one object; `path` is a jsonpath, such as `{.status.phase}`. */
export function read(namespace: string, object: string, path: string): Promise<string> {
  return kubectl(["get", object, "--namespace", namespace, "--output", `jsonpath=${path}`]);
}

/** Calls `condition` until it holds, at most `timeoutMs` on a quiet machine; its last error is part of the rejection. */
export function waitFor(
  condition: () => Promise<boolean>,
  timeoutMs: number,
  what = "the condition",
): Promise<void> {
  return waitUntil(what, condition, PATIENCE * timeoutMs);
}

/** Waits for a condition by `kubectl wait`; on failure the error holds state and logs of the namespace's pods. */
export async function waitForObject(
  namespace: string,
  object: string,
  condition: string,
  timeoutMs: number,
): Promise<void> {
  try {
    await kubectl(
      ["wait", object, `--for=${condition}`, `--timeout=${PATIENCE * timeoutMs}ms`, "--namespace", namespace],
      { timeoutMs: PATIENCE * timeoutMs + 10_000 },
    );
  } catch (error) {
    throw new ClusterError(
      `${error instanceof Error ? error.message : String(error)}\n${await describeTrouble(namespace)}`,
    );
  }
}

export interface ExecOptions extends CommandOptions {
  readonly container?: string;
}

/** Runs a command in a pod (`name`, or `deployment/name`); does not reject on its exit status. */
export function exec(
  namespace: string,
  pod: string,
  command: readonly string[],
  options: ExecOptions = {},
): Promise<CommandResult> {
  const container = options.container === undefined ? [] : ["--container", options.container];
  return tryKubectl(
    ["exec", "--namespace", namespace, "--stdin", pod, ...container, "--", ...command],
    options,
  );
}

/** Logs of all containers of a pod, or of one, prefixed with the container's name where there are several. */
export async function logs(namespace: string, pod: string, container?: string): Promise<string> {
  const which = container === undefined ? ["--all-containers", "--prefix"] : ["--container", container];
  return (await tryKubectl(["logs", "--namespace", namespace, pod, ...which])).stdout;
}

/** State, events and last logs of the pods of a namespace that are not well: for error messages. */
export async function describeTrouble(namespace: string): Promise<string> {
  const [pods, events] = await Promise.all([
    tryKubectl(["get", "pods", "--namespace", namespace, "--output", "wide"]),
    tryKubectl([
      ...["get", "events", "--namespace", namespace, "--sort-by", ".lastTimestamp", "--no-headers"],
      ...["--output", "custom-columns=OBJECT:.involvedObject.name,REASON:.reason,MESSAGE:.message"],
    ]),
  ]);
  const lines = [`--- pods of ${namespace}`, pods.stdout.trim(), "--- events"];
  lines.push(...events.stdout.trim().split("\n").slice(-15));
  const unwell = pods.stdout
    .split("\n")
    .slice(1)
    .map((line) => line.split(/\s+/))
    .filter(([, ready, state]) => {
      const [up, all] = (ready ?? "").split("/");
      return state !== undefined && state !== "Completed" && (up !== all || state !== "Running");
    })
    .map(([name]) => name ?? "");
  for (const pod of unwell.slice(0, 4)) {
    const tail = await tryKubectl([
      ...["logs", "--namespace", namespace, pod, "--all-containers", "--prefix", "--tail=15"],
      "--ignore-errors",
    ]);
    lines.push(`--- logs of ${pod}`, tail.stdout.trim());
  }
  return lines.join("\n");
}

export interface TestNamespace {
  readonly name: string;
  /** Applies objects in this namespace. */
  apply(objects: string | readonly KubeObject[]): Promise<void>;
  /** Waits for one of its objects, e.g. `waitFor("pod/a", "condition=Ready", 30_000)`. */
  waitFor(object: string, condition: string, timeoutMs: number): Promise<void>;
  exec(pod: string, command: readonly string[], options?: ExecOptions): Promise<CommandResult>;
  logs(pod: string, container?: string): Promise<string>;
  read(object: string, path: string): Promise<string>;
  /** Deletes it with all it holds, without waiting for its pods to end. */
  delete(): Promise<void>;
}

/** Makes a namespace of its own for a test, and waits until pods can be made in it. */
export async function createNamespace(
  prefix: string,
  labels: Readonly<Record<string, string>> = {},
): Promise<TestNamespace> {
  const name = `${prefix}-${process.pid.toString(36)}${Math.random().toString(36).slice(2, 6)}`;
  await apply([{ apiVersion: "v1", kind: "Namespace", metadata: { name, labels } }]);
  // The API refuses pods until the controller has made the default account.
  await waitFor(
    async () => (await tryKubectl(["get", "serviceaccount", "default", "--namespace", name])).code === 0,
    20_000,
    `the default service account of ${name}`,
  );
  return {
    name,
    apply: (objects) => apply(objects, name),
    waitFor: (object, condition, timeoutMs) => waitForObject(name, object, condition, timeoutMs),
    exec: (pod, command, options) => exec(name, pod, command, options),
    logs: (pod, container) => logs(name, pod, container),
    read: (object, path) => read(name, object, path),
    delete: async () => {
      await kubectl(["delete", "namespace", name, "--wait=false"]);
      await tryKubectl(["delete", "pods", "--all", "--namespace", name, "--grace-period=1", "--wait=false"]);
    },
  };
}
