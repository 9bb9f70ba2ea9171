// Asks the sidecar of a pod: its admin pages are a Unix socket that only its own container reaches, so its own command
// line asks there.
import { MeshError } from "../../sidecar/core/runtime/errors.ts";
import { execInPod } from "../kubernetes/exec.ts";
import { openCluster } from "./cluster.ts";
import type { ClusterOptions } from "./mesh.ts";

const CONTAINER = "countersign-proxy";
const STATE_DIR = "/var/run/countersign/state";

/**
 * Why a sidecar denied a call.
 *
 * @param options.pod `name`, or `namespace/name`.
 * @returns the sidecar's answer, as `askSidecar` gives it.
 * @throws MeshError `io_failed`, `bad_object` with the sidecar's words when it does not know the decision.
 */
export async function askPodAboutDecision(
  decisionId: string,
  options: ClusterOptions & { readonly pod: string; readonly namespace?: string | undefined },
): Promise<unknown> {
  const cluster = await openCluster(options);
  const slash = options.pod.indexOf("/");
  const target = {
    namespace: slash < 0 ? (options.namespace ?? cluster.namespace) : options.pod.slice(0, slash),
    pod: options.pod.slice(slash + 1),
    container: CONTAINER,
    command: ["countersign", "explain", decisionId, "--sidecar", STATE_DIR, "--json"],
  };
  const { stdout, stderr, problem } = await execInPod(cluster.kubernetes.exec, target);
  // A decision that denied ends with 1, so the status says nothing; the document does.
  try {
    if (stdout.trim() !== "") return JSON.parse(stdout);
  } catch {
    throw new MeshError(
      "protocol_error",
      `the sidecar of \`${options.pod}\` answered with something that is not JSON`,
    );
  }
  const words = stderr.replace(/^countersign: /, "").trim();
  throw new MeshError("bad_object", words === "" ? problem : words);
}
