// Opens the cluster of a kubeconfig for the command line, and says in words what went wrong and what to do.
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";
import { type Kubernetes, loadKubernetes } from "../kubernetes/client.ts";
import { ApiError } from "../kubernetes/rest.ts";
import { type Fields, fieldsOf, listOf, textOf } from "./answers.ts";
import type { ClusterOptions } from "./mesh.ts";

export const DEFAULT_CONTROL_PLANE_NAMESPACE = "countersign-system";
/** Of the control plane's Service; its selector finds the pods. */
export const SERVICE_NAME = "countersign";
const IN_POD = "/var/run/secrets/kubernetes.io/serviceaccount/token";
const ANSWER_WITHIN_MS = 20_000;

/** One cluster and where its control plane is, or should be. */
export interface Cluster {
  readonly kubernetes: Kubernetes;
  readonly controlPlaneNamespace: string;
  /** Of the context; `default` where it has none. */
  readonly namespace: string;
  readonly context: string;
}

/**
 * Opens the cluster; asks it nothing yet.
 *
 * @throws MeshError `bad_config`: there is no kubeconfig, it cannot be read, or it has no such context.
 */
export async function openCluster(options: ClusterOptions): Promise<Cluster> {
  const { kubeconfig, context } = options;
  if (kubeconfig !== undefined && !existsSync(kubeconfig))
    throw new MeshError("bad_config", `\`--kubeconfig ${kubeconfig}\` does not exist`);
  const fromEnvironment = process.env["KUBECONFIG"] ?? "";
  const found =
    kubeconfig !== undefined ||
    fromEnvironment !== "" ||
    existsSync(IN_POD) ||
    existsSync(join(homedir(), ".kube", "config"));
  if (!found)
    throw new MeshError(
      "bad_config",
      "there is no kubeconfig: give `--kubeconfig` or set KUBECONFIG; for a control plane on this machine give `--state-dir`",
    );
  const kubernetes = await loadKubernetes({ kubeconfig, context });
  const { kubeConfig } = kubernetes;
  const current = kubeConfig.getCurrentContext();
  return {
    kubernetes,
    controlPlaneNamespace: options.controlPlaneNamespace ?? DEFAULT_CONTROL_PLANE_NAMESPACE,
    namespace: kubeConfig.getContextObject(current)?.namespace ?? "default",
    context: current,
  };
}

/**
 * Reads one document of the API.
 *
 * @param what it is, for the message.
 * @returns undefined when it does not exist.
 * @throws MeshError `io_failed` when the API server does not answer or does not allow it.
 */
export async function readApi(
  { kubernetes, context }: Pick<Cluster, "kubernetes" | "context">,
  path: string,
  what: string,
  query: Readonly<Record<string, string>> = {},
): Promise<Fields | undefined> {
  try {
    return fieldsOf(await kubernetes.rest.get(path, query, AbortSignal.timeout(ANSWER_WITHIN_MS)));
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return undefined;
    if (error instanceof ApiError && (error.status === 403 || error.status === 401))
      throw new MeshError(
        "io_failed",
        error.status === 401
          ? `the API server does not accept the credentials of context \`${context}\`; sign in again`
          : `you may not read ${what}: ${messageOf(error)}; ask an administrator of the cluster for that right`,
        { cause: error },
      );
    throw new MeshError("io_failed", `cannot read ${what} (context \`${context}\`): ${messageOf(error)}`, {
      cause: error,
    });
  }
}

/** A pod of the control plane. */
export interface Replica {
  readonly name: string;
  readonly ready: boolean;
  /** Why it is not ready. */
  readonly reason: string;
  readonly image: string;
}

/**
 * The pods behind the control plane's Service.
 *
 * @returns undefined when it is not installed in that namespace.
 * @throws MeshError `io_failed`.
 */
export async function findReplicas(cluster: Cluster): Promise<readonly Replica[] | undefined> {
  const base = `/api/v1/namespaces/${cluster.controlPlaneNamespace}`;
  const service = await readApi(
    cluster,
    `${base}/services/${SERVICE_NAME}`,
    `the Service of the control plane in namespace \`${cluster.controlPlaneNamespace}\``,
  );
  if (service === undefined) return undefined;
  const selector = Object.entries(fieldsOf(fieldsOf(service["spec"])["selector"]));
  if (selector.length === 0) return [];
  const labelSelector = selector.map(([key, value]) => `${key}=${textOf(value)}`).join(",");
  const pods = await readApi(
    cluster,
    `${base}/pods`,
    `pods in namespace \`${cluster.controlPlaneNamespace}\``,
    { labelSelector },
  );
  return listOf(pods?.["items"]).map(replicaOf);
}

function replicaOf(pod: Fields): Replica {
  const status = fieldsOf(pod["status"]);
  const metadata = fieldsOf(pod["metadata"]);
  const condition = listOf(status["conditions"]).find((one) => one["type"] === "Ready");
  const waiting = listOf(status["containerStatuses"])
    .map((one) => fieldsOf(fieldsOf(one["state"])["waiting"]))
    .find((one) => one["reason"] !== undefined);
  const leaving = metadata["deletionTimestamp"] !== undefined;
  return {
    name: textOf(metadata["name"]),
    ready: condition?.["status"] === "True" && !leaving,
    reason: leaving
      ? "is being deleted"
      : [
          textOf(waiting?.["reason"]),
          textOf(waiting?.["message"]) || textOf(condition?.["message"]) || textOf(status["phase"]),
        ]
          .filter((part) => part !== "")
          .join(": "),
    image: textOf(listOf(fieldsOf(pod["spec"])["containers"])[0]?.["image"]),
  };
}

/** Holder of the leader's Lease; empty when it cannot be told. */
export async function leaderOf(cluster: Cluster): Promise<string> {
  const path = `/apis/coordination.k8s.io/v1/namespaces/${cluster.controlPlaneNamespace}/leases/countersign-leader`;
  try {
    const lease = await readApi(cluster, path, "the leader's Lease");
    return textOf(fieldsOf(lease?.["spec"])["holderIdentity"]);
  } catch (error) {
    // Only a preference follows from it: who may not read Leases asks any replica.
    if (error instanceof MeshError) return "";
    throw error;
  }
}
