// Status with two control planes: the leader counts the sidecars of both, soon after an edit, and the next leader goes on.
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { type Kubernetes, loadKubernetes } from "../../../control-plane/kubernetes/client.ts";
import { describeOnCluster } from "../gate.ts";
import { apply, type KubeObject, kubectl, waitFor } from "../kube.ts";
import { adminKubeconfig } from "../layout.ts";
import { begin, deployPlatform, install, PLATFORM_NAMESPACES, SYSTEM, uninstall } from "../release.ts";

const POLICY = "status-of-all";
const LEASE = `/apis/coordination.k8s.io/v1/namespaces/${SYSTEM}/leases/countersign-leader`;

const policy = (rule: string): KubeObject => ({
  apiVersion: "countersign.dev/v1alpha1",
  kind: "ClusterAccessPolicy",
  metadata: { name: POLICY },
  spec: { action: "Audit", targets: [{ namespaces: PLATFORM_NAMESPACES }], rules: [{ name: rule }] },
});

interface Condition {
  readonly type: string;
  readonly status: string;
  readonly message: string;
  readonly observedGeneration: number;
  readonly lastTransitionTime: string;
}

interface Status {
  readonly conditions?: readonly Condition[];
  readonly proxies?: { readonly total: number };
  readonly targets?: { readonly pods?: number };
}

describeOnCluster("status of several control planes", { testMs: 120_000, suiteMs: 420_000 }, () => {
  let kubernetes: Kubernetes;

  beforeAll(async () => {
    await begin();
    // What is measured begins with SIGTERM, which comes when the pod has drained.
    await install(["--set=replicas=2,drainSeconds=0"]);
    await deployPlatform();
    kubernetes = await loadKubernetes({ kubeconfig: adminKubeconfig(), context: undefined });
  }, 2_200_000);
  afterAll(async () => {
    await kubectl(["delete", "cacp", POLICY, "--ignore-not-found"]);
    await uninstall();
  }, 240_000);

  // What the API server sends of objects that this test knows.
  const get = async <T>(path: string): Promise<T> =>
    (await kubernetes.rest.get(path, {}, AbortSignal.timeout(10_000))) as T;
  const status = async (): Promise<Status> =>
    (await get<{ status?: Status }>(`/apis/countersign.dev/v1alpha1/clusteraccesspolicies/${POLICY}`))
      .status ?? {};
  const condition = async (type: string): Promise<Condition | undefined> =>
    (await status()).conditions?.find((one) => one.type === type);
  const programmed = async (generation: number): Promise<boolean> => {
    const found = await condition("Programmed");
    return found?.status === "True" && found.observedGeneration === generation;
  };
  const holder = async (): Promise<string> =>
    (await get<{ spec: { holderIdentity?: string } }>(LEASE)).spec.holderIdentity ?? "";
  const meshedPods = async (): Promise<number> => {
    let count = 0;
    for (const namespace of PLATFORM_NAMESPACES) {
      const { items } = await get<{
        items: { metadata: { deletionTimestamp?: string }; status: { phase: string } }[];
      }>(`/api/v1/namespaces/${namespace}/pods`);
      for (const {
        metadata,
        status: { phase },
      } of items)
        if (metadata.deletionTimestamp === undefined && phase === "Running") count += 1;
    }
    return count;
  };

  test("an edit is `Programmed` in all sidecars of both", async () => {
    const pods = await meshedPods();
    expect(pods).toBeGreaterThanOrEqual(4);
    await apply([policy("first")]);
    await waitFor(() => programmed(1), 10_000, "the first status");
    await waitFor(async () => (await status()).proxies?.total === pods, 15_000, "every sidecar");
    expect((await status()).targets?.pods).toBe(pods);
    const body = JSON.stringify(policy("second"));
    await kubectl(["apply", "--filename", "-"], { stdin: body });
    await waitFor(() => programmed(2), 10_000, "the second status");
    expect(await condition("Programmed")).toMatchObject({ message: `${pods}/${pods} proxies` });
  });

  test("a leader that is stopped is followed by one that counts the same and rewrites nothing", async () => {
    const pods = await meshedPods();
    const before = await condition("Accepted");
    const first = await holder();
    await kubectl(["delete", "pod", first, "--namespace", SYSTEM, "--wait=false"]);
    await waitFor(async () => !["", first].includes(await holder()), 20_000, "the next leader");
    await apply([policy("third")]);
    await waitFor(() => programmed(3), 20_000, "the status of the next leader");
    await waitFor(async () => (await status()).proxies?.total === pods, 30_000, "every sidecar again");
    expect(await condition("Accepted")).toEqual({ ...before, observedGeneration: 3 });
  });
});
