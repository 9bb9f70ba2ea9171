// Which namespaces are in the mesh: labelled, or with a pod that is; PURE.
import type { ClusterState } from "./sources/store.ts";

const INJECT = "countersign.dev/inject";

/** @param own the control plane's. */
export function meshedNamespaces(state: ClusterState, own: string): ReadonlySet<string> {
  const names = new Set([own]);
  for (const [name, labels] of state.namespaces) if (labels.get(INJECT) === "enabled") names.add(name);
  for (const { namespace, injected } of state.pods.values()) if (injected) names.add(namespace);
  return names;
}

export function hasMeshedPod(state: ClusterState, namespace: string): boolean {
  for (const pod of state.pods.values()) if (pod.injected && pod.namespace === namespace) return true;
  return false;
}
