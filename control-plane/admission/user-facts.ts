// Facts about users that a pod asserts, and which of them count: those whose writer is trusted with them (DOMAIN 1.7). PURE.
import { PREFIX } from "./own-names.ts";
import { isUserFact } from "./pod-settings.ts";
import type { PodView } from "./pod-view.ts";

export const VERIFIED_OWNER = `${PREFIX}verified-owner`;
export const VERIFIED_RUN_AS = `${PREFIX}verified-run-as`;
export const VERIFIED_SPAWNER = `${PREFIX}verified-spawner`;

const RUN_AS = `${PREFIX}run-as`;
/** KubeSpawner writes the plain name here; the label of that name is escaped. */
const JUPYTERHUB_USER = "hub.jupyter.org/username";

const ACCOUNT_PREFIX = "system:serviceaccount:";
/**
 * Make pods from templates. Facts in a template were written by a trusted spawner: a ValidatingAdmissionPolicy of the chart
 * keeps everybody else from it.
 */
const CONTROLLERS: ReadonlySet<string> = new Set([
  "system:kube-controller-manager",
  ...["deployment", "replicaset", "statefulset", "daemon-set", "job", "cronjob"].map(
    (name) => `${ACCOUNT_PREFIX}kube-system:${name}-controller`,
  ),
]);

/** @param trustedSpawners ServiceAccounts as `namespace/name` (`MeshConfig.spec.trustedSpawners`). */
export function isTrustedSpawner(username: string, trustedSpawners: readonly string[]): boolean {
  if (CONTROLLERS.has(username)) return true;
  if (!username.startsWith(ACCOUNT_PREFIX)) return false;
  return trustedSpawners.includes(username.slice(ACCOUNT_PREFIX.length).replace(":", "/"));
}

export interface VerifiedFacts {
  /** By annotation; undefined: it is removed. All of `verified-*` are here, so that what a pod brings never stays. */
  readonly annotations: ReadonlyMap<string, string | undefined>;
  readonly warnings: readonly string[];
}

/** @param username who creates the pod; undefined: nobody knows (offline), so that nothing counts. */
export function verifiedFacts(
  pod: PodView,
  username: string | undefined,
  trustedSpawners: readonly string[],
): VerifiedFacts {
  const trusted = username !== undefined && isTrustedSpawner(username, trustedSpawners);
  const fact = (name: string): string | undefined => {
    const text = pod.annotations.get(name);
    return trusted && text !== undefined && isUserFact(text) ? text : undefined;
  };
  const annotations = new Map<string, string | undefined>([
    [VERIFIED_OWNER, fact(JUPYTERHUB_USER)],
    [VERIFIED_RUN_AS, fact(RUN_AS)],
    [VERIFIED_SPAWNER, trusted ? username : undefined],
  ]);
  // Whatever else begins with the prefix would look verified too.
  for (const key of pod.annotations.keys())
    if (key.startsWith(`${PREFIX}verified-`) && !annotations.has(key)) annotations.set(key, undefined);
  const warnings: string[] = [];
  if (username !== undefined && !trusted)
    for (const name of [RUN_AS, JUPYTERHUB_USER])
      if (pod.annotations.has(name))
        warnings.push(
          `annotation \`${name}\` does not count: \`${username}\` is not in \`MeshConfig.spec.trustedSpawners\``,
        );
  return { annotations, warnings };
}
