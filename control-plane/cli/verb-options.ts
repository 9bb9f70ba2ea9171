// The frame of the verbs that answer and end: what all of them share. What each does is in the file of its name.
import { type Command, InvalidArgumentError } from "commander";
import type { ExitStatus, Output } from "./print.ts";

/** What a group of verbs is added to. */
export interface Verbs {
  readonly program: Command;
  readonly output: Output;
  /** A verb, with what all verbs share. */
  readonly verb: (parent: Command, name: string, description: string, more: string) => Command;
  /** Runs a verb; its result is the exit status of the process. */
  readonly run: (work: () => ExitStatus | Promise<ExitStatus>) => Promise<void>;
}

/** `--json` of every verb. */
export interface JsonOption {
  readonly json?: true;
}

export function positive(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1)
    throw new InvalidArgumentError("expected a positive whole number.");
  return value;
}

export function workloadId(text: string): string {
  if (!/^[^/]+(?:\/[^/]+){1,3}$/.test(text))
    throw new InvalidArgumentError("expected namespace/name, for example ml-dev/nb-alice.");
  return text;
}

/** Where the cluster is. */
export function onCluster(command: Command): Command {
  return command
    .option("--kubeconfig <file>", "the cluster's kubeconfig (default: KUBECONFIG, then ~/.kube/config)")
    .option("--context <name>", "context of the kubeconfig (default: its current one)")
    .option("--control-plane-namespace <name>", "where the control plane runs (default: countersign-system)")
    .option(
      "--account <name>",
      "ServiceAccount there to ask as, when the kubeconfig has no token (default: countersign-operator)",
    );
}

/** Where the control plane is: on this machine, or in a cluster. */
export function onMesh(command: Command): Command {
  return onCluster(
    command.option("--state-dir <dir>", "a control plane on this machine: its state directory"),
  );
}
