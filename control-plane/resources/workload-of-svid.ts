// Which workload the holder of a certificate is: the pod with the UID in it, or the declared workload of its name. PURE.
import { type SpiffeId, workloadOf } from "../../sidecar/core/identity/spiffe-id.ts";
import type { ClusterState } from "../sources/store.ts";
import { spiffeIdOf } from "./build.ts";

export type FoundWorkload =
  | {
      readonly id: string;
      readonly spiffeId: string;
      /** Where its sidecar runs; undefined: not known. */
      readonly zone: string | undefined;
    }
  | { readonly problem: string };

/**
 * @param svid the SPIFFE ID and the pod UID of a verified certificate; the UID is empty for a declared workload.
 * @returns its key and the SPIFFE ID that it must have now, which may be another one.
 */
export function workloadOfSvid(
  state: ClusterState,
  trustDomain: string,
  svid: { readonly spiffeId: SpiffeId; readonly instance: string },
): FoundWorkload {
  const { spiffeId, instance } = svid;
  const pod = instance === "" ? undefined : state.pods.get(instance);
  if (pod) {
    const workload = pod.workload === undefined ? undefined : state.workloads.get(pod.workload);
    return workload && pod.workload !== undefined
      ? { id: pod.workload, spiffeId: spiffeIdOf(workload, trustDomain), zone: pod.zone }
      : { problem: `pod \`${pod.namespace}/${pod.name}\` has no place in the mesh` };
  }
  const parts = workloadOf(spiffeId);
  const id = `${parts?.namespace}/${parts?.name}`;
  const declared = state.workloads.get(id);
  if (declared) return { id, spiffeId: spiffeIdOf(declared, trustDomain), zone: declared.zone };
  return {
    problem:
      instance === "" || state.pods.size === 0
        ? `workload \`${id}\` is not declared`
        : `pod \`${instance}\` is not known, or gone`,
  };
}
