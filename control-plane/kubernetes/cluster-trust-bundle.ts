// Where the cluster has ClusterTrustBundles (`certificates.k8s.io`, beta and off by default in Kubernetes 1.33 and later),
// keeps the roots of the mesh as one, too: for what is not in a meshed namespace. One replica does this, the leader.
import type { CustomObjectsApi } from "@kubernetes/client-node";
import { backoffMs } from "../../sidecar/core/runtime/backoff.ts";
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { messageOf } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import { statusOf } from "./client.ts";
import { ApiError, type KubernetesRest } from "./rest.ts";

export interface ClusterTrustBundleDeps {
  /**
   * Needs `get, create, update` on `clustertrustbundles` and `attest` on the signer `countersign.dev/{trust domain}`.
   */
  readonly custom: Pick<
    CustomObjectsApi,
    "getClusterCustomObject" | "createClusterCustomObject" | "replaceClusterCustomObject"
  >;
  readonly rest: KubernetesRest;
  readonly trustDomain: string;
  /** PEM; empty: not known yet. */
  readonly roots: () => string;
  /** Calls back when the roots may have changed; returns how to end that. */
  readonly onChanged: (listener: () => void) => () => void;
  readonly clock: Clock;
  /** In [0, 1). */
  readonly random: () => number;
  readonly log: Logger;
}

const GROUP = "certificates.k8s.io";
const PLURAL = "clustertrustbundles";
/** Newest first. */
const VERSIONS = ["v1", "v1beta1", "v1alpha1"] as const;
/** Edits by others, and an API that is switched on, are noticed this late. */
const LOOK_AGAIN_MS = 600_000;
const RETRY = { firstMs: 1_000, maxMs: 60_000 };

/** The name must begin with the signer's, `/` written as `:`. */
export function clusterTrustBundleOf(trustDomain: string): {
  readonly name: string;
  readonly signerName: string;
} {
  return { name: `countersign.dev:${trustDomain}:roots`, signerName: `countersign.dev/${trustDomain}` };
}

/** Runs until the signal aborts; never rejects. */
export async function runClusterTrustBundle(
  deps: ClusterTrustBundleDeps,
  signal: AbortSignal,
): Promise<void> {
  const { clock, log, random, onChanged } = deps;
  let wake = new AbortController();
  const end = onChanged(() => wake.abort());
  let failures = 0;
  while (!signal.aborted) {
    wake = new AbortController();
    let pauseMs = LOOK_AGAIN_MS;
    try {
      await keep(deps, signal);
      failures = 0;
    } catch (error) {
      if (signal.aborted) break;
      pauseMs = backoffMs(failures++, RETRY, random());
      const [reason = ""] = messageOf(error).split("\nHeaders:");
      log.warn("ClusterTrustBundle not written, trying again", {
        reason: reason.replaceAll("\n", " ").slice(0, 300),
        status: statusOf(error),
      });
    }
    // After a failure a change does not shorten the pause.
    await clock.sleep(pauseMs, failures > 0 ? signal : AbortSignal.any([signal, wake.signal]));
  }
  end();
}

async function keep(deps: ClusterTrustBundleDeps, signal: AbortSignal): Promise<void> {
  const { custom, trustDomain, roots, log } = deps;
  const trustBundle = roots();
  const version = trustBundle === "" ? undefined : await servedVersion(deps.rest, signal);
  if (version === undefined) return;
  const { name, signerName } = clusterTrustBundleOf(trustDomain);
  const at = { group: GROUP, version, plural: PLURAL };
  const found = await custom.getClusterCustomObject({ ...at, name }).catch((error: unknown) => {
    if (statusOf(error) === 404) return undefined;
    throw error;
  });
  const body = {
    apiVersion: `${GROUP}/${version}`,
    kind: "ClusterTrustBundle",
    metadata: { name, labels: { "countersign.dev/bundle": "true" } },
    spec: { signerName, trustBundle },
  };
  if (found === undefined) {
    await custom.createClusterCustomObject({ ...at, body, fieldManager: "countersign" });
    log.info("ClusterTrustBundle made", { name });
    return;
  }
  const { resourceVersion, written } = read(found);
  if (written === trustBundle) return;
  await custom.replaceClusterCustomObject({
    ...at,
    name,
    fieldManager: "countersign",
    body: { ...body, metadata: { ...body.metadata, resourceVersion } },
  });
  log.info("ClusterTrustBundle replaced", { name });
}

const field = (value: unknown, name: string): unknown =>
  typeof value === "object" && value !== null
    ? Object.entries(value).find(([key]) => key === name)?.[1]
    : undefined;

function read(found: unknown): { readonly resourceVersion: unknown; readonly written: unknown } {
  return {
    resourceVersion: field(field(found, "metadata"), "resourceVersion"),
    written: field(field(found, "spec"), "trustBundle"),
  };
}

/** The best version in which the API server has ClusterTrustBundles; undefined: it has none. */
async function servedVersion(rest: KubernetesRest, signal: AbortSignal): Promise<string | undefined> {
  for (const version of VERSIONS) {
    try {
      const resources = field(await rest.get(`/apis/${GROUP}/${version}`, {}, signal), "resources");
      const has = Array.isArray(resources) && resources.some((one) => field(one, "name") === PLURAL);
      if (has) return version;
    } catch (error) {
      if (!(error instanceof ApiError && error.status === 404)) throw error;
    }
  }
  return undefined;
}
