// The running mesh that a verb asks: the control plane on this machine (its Unix socket), or the one in a cluster.
import { MeshError } from "../../sidecar/core/runtime/errors.ts";
import { manage } from "./management-client.ts";

/** One way to ask a control plane, whichever it is. */
export interface Mesh {
  /**
   * One request to the control plane.
   *
   * @param path for example `/v1/status`.
   * @throws MeshError `io_failed` when nothing answers or it failed, `bad_object` with its own words when it refuses.
   */
  manage(method: "GET" | "POST", path: string, body?: unknown): Promise<unknown>;
  /** Asks every replica: each knows only the sidecars that are connected to it. */
  manageEach(path: string): Promise<readonly ReplicaAnswer[]>;
  /** Where its policies are written: `configuration directory` or `cluster`. */
  readonly source: "configuration directory" | "cluster";
  close(): void;
}

export interface ReplicaAnswer {
  /** The replica's pod; empty for the only one. */
  readonly replica: string;
  readonly answer: unknown;
}

/** Where the control plane is, as the command line says it. */
export interface MeshOptions extends ClusterOptions {
  readonly stateDir?: string | undefined;
}

export interface ClusterOptions {
  readonly kubeconfig?: string | undefined;
  readonly context?: string | undefined;
  /** Of the control plane. */
  readonly controlPlaneNamespace?: string | undefined;
  /** ServiceAccount there whose token is asked for when the kubeconfig has none. */
  readonly account?: string | undefined;
}

/** The control plane that owns a state directory. */
function localMesh(stateDir: string): Mesh {
  return {
    manage: (method, path, body) => manage(stateDir, method, path, body),
    manageEach: async (path) => [{ replica: "", answer: await manage(stateDir, "GET", path) }],
    source: "configuration directory",
    close: () => {},
  };
}

/**
 * Connects, runs and lets go.
 *
 * @throws MeshError `bad_config` when options contradict each other or there is no kubeconfig; whatever `use` throws.
 */
export async function withMesh<T>(options: MeshOptions, use: (mesh: Mesh) => Promise<T>): Promise<T> {
  const { stateDir, kubeconfig, context } = options;
  if (stateDir !== undefined && (kubeconfig !== undefined || context !== undefined))
    throw new MeshError(
      "bad_config",
      "give `--state-dir` (a control plane on this machine) or `--kubeconfig` and `--context` (a cluster), not both",
    );
  const mesh =
    stateDir === undefined
      ? await (await import("./cluster-mesh.ts")).connectCluster(options)
      : localMesh(stateDir);
  try {
    return await use(mesh);
  } finally {
    mesh.close();
  }
}
