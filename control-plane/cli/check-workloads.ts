// What `countersign check` says of pods, sidecars and policies.
import { type Fields, fieldsOf, listOf, textOf } from "./answers.ts";
import { meshedNamespaces } from "./check-after.ts";
import { type Cluster, readApi } from "./cluster.ts";
import { type CheckResult, failed, ok, some, warning } from "./findings.ts";

const SIDECAR = "countersign-proxy";
const PAGE = "500";

interface PodList {
  readonly items: readonly Fields[];
}

/** Pages through pods; what is kept of each page is small. */
async function listPods(
  cluster: Cluster,
  path: string,
  query: Readonly<Record<string, string>>,
): Promise<PodList> {
  const items: Fields[] = [];
  let next = "";
  do {
    const page = await readApi(cluster, path, "pods", {
      ...{ ...query, limit: PAGE },
      ...(next === "" ? {} : { continue: next }),
    });
    items.push(...listOf(page?.["items"]));
    next = textOf(fieldsOf(page?.["metadata"])["continue"]);
  } while (next !== "");
  return { items };
}

/** Pods that should have a sidecar and have none, and the versions of those that have one. */
export async function checkPods(
  cluster: Cluster,
  controlPlaneImage: string,
): Promise<readonly CheckResult[]> {
  const namespaces = await meshedNamespaces(cluster);
  const lists = await Promise.all([
    ...namespaces.map((namespace) => listPods(cluster, `/api/v1/namespaces/${namespace}/pods`, {})),
    listPods(cluster, "/api/v1/pods", { labelSelector: "countersign.dev/inject=enabled" }),
  ]);
  const pods = new Map<string, Fields>();
  for (const { items } of lists)
    for (const pod of items) pods.set(textOf(fieldsOf(pod["metadata"])["uid"]), pod);
  const unmeshed: string[] = [];
  const versions = new Map<string, number>();
  for (const pod of pods.values()) {
    const state = stateOf(pod);
    if (state === "unmeshed") unmeshed.push(nameOf(pod));
    if (state === "meshed") {
      const version = versionOf(pod);
      versions.set(version, (versions.get(version) ?? 0) + 1);
    }
  }
  const vain = await vainLabels(cluster);
  return [
    ...(vain.length === 0
      ? []
      : [
          warning(
            "namespace labels",
            `countersign.dev/inject says neither \`enabled\` nor \`disabled\` and has no effect in ${some(vain)}`,
            "kubectl label namespace NAME countersign.dev/inject=enabled --overwrite",
          ),
        ]),
    ...unmeshedResult(unmeshed, namespaces.length, pods.size),
    ...versionsResult(versions, controlPlaneImage),
  ];
}

/** Namespaces whose label for injection says something that the webhook does not know, as `name=value`. */
async function vainLabels(cluster: Cluster): Promise<readonly string[]> {
  const list = await readApi(cluster, "/api/v1/namespaces", "namespaces", {
    labelSelector: "countersign.dev/inject,countersign.dev/inject notin (enabled,disabled)",
  });
  return listOf(list?.["items"]).map((one) => {
    const metadata = fieldsOf(one["metadata"]);
    return `${textOf(metadata["name"])} (\`${textOf(fieldsOf(metadata["labels"])["countersign.dev/inject"])}\`)`;
  });
}

function unmeshedResult(
  unmeshed: readonly string[],
  namespaces: number,
  pods: number,
): readonly CheckResult[] {
  const name = "pods";
  if (unmeshed.length > 0)
    return [
      warning(
        name,
        `${unmeshed.length} should be meshed and are not: ${some(unmeshed)}`,
        "they were made before the label; make them anew (kubectl rollout restart), or label them countersign.dev/inject=disabled",
      ),
    ];
  if (namespaces === 0 && pods === 0)
    return [
      warning(
        name,
        "no namespace and no pod is in the mesh yet",
        "kubectl label namespace NAME countersign.dev/inject=enabled",
      ),
    ];
  return [ok(name, `every pod that should be meshed is (${pods} in ${namespaces} namespaces)`)];
}

function versionsResult(
  versions: ReadonlyMap<string, number>,
  controlPlaneImage: string,
): readonly CheckResult[] {
  if (versions.size === 0) return [];
  const text = [...versions].map(([version, count]) => `${version || "unknown"} (${count})`).join(", ");
  return versions.size > 1
    ? [
        warning(
          "sidecar versions",
          `${text}; the control plane runs ${controlPlaneImage}`,
          "neighbouring versions work together; make the older pods anew when it suits",
        ),
      ]
    : [ok("sidecar versions", text)];
}

const nameOf = (pod: Fields): string => {
  const metadata = fieldsOf(pod["metadata"]);
  return `${textOf(metadata["namespace"])}/${textOf(metadata["name"])}`;
};

/** `aside`: nothing is expected of it. PURE. */
export function stateOf(pod: Fields): "meshed" | "unmeshed" | "aside" {
  const spec = fieldsOf(pod["spec"]);
  const metadata = fieldsOf(pod["metadata"]);
  const phase = textOf(fieldsOf(pod["status"])["phase"]);
  if (fieldsOf(metadata["labels"])["countersign.dev/inject"] === "disabled") return "aside";
  if (phase === "Succeeded" || phase === "Failed" || metadata["deletionTimestamp"] !== undefined)
    return "aside";
  const containers = [...listOf(spec["initContainers"]), ...listOf(spec["containers"])];
  return containers.some((one) => one["name"] === SIDECAR) ? "meshed" : "unmeshed";
}

function versionOf(pod: Fields): string {
  return textOf(fieldsOf(fieldsOf(pod["metadata"])["annotations"])["countersign.dev/injected"]);
}

/** Sidecars that are not in step. PURE. */
export function checkSidecars(status: Fields): readonly CheckResult[] {
  const name = "sidecars";
  const sidecars = listOf(status["sidecars"]);
  const named = (list: readonly Fields[]) => some(list.map((one) => textOf(one["workload"])));
  const refused = sidecars.filter((one) => textOf(one["nack"]) !== "");
  const stale = sidecars.filter((one) => one["state"] === "stale" && textOf(one["nack"]) === "");
  const away = sidecars.filter((one) => one["state"] === "disconnected");
  const found: CheckResult[] = [];
  if (refused.length > 0)
    found.push(
      failed(
        name,
        `${refused.length} refused their configuration: ${named(refused)}`,
        "countersign proxy-status",
      ),
    );
  if (stale.length > 0)
    found.push(warning(name, `${stale.length} are behind: ${named(stale)}`, "countersign proxy-status"));
  if (away.length > 0)
    found.push(
      warning(
        name,
        `${away.length} are not connected: ${named(away)}`,
        "they go on with what they have until their certificates end; look at their logs (container countersign-proxy)",
      ),
    );
  return found.length > 0 ? found : [ok(name, `${sidecars.length} connected and up to date`)];
}

/** Policies that are not accepted, problems of the source, and a pin that somebody may have forgotten. PURE. */
export function checkPolicies(status: Fields, policies: readonly Fields[]): readonly CheckResult[] {
  const conditionOf = (row: Fields, type: string) =>
    listOf(fieldsOf(row["status"])["conditions"]).find((one) => one["type"] === type);
  const refused = policies.filter((row) => conditionOf(row, "Accepted")?.["status"] === "False");
  const found: CheckResult[] = [];
  for (const row of refused.slice(0, 10))
    found.push(
      failed(
        "policies",
        `${textOf(row["object"]).replace("/", " ")} is not accepted: ${textOf(conditionOf(row, "Accepted")?.["message"])}`,
        "correct it; an earlier version that was accepted stays in force",
      ),
    );
  if (refused.length > 10)
    found.push(failed("policies", `${refused.length - 10} more are not accepted`, "countersign status"));
  const pinned = status["pinned"];
  if (typeof pinned === "number")
    found.push(
      warning(
        "policies",
        `the mesh is pinned to revision ${pinned}: edits are recorded, not in force`,
        "countersign rollback --release",
      ),
    );
  return found.length > 0 ? found : [ok("policies", `${policies.length} accepted`)];
}
