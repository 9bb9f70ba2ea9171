// Which workload a person means: by kind and name, namespace and name, pod, or its whole key. PURE.
import { MeshError } from "../../sidecar/core/runtime/errors.ts";
import { closestName } from "../sources/closest-name.ts";
import type { ClusterState, Workload } from "../sources/store.ts";

/**
 * The workload that `text` names: `kind/name`, `namespace/name`, `namespace/kind/name`, a bare name, `pod/name` or
 * `pod/namespace/name`, or a key of the state.
 *
 * @param option it was given with, for messages.
 * @param namespace of the command line; it decides where the same name is in several.
 * @returns its key and the workload.
 * @throws MeshError `bad_config` for a name that is not there (with the closest) or that several have (with all).
 */
export function workloadNamed(
  text: string,
  state: ClusterState,
  option: string,
  namespace?: string,
): readonly [string, Workload] {
  const found = new Map<string, Workload>();
  const names: string[] = [];
  const exact = state.workloads.get(text);
  if (exact !== undefined) return [text, exact];
  if (text.startsWith("pod/")) {
    const key = workloadOfPod(text.slice("pod/".length), state, namespace);
    const workload = key === undefined ? undefined : state.workloads.get(key);
    if (key !== undefined && workload !== undefined) return [key, workload];
  }
  for (const [key, workload] of state.workloads) {
    const { kind, name } = workload;
    const own = [
      `${kind}/${name}`,
      key,
      name,
      `${workload.namespace}/${name}`,
      `${workload.namespace}/${kind}/${name}`,
    ];
    names.push(...own);
    if (own.includes(text)) found.set(key, workload);
  }
  const here = [...found].filter(([, workload]) => workload.namespace === namespace);
  const [only, ...others] = here.length > 0 ? here : [...found];
  if (only !== undefined && others.length === 0) return only;
  if (only !== undefined)
    throw new MeshError(
      "bad_config",
      `\`${option} ${text}\` may be any of ${[only, ...others].map(([key]) => `\`${key}\``).join(", ")}; write one of these`,
    );
  const closest = closestName(text, names);
  const hint =
    closest === undefined
      ? names.length === 0
        ? "the configuration declares no Workload, and no pod is meshed"
        : `known are ${listed([...state.workloads.values()].map(({ kind, name }) => `${kind}/${name}`))}`
      : `did you mean \`${closest}\`?`;
  throw new MeshError("bad_config", `\`${option} ${text}\`: there is no such workload; ${hint}`);
}

/** Key of a pod's workload; `name` may have its namespace before it. */
function workloadOfPod(text: string, state: ClusterState, namespace: string | undefined): string | undefined {
  const slash = text.indexOf("/");
  const [inNamespace, name] = slash < 0 ? [namespace, text] : [text.slice(0, slash), text.slice(slash + 1)];
  for (const pod of state.pods.values())
    if (pod.name === name && (inNamespace === undefined || pod.namespace === inNamespace))
      return pod.workload;
  return undefined;
}

/** At most eight names, and how many more there are. */
export function listed(names: readonly string[]): string {
  const shown = names.slice(0, 8).map((name) => `\`${name}\``);
  return names.length > shown.length
    ? `${shown.join(", ")} and ${names.length - shown.length} more`
    : shown.join(", ");
}
