// The product on the cluster, as its README installs it: both charts, and the platform of platform/ in the mesh.
import { join } from "node:path";
import { IMAGES } from "./image-files.ts";
import { describeTrouble, exec, helm, kubectl, tryKubectl, waitFor } from "./kube.ts";
import { hold, letGo } from "./lock.ts";
import { outsideBudget } from "./waiting.ts";

export const SYSTEM = "countersign-system";
export const TRUST_DOMAIN = "lake.acme.example";
/** Namespaces of platform/. */
export const PLATFORM_NAMESPACES = ["ml-dev", "ml-batch", "ml-serving", "mlflow"] as const;
const root = join(import.meta.dirname, "../..");
export const platformFile = (name: string): string => join(import.meta.dirname, "platform", name);

const split = (image: string): readonly [string, string] => {
  const colon = image.lastIndexOf(":");
  return [image.slice(0, colon), image.slice(colon + 1)];
};

/** Where the images of the tests are, as flags of helm. */
export function imageFlags(): readonly string[] {
  const [control, controlTag] = split(IMAGES.controlPlane);
  const [sidecar, sidecarTag] = split(IMAGES.sidecar);
  return [
    `--set=image.repository=${control},image.tag=${controlTag}`,
    `--set=sidecar.image.repository=${sidecar},sidecar.image.tag=${sidecarTag}`,
  ];
}

/** Installs or upgrades both charts and waits until the webhooks can be asked. One process at a time has the product installed. */
export async function install(flags: readonly string[] = []): Promise<void> {
  await outsideBudget(() => hold("release"));
  await helm([
    "upgrade",
    "--install",
    "countersign-crds",
    join(root, "charts/countersign-crds"),
    "--take-ownership",
  ]);
  await helm([
    ...["upgrade", "--install", "countersign", join(root, "charts/countersign")],
    ...["--namespace", SYSTEM, "--create-namespace", "--wait", "--timeout", "120s"],
    ...[`--set=trustDomain=${TRUST_DOMAIN}`, ...imageFlags(), ...flags],
  ]);
  await waitFor(hasTrustedWebhooks, 30_000, "a caBundle in every webhook");
}

async function hasTrustedWebhooks(): Promise<boolean> {
  for (const kind of ["mutatingwebhookconfiguration", "validatingwebhookconfiguration"]) {
    const bundles = await kubectl([
      "get",
      kind,
      "countersign",
      "-o",
      "jsonpath={.webhooks[*].clientConfig.caBundle}",
    ]);
    const webhooks = await kubectl(["get", kind, "countersign", "-o", "jsonpath={.webhooks[*].name}"]);
    if (bundles.trim().split(/\s+/).length < webhooks.trim().split(/\s+/).length || bundles.trim() === "")
      return false;
  }
  return true;
}

/** Takes everything away, what another suite may have left too, once this process has its turn. */
export async function begin(): Promise<void> {
  await outsideBudget(() => hold("release"));
  await removeAll();
}

/** Takes everything away again, the namespaces of the platform and the objects of our kinds too. */
export async function uninstall(): Promise<void> {
  await removeAll();
  letGo("release");
}

async function removeAll(): Promise<void> {
  // First, or it would hold the webhooks of pods that end and the finalizers of namespaces up.
  await helm(["uninstall", "countersign", "--namespace", SYSTEM, "--ignore-not-found"]);
  await Promise.all([
    ...[SYSTEM, ...PLATFORM_NAMESPACES].map(removeNamespace),
    tryKubectl(["delete", CLUSTER_KINDS, "--all"]),
    waitFor(hasNoSettings, 30_000, "the end of the settings"),
  ]);
}

/** The admission policy that keeps them is gone for the API server a moment after the release. */
async function hasNoSettings(): Promise<boolean> {
  const { code, stderr } = await tryKubectl(["delete", "meshconfig", "default", "--ignore-not-found"]);
  return code === 0 || stderr.includes("doesn't have a resource type");
}

const CLUSTER_KINDS = "clusteraccesspolicies,identityproviders,meshroles,meshrolebindings,operationcatalogs";
const CONTROLLERS = "deployments,replicasets,statefulsets,jobs,cronjobs";

/** Deletes a namespace and waits until it is gone. */
export async function removeNamespace(name: string): Promise<void> {
  if ((await tryKubectl(["get", "namespace", name])).code !== 0) return;
  // A namespace with pods waits as long as these might take to end: so they end before, and nothing makes them again.
  await tryKubectl(["delete", CONTROLLERS, "--all", "-n", name, "--cascade=orphan", "--wait=false"]);
  await tryKubectl(["delete", "pods", "--all", "-n", name, "--grace-period=1"], { timeoutMs: 60_000 });
  await tryKubectl(["delete", "namespace", name, "--ignore-not-found"], { timeoutMs: 120_000 });
}

/** Applies the platform and waits until every pod of it is ready. */
export async function deployPlatform(): Promise<void> {
  await kubectl(["apply", "-f", platformFile("platform.yaml")]);
  for (const [namespace, object] of [
    ["ml-serving", "deployment/fraud-scorer"],
    ["ml-serving", "deployment/llm-chat"],
    ["mlflow", "deployment/mlflow"],
    ["ml-dev", "statefulset/nb-alice"],
  ] as const) {
    const { code, stderr } = await tryKubectl(
      ["rollout", "status", object, "-n", namespace, "--timeout=60s"],
      { timeoutMs: 70_000 },
    );
    if (code !== 0) throw new Error(`${stderr}\n${await describeTrouble(namespace)}`);
  }
}

export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  /** Of a problem document; empty otherwise. */
  readonly reason: string;
  readonly body: string;
}

/** Calls from a pod, as an application that knows no mesh; `args` are those of the `call` client. */
export async function callFrom(
  pod: { readonly namespace: string; readonly name: string; readonly container: string },
  ...args: readonly string[]
): Promise<Answer> {
  const { stdout, stderr } = await exec(pod.namespace, pod.name, ["call", ...args], {
    container: pod.container,
  });
  const line = stdout.trim().split("\n").at(-1) ?? "";
  try {
    const { status = 0, headers = {}, body = "" } = JSON.parse(line);
    const isProblem = String(headers["content-type"]).includes("problem+json");
    return { status, headers, body, reason: isProblem ? JSON.parse(body).reason : "" };
  } catch {
    throw new Error(`no answer: ${line} ${stderr}`);
  }
}

/** The notebook of the platform. */
export const NOTEBOOK = { namespace: "ml-dev", name: "nb-alice-0", container: "notebook" } as const;

/** Waits until a call is answered with this status. */
export async function waitForStatus(
  status: number,
  timeoutMs: number,
  ...args: readonly string[]
): Promise<void> {
  let last: Answer | undefined;
  try {
    await waitFor(async () => {
      last = await callFrom(NOTEBOOK, ...args);
      return last.status === status;
    }, timeoutMs);
  } catch {
    throw new Error(`expected ${status} of ${args.at(-1)}, last was ${JSON.stringify(last)}`);
  }
}

/** `{"Accepted": "True", …}` of an object's status. */
export async function conditionsOf(
  object: string,
  namespace?: string,
): Promise<Readonly<Record<string, string>>> {
  const text = await kubectl([
    ...["get", object, ...(namespace === undefined ? [] : ["-n", namespace])],
    ...["-o", 'jsonpath={range .status.conditions[*]}{.type}={.status}/{.reason}{"\\n"}{end}'],
  ]);
  return Object.fromEntries(
    text.split("\n").flatMap((line) => (line === "" ? [] : [line.split("=") as [string, string]])),
  );
}
