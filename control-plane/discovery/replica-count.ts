// How many replicas of a workload there are, for limits that they share.
import type { ClusterState } from "../sources/store.ts";

/**
 * Counts the pods of workloads that have a sidecar, once per state. Outside of Kubernetes nobody declares how many there
 * are: 0 then, and those that are connected count.
 */
export function createReplicaCount(stateOf: () => ClusterState): (workload: string) => number {
  let countedIn: ClusterState["pods"] | undefined;
  let counts = new Map<string, number>();
  return (workload) => {
    const { pods } = stateOf();
    if (pods !== countedIn) {
      countedIn = pods;
      counts = new Map();
      for (const { injected, workload: of } of pods.values())
        if (injected && of !== undefined) counts.set(of, (counts.get(of) ?? 0) + 1);
    }
    return counts.get(workload) ?? 0;
  };
}
