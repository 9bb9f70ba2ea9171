// A mesh configured by a cluster: any number of control planes, everything that lasts in Kubernetes objects.
import type { Clock } from "../sidecar/core/runtime/clock.ts";
import type { Logger } from "../sidecar/core/runtime/log.ts";
import { openCertificateAuthority } from "./ca/root.ts";
import type { ClusterConfig } from "./config.ts";
import { loadKubernetes } from "./kubernetes/client.ts";
import type { Mode } from "./mode.ts";
import { createAdmitter } from "./policy/admit.ts";
import { loadBuiltInPacks } from "./policy/packs.ts";
import { runKubernetesSource } from "./sources/kubernetes/source.ts";
import { loadSchemas } from "./sources/schema.ts";

/** @throws MeshError `bad_config` when the cluster cannot be opened. */
export async function openKubernetesMode(
  config: ClusterConfig,
  { log, clock }: { readonly log: Logger; readonly clock: Clock },
): Promise<Mode> {
  const kubernetes = await loadKubernetes({ kubeconfig: config.kubeconfig, context: config.context });
  return {
    runSource: (onState, signal) =>
      runKubernetesSource(
        {
          rest: kubernetes.rest,
          schemas: loadSchemas(),
          admitter: createAdmitter(loadBuiltInPacks()),
          clock,
          random: Math.random,
          log,
          onState,
        },
        signal,
      ),
    trustDomain: config.trustDomain,
    openAuthority: (trustDomain) => openCertificateAuthority({ stateDir: "/tmp/x", trustDomain, clock }),
    numbersRevisions: true,
  };
}
