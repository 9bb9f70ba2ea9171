// Opens the cluster: kubeconfig (or the pod's own ServiceAccount), typed calls of `@kubernetes/client-node`, and our own
// list and watch. The library is loaded here and nowhere else, and only when a cluster is asked for: it takes 0.4 s and
// 80 MiB.
import { access } from "node:fs/promises";
import type {
  AdmissionregistrationV1Api,
  AuthenticationV1Api,
  AuthorizationV1Api,
  CoordinationV1Api,
  CoreV1Api,
  CustomObjectsApi,
  EventsV1Api,
  Exec,
  KubeConfig,
  PortForward,
  VersionApi,
} from "@kubernetes/client-node";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";
import { createKubernetesRest, type KubernetesRest } from "./rest.ts";

export interface KubernetesOptions {
  /** File; undefined: `KUBECONFIG`, then the pod's ServiceAccount, then `~/.kube/config`. */
  readonly kubeconfig: string | undefined;
  /** Name in the kubeconfig; undefined: its current one. */
  readonly context: string | undefined;
}

export type ApplyOptions = NonNullable<Parameters<CoreV1Api["patchNamespacedConfigMap"]>[1]>;

/** One cluster. Typed calls throw the library's `ApiException` (its `code` is the HTTP status): see `statusOf`. */
export interface Kubernetes {
  readonly kubeConfig: KubeConfig;
  readonly rest: KubernetesRest;
  readonly core: CoreV1Api;
  readonly coordination: CoordinationV1Api;
  readonly authentication: AuthenticationV1Api;
  readonly authorization: AuthorizationV1Api;
  readonly admission: AdmissionregistrationV1Api;
  readonly events: EventsV1Api;
  readonly custom: CustomObjectsApi;
  readonly version: VersionApi;
  /** As the last argument of a typed patch it makes that a server-side apply. */
  readonly apply: ApplyOptions;
  /** See port-forward.ts. */
  readonly portForward: PortForward;
  /** See exec.ts. */
  readonly exec: Exec;
}

const IN_POD = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/** @throws MeshError `bad_config` when there is no usable kubeconfig or the context is not in it. */
export async function loadKubernetes(options: KubernetesOptions): Promise<Kubernetes> {
  const library = await import("@kubernetes/client-node");
  const kubeConfig = new library.KubeConfig();
  try {
    if (options.kubeconfig !== undefined) kubeConfig.loadFromFile(options.kubeconfig);
    else if (process.env["KUBECONFIG"] === undefined && (await isThere(IN_POD))) kubeConfig.loadFromCluster();
    else kubeConfig.loadFromDefault();
  } catch (cause) {
    throw new MeshError("bad_config", `the kubeconfig cannot be used: ${messageOf(cause)}`, { cause });
  }
  if (options.context !== undefined) {
    const known = kubeConfig.getContexts().map(({ name }) => name);
    if (!known.includes(options.context))
      throw new MeshError(
        "bad_config",
        `the kubeconfig has no context \`${options.context}\`; it has ${known.map((name) => `\`${name}\``).join(", ") || "none"}`,
      );
    kubeConfig.setCurrentContext(options.context);
  }
  if (kubeConfig.getCurrentCluster() === null)
    throw new MeshError(
      "bad_config",
      "the kubeconfig has no current cluster; give `--kubeconfig` or set KUBECONFIG",
    );
  return {
    kubeConfig,
    rest: createKubernetesRest(kubeConfig),
    core: kubeConfig.makeApiClient(library.CoreV1Api),
    coordination: kubeConfig.makeApiClient(library.CoordinationV1Api),
    authentication: kubeConfig.makeApiClient(library.AuthenticationV1Api),
    authorization: kubeConfig.makeApiClient(library.AuthorizationV1Api),
    admission: kubeConfig.makeApiClient(library.AdmissionregistrationV1Api),
    events: kubeConfig.makeApiClient(library.EventsV1Api),
    custom: kubeConfig.makeApiClient(library.CustomObjectsApi),
    version: kubeConfig.makeApiClient(library.VersionApi),
    apply: library.setHeaderOptions("Content-Type", library.PatchStrategy.ServerSideApply),
    portForward: new library.PortForward(kubeConfig),
    exec: new library.Exec(kubeConfig),
  };
}

async function isThere(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

/** HTTP status of an error of a typed call; undefined when the API server did not answer. */
export function statusOf(error: unknown): number | undefined {
  if (typeof error !== "object" || error === null || !("code" in error)) return undefined;
  return typeof error.code === "number" ? error.code : undefined;
}
