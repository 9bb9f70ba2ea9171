// Runs a command in a container of a pod through the API server, as `kubectl exec` does: for the command line only.
import { Writable } from "node:stream";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";

/** What `Exec` of `@kubernetes/client-node` has and this file needs. */
export interface Executor {
  exec(
    namespace: string,
    pod: string,
    container: string,
    command: string[],
    stdout: Writable,
    stderr: Writable,
    stdin: null,
    tty: boolean,
    onStatus: (status: { readonly message?: string; readonly status?: string }) => void,
  ): Promise<{ close(): void; on(event: "close", listener: () => void): unknown }>;
}

export interface PodCommand {
  readonly namespace: string;
  readonly pod: string;
  readonly container: string;
  readonly command: readonly string[];
}

export interface CommandOutput {
  readonly stdout: string;
  readonly stderr: string;
  /** Of a command that could not be run or ended with another status than 0; empty otherwise. */
  readonly problem: string;
}

const ENDS_WITHIN_MS = 30_000;
const MAX_CHARS = 4 * 1024 * 1024;

/** Keeps what is written, up to a bound. */
class Kept extends Writable {
  text = "";
  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    if (this.text.length < MAX_CHARS) this.text += chunk.toString("utf8");
    done();
  }
}

/** @throws MeshError `io_failed` (not allowed, no such pod or container), `timeout` (30 s). */
export async function execInPod(executor: Executor, target: PodCommand): Promise<CommandOutput> {
  const { namespace, pod, container, command } = target;
  const stdout = new Kept();
  const stderr = new Kept();
  const ended = Promise.withResolvers<string>();
  const late = AbortSignal.timeout(ENDS_WITHIN_MS);
  const onLate = (): void =>
    ended.reject(new MeshError("timeout", `the command in pod \`${namespace}/${pod}\` did not end in time`));
  late.addEventListener("abort", onLate, { once: true });
  try {
    const onStatus = ({ status, message }: { readonly message?: string; readonly status?: string }): void =>
      ended.resolve(status === "Success" ? "" : (message ?? "it failed"));
    const run = [...command];
    const socket = await executor.exec(namespace, pod, container, run, stdout, stderr, null, false, onStatus);
    socket.on("close", () => ended.resolve("the connection was closed"));
    const problem = await ended.promise;
    socket.close();
    return { stdout: stdout.text, stderr: stderr.text, problem };
  } catch (cause) {
    if (cause instanceof MeshError) throw cause;
    throw new MeshError(
      "io_failed",
      `cannot run a command in pod \`${namespace}/${pod}\`: ${reasonOf(cause, target)}`,
      {
        cause,
      },
    );
  } finally {
    late.removeEventListener("abort", onLate);
  }
}

function reasonOf(cause: unknown, { namespace, container }: PodCommand): string {
  const message =
    typeof cause === "object" && cause !== null && "message" in cause
      ? String(cause.message)
      : messageOf(cause);
  const status = /server response: (\d{3})/.exec(message)?.[1];
  if (status === "403")
    return `you may not in namespace \`${namespace}\`; grant it with: kubectl create role countersign-exec --namespace ${namespace} --verb=create --resource=pods/exec, and bind it`;
  if (status === "404") return "there is no such pod; choose the namespace with `-n`";
  if (status === "400") return `it has no running container \`${container}\`: is it meshed?`;
  return status === undefined ? message : `the API server answers ${status}`;
}
