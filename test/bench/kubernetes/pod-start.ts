// What the mesh adds to the start of a pod, and to the API server's answer when one is made: pods in a labelled namespace
// beside the same pods in one without the label, in turn, with the product installed by its charts.
import { loadKubernetes } from "../../../control-plane/kubernetes/client.ts";
import { createKubernetesWriter } from "../../../control-plane/kubernetes/writer.ts";
import { kubectl, tryKubectl, waitFor } from "../../cluster/kube.ts";
import { adminKubeconfig } from "../../cluster/layout.ts";
import { isUp } from "../../cluster/processes.ts";
import { begin, install, uninstall } from "../../cluster/release.ts";
import { type BenchRow, median, row } from "../measure.ts";

const STARTS = 20;
const REVIEWS = 200;
const NAMESPACES = { plain: "bench-plain", meshed: "bench-meshed" } as const;

/** Says when its process began, Unix milliseconds. */
const podOf = (name: string): object => ({
  metadata: { name },
  spec: {
    terminationGracePeriodSeconds: 1,
    containers: [
      {
        name: "app",
        image: "countersign.test/app:dev",
        imagePullPolicy: "IfNotPresent",
        command: ["node", "-e", "console.log(performance.timeOrigin); setTimeout(() => {}, 600000)"],
      },
    ],
  },
});

const percentile = (values: readonly number[], share: number): number =>
  values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.ceil(values.length * share) - 1)] ??
  Number.NaN;

export async function benchPodStart({ say }: { readonly say: (text: string) => void }): Promise<BenchRow[]> {
  if (!isUp()) {
    say("pod-start: no cluster is up, so this is LEFT OUT; `npm run cluster -- up` brings one up");
    return [];
  }
  const { kubeConfig } = await loadKubernetes({ kubeconfig: adminKubeconfig(), context: undefined });
  const writer = createKubernetesWriter(kubeConfig, 1);
  const create = (
    namespace: string,
    name: string,
    query: Readonly<Record<string, string>> = {},
  ): Promise<unknown> =>
    writer.send(
      {
        method: "POST",
        path: `/api/v1/namespaces/${namespace}/pods`,
        query,
        contentType: "application/json",
        body: podOf(name),
      },
      new AbortController().signal,
    );
  await begin();
  try {
    await install();
    for (const [kind, name] of Object.entries(NAMESPACES)) {
      const labels = kind === "meshed" ? { "countersign.dev/inject": "enabled" } : {};
      await kubectl(["apply", "-f", "-"], {
        stdin: JSON.stringify({ apiVersion: "v1", kind: "Namespace", metadata: { name, labels } }),
      });
      await waitFor(async () => (await tryKubectl(["get", "sa", "default", "-n", name])).code === 0, 20_000);
    }
    const starts = { plain: [] as number[], meshed: [] as number[] };
    for (let at = 0; at < STARTS; at++)
      for (const kind of ["plain", "meshed"] as const) {
        starts[kind].push(await startMs(NAMESPACES[kind], `p${at}`, create));
        await tryKubectl([
          "delete",
          "pod",
          `p${at}`,
          "-n",
          NAMESPACES[kind],
          "--grace-period=1",
          "--wait=false",
        ]);
      }
    say(`pod-start: plain ${starts.plain.join(" ")}; meshed ${starts.meshed.join(" ")}`);
    const reviews = { plain: [] as number[], meshed: [] as number[] };
    for (let at = 0; at < REVIEWS; at++)
      for (const kind of ["plain", "meshed"] as const) {
        const startedMs = performance.now();
        await create(NAMESPACES[kind], "dry", { dryRun: "All" });
        reviews[kind].push(performance.now() - startedMs);
      }
    const usual = median(starts.plain);
    const peer = (value: number) => ({ name: "without", value });
    return [
      row(
        "pod-start",
        "from creation to the application's first line, median",
        median(starts.meshed),
        "ms",
        peer(usual),
      ),
      row("pod-start", "… what the mesh adds to it, median", median(starts.meshed) - usual, "ms"),
      row("pod-start", "… p95", percentile(starts.meshed, 0.95) - usual, "ms"),
      row(
        "pod-start",
        "the API server's answer to a new pod, median",
        median(reviews.meshed),
        "ms",
        peer(median(reviews.plain)),
      ),
      row(
        "pod-start",
        "… p99",
        percentile(reviews.meshed, 0.99),
        "ms",
        peer(percentile(reviews.plain, 0.99)),
      ),
    ];
  } finally {
    writer.close();
    for (const name of Object.values(NAMESPACES))
      await tryKubectl(["delete", "namespace", name, "--wait=false"]);
    await uninstall();
  }
}

/** Milliseconds from the request to make a pod to its application's first line; both clocks are this machine's. */
async function startMs(
  namespace: string,
  name: string,
  create: (namespace: string, name: string) => Promise<unknown>,
): Promise<number> {
  const createdMs = performance.timeOrigin + performance.now();
  await create(namespace, name);
  let said = "";
  await waitFor(
    async () => {
      said = (await tryKubectl(["logs", name, "-n", namespace, "-c", "app"])).stdout.trim();
      return said !== "";
    },
    60_000,
    `the first line of ${name}`,
  );
  return Number(said) - createdMs;
}
