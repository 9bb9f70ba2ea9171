// `countersign check` before installation: can this cluster run Countersign, and may you install it?
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";
import { statusOf } from "../kubernetes/client.ts";
import { KINDS } from "../sources/schema.ts";
import { fieldsOf, listOf, textOf } from "./answers.ts";
import { type Cluster, readApi } from "./cluster.ts";
import { type Check, type CheckResult, failed, ok, some, warning } from "./findings.ts";

/** As in the chart's `kubeVersion`. */
const MIN_MINOR = 30;
const ADMISSION = "/apis/admissionregistration.k8s.io/v1";

/** What the control plane writes for itself. */
const RECORDS = ["meshrevisions", "onetimerecords", "revocations"];

/** What an installer creates: group, resource, and whether in the control plane's namespace. */
const TO_CREATE: readonly (readonly [string, string, boolean])[] = [
  ["apiextensions.k8s.io", "customresourcedefinitions", false],
  ["rbac.authorization.k8s.io", "clusterroles", false],
  ["rbac.authorization.k8s.io", "clusterrolebindings", false],
  ["admissionregistration.k8s.io", "mutatingwebhookconfigurations", false],
  ["admissionregistration.k8s.io", "validatingwebhookconfigurations", false],
  ["admissionregistration.k8s.io", "validatingadmissionpolicies", false],
  ["admissionregistration.k8s.io", "validatingadmissionpolicybindings", false],
  ["", "namespaces", false],
  ["apps", "deployments", true],
  ["", "services", true],
  ["", "serviceaccounts", true],
  ["rbac.authorization.k8s.io", "roles", true],
  ["rbac.authorization.k8s.io", "rolebindings", true],
];

/** Questions about a cluster without a control plane. */
export function checksBefore(cluster: Cluster): readonly Check[] {
  return [
    { name: "policies of admission", needed: true, run: () => checkAdmissionPolicies(cluster) },
    { name: "native sidecars", needed: false, run: () => checkNativeSidecars(cluster) },
    { name: "nodes", needed: false, run: () => checkNodes(cluster) },
    { name: "rights to install", needed: true, run: () => checkRights(cluster) },
    { name: "custom resources", needed: false, run: () => checkCrds(cluster, false) },
    { name: "left over", needed: false, run: () => checkLeftOver(cluster) },
  ];
}

/** The API server itself: asked first and alone, because nothing else can be told without it. */
export async function checkApiServer(cluster: Cluster): Promise<readonly CheckResult[]> {
  const version = await readApi(cluster, "/version", "the version of the API server");
  const text = textOf(version?.["gitVersion"]);
  const minor = Number.parseInt(textOf(version?.["minor"]), 10);
  const major = Number.parseInt(textOf(version?.["major"]), 10);
  const detail = `Kubernetes ${text} (context \`${cluster.context}\`)`;
  return [
    major > 1 || (major === 1 && minor >= MIN_MINOR)
      ? ok("API server", detail)
      : failed("API server", detail, `upgrade to 1.${MIN_MINOR} or later`),
  ];
}

async function checkAdmissionPolicies(cluster: Cluster): Promise<readonly CheckResult[]> {
  const name = "policies of admission";
  const group = await readApi(cluster, ADMISSION, "the resources of the API server");
  const served = listOf(group?.["resources"]).map((one) => textOf(one["name"]));
  return served.includes("validatingadmissionpolicies")
    ? [ok(name, "ValidatingAdmissionPolicy is served")]
    : [
        failed(
          name,
          "ValidatingAdmissionPolicy (admissionregistration.k8s.io/v1) is not served",
          "switch it on: without it tenants could forge what labels assert",
        ),
      ];
}

/** Asks the API server to make a pod with a native sidecar, without keeping it: a gate that is off drops the field. */
async function checkNativeSidecars({ kubernetes }: Cluster): Promise<readonly CheckResult[]> {
  const name = "native sidecars";
  const image = "registry.k8s.io/pause:3.10";
  try {
    const made = await kubernetes.core.createNamespacedPod({
      ...{ namespace: "default", dryRun: "All" },
      body: {
        metadata: { generateName: "countersign-check-" },
        spec: {
          initContainers: [{ name: "sidecar", image, restartPolicy: "Always" }],
          containers: [{ name: "app", image }],
        },
      },
    });
    const kept = made.spec?.initContainers?.some(({ restartPolicy }) => restartPolicy === "Always") === true;
    return [
      kept
        ? ok(name, "init containers that go on running are served")
        : failed(
            name,
            "the API server drops `restartPolicy: Always` of init containers",
            "switch on the feature gate SidecarContainers",
          ),
    ];
  } catch (error) {
    const status = statusOf(error);
    if (status === undefined) throw new MeshError("io_failed", messageOf(error), { cause: error });
    return [
      warning(
        name,
        `could not be tried: the API server answers ${status} to a pod that would not be kept`,
        "on by default since 1.29; make sure that the feature gate SidecarContainers is not off",
      ),
    ];
  }
}

async function checkNodes(cluster: Cluster): Promise<readonly CheckResult[]> {
  const nodes = listOf((await readApi(cluster, "/api/v1/nodes", "nodes"))?.["items"]);
  const old = nodes.filter((node) => {
    const version = textOf(fieldsOf(fieldsOf(node["status"])["nodeInfo"])["kubeletVersion"]);
    const [, minor] = /^v1\.(\d+)/.exec(version) ?? [];
    return minor !== undefined && Number(minor) < MIN_MINOR;
  });
  const windows = nodes.filter(
    (node) => textOf(fieldsOf(fieldsOf(node["status"])["nodeInfo"])["operatingSystem"]) === "windows",
  );
  const nameOf = (node: (typeof nodes)[number]) => textOf(fieldsOf(node["metadata"])["name"]);
  const found: CheckResult[] = [];
  if (old.length > 0)
    found.push(
      failed("nodes", `kubelets older than 1.${MIN_MINOR}: ${some(old.map(nameOf))}`, "upgrade them first"),
    );
  if (windows.length > 0)
    found.push(
      warning(
        "nodes",
        `${windows.length} run Windows, where pods cannot be meshed`,
        "label no namespace whose pods run there",
      ),
    );
  return found.length > 0 ? found : [ok("nodes", `${nodes.length} with kubelet 1.${MIN_MINOR} or later`)];
}

async function checkRights(cluster: Cluster): Promise<readonly CheckResult[]> {
  const { kubernetes, controlPlaneNamespace } = cluster;
  const missing = await Promise.all(
    TO_CREATE.map(async ([group, resource, namespaced]) => {
      try {
        const review = await kubernetes.authorization.createSelfSubjectAccessReview({
          body: {
            spec: {
              resourceAttributes: {
                ...{ group, resource, verb: "create" },
                ...(namespaced ? { namespace: controlPlaneNamespace } : {}),
              },
            },
          },
        });
        return review.status?.allowed === true ? [] : [resource];
      } catch (cause) {
        throw new MeshError("io_failed", `your rights cannot be read: ${messageOf(cause).split("\n")[0]}`, {
          cause,
        });
      }
    }),
  );
  const names = missing.flat();
  return [
    names.length === 0
      ? ok("rights to install", "you may create what the charts create")
      : failed(
          "rights to install",
          `you may not create ${names.join(", ")}`,
          "ask an administrator of the cluster to install, or for these rights",
        ),
  ];
}

/** Plural names of our kinds and records, as `crds/` has them. */
export function customResources(): readonly string[] {
  const kinds = KINDS.filter((kind) => kind !== "Namespace").map((kind) => {
    const lower = kind.toLowerCase();
    return /[^aeiou]y$/.test(lower) ? `${lower.slice(0, -1)}ies` : `${lower}s`;
  });
  return [...kinds, ...RECORDS];
}

/** @param installed whether they have to be there. */
export async function checkCrds(cluster: Cluster, installed: boolean): Promise<readonly CheckResult[]> {
  const name = "custom resources";
  const path = "/apis/countersign.dev/v1alpha1";
  const served = listOf(
    (await readApi(cluster, path, "the resources of countersign.dev"))?.["resources"],
  ).map((one) => textOf(one["name"]));
  const wanted = customResources();
  const absent = wanted.filter((one) => !served.includes(one));
  const install = "helm install countersign-crds (or upgrade it to this version)";
  if (absent.length === 0) return [ok(name, "all kinds of countersign.dev/v1alpha1 are served")];
  if (installed) return [failed(name, `not served: ${some(absent)}`, install)];
  return absent.length === wanted.length
    ? [ok(name, "none yet; countersign-crds comes before countersign")]
    : [warning(name, `some are there and some are not: ${some(absent)}`, install)];
}

/** Webhooks that a removed control plane left behind let labelled pods wait for ever. */
async function checkLeftOver(cluster: Cluster): Promise<readonly CheckResult[]> {
  const query = { labelSelector: "app.kubernetes.io/name=countersign" };
  const found: string[] = [];
  for (const kind of ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"]) {
    const list = await readApi(cluster, `${ADMISSION}/${kind}`, kind, query);
    for (const one of listOf(list?.["items"]))
      found.push(`${kind.slice(0, -1)}/${textOf(fieldsOf(one["metadata"])["name"])}`);
  }
  return found.length === 0
    ? [ok("left over", "nothing of an earlier installation")]
    : [
        failed(
          "left over",
          `webhooks without a control plane in \`${cluster.controlPlaneNamespace}\`: ${found.join(", ")}`,
          `if it runs elsewhere, give \`--control-plane-namespace\`; otherwise: kubectl delete ${found.join(" ")}`,
        ),
      ];
}
