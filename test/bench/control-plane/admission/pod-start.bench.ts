// What the sidecar adds to the start of a pod, on the test cluster, where it installs the product and takes it away again:
// from the request that creates a pod to the first thing its application does, meshed and not, in turns.
// node test/bench/control-plane/admission/pod-start.bench.ts [pods of each]
import { loadKubernetes } from "../../../../control-plane/kubernetes/client.ts";
import { IMAGES } from "../../../cluster/image-files.ts";
import { createNamespace, type TestNamespace } from "../../../cluster/kube.ts";
import { adminKubeconfig } from "../../../cluster/layout.ts";
import { begin, install, uninstall } from "../../../cluster/release.ts";

const count = Number(process.argv[2] ?? 12);
const { core } = await loadKubernetes({ kubeconfig: adminKubeconfig(), context: undefined });
await begin();
await install();
const meshed = await createNamespace("start", { "countersign.dev/inject": "enabled" });
const plain = await createNamespace("start-out");

async function startMs({ name: namespace }: TestNamespace, pod: string): Promise<number> {
  const container = {
    name: "app",
    image: IMAGES.app,
    imagePullPolicy: "IfNotPresent",
    command: ["node", "-e", "console.log(performance.timeOrigin); setInterval(() => {}, 1e6)"],
  };
  const beginMs = performance.timeOrigin + performance.now();
  await core.createNamespacedPod({
    namespace,
    body: {
      metadata: { name: pod },
      spec: { terminationGracePeriodSeconds: 0, containers: [container] },
    },
  });
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    const text = await core.readNamespacedPodLog({ name: pod, namespace, container: "app" }).catch(() => "");
    const began = Number.parseFloat(text);
    if (began > 0) {
      await core.deleteNamespacedPod({ name: pod, namespace, gracePeriodSeconds: 0 });
      return began - beginMs;
    }
    if (performance.timeOrigin + performance.now() - beginMs > 60_000)
      throw new Error(`${pod} does not start`);
  }
}

const figures = (times: readonly number[]): string => {
  const sorted = times.toSorted((a, b) => a - b);
  const at = (share: number): string =>
    (sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0).toFixed(0);
  return `p50 ${at(0.5)} ms, p95 ${at(0.95)} ms`;
};

try {
  // The first one waits for the namespace's trust bundle.
  await startMs(meshed, "first");
  await startMs(plain, "first");
  const times = { meshed: [] as number[], plain: [] as number[] };
  for (let n = 0; n < count; n++) {
    times.plain.push(await startMs(plain, `pod-${n}`));
    times.meshed.push(await startMs(meshed, `pod-${n}`));
  }
  console.log(`without: ${figures(times.plain)}`);
  console.log(`with:    ${figures(times.meshed)}`);
  console.log(`added:   ${figures(times.meshed.map((one, index) => one - (times.plain[index] ?? 0)))}`);
} finally {
  await Promise.all([meshed.delete(), plain.delete()]);
  await uninstall();
}
