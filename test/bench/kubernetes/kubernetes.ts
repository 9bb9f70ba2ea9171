// The control plane on a real API server at the size of a large platform: how fast it starts and how large it is, how
// fast an edit is in force in every sidecar it affects and in no other, and how fast its status says so.
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadKubernetes } from "../../../control-plane/kubernetes/client.ts";
import { MERGE_PATCH } from "../../../control-plane/kubernetes/writer.ts";
import { createCertificateRequest, createKeys } from "../../../sidecar/certs/key-and-csr.ts";
import { parseTrustBundle } from "../../../sidecar/core/identity/trust-bundle.ts";
import { createWorkloadIdentity } from "../../../sidecar/core/identity/workload-identity.ts";
import { join as joinMesh } from "../../../sidecar/discovery/bootstrap.ts";
import { kubectl } from "../../cluster/kube.ts";
import { adminKubeconfig } from "../../cluster/layout.ts";
import { isUp } from "../../cluster/processes.ts";
import { begin, uninstall } from "../../cluster/release.ts";
import { TestSidecar } from "../../fakes/mesh.ts";
import { type BenchRow, median, row } from "../measure.ts";
import { GROUP, HOT, type MadePod, policyOf, ScaleObjects } from "./scale-objects.ts";

const SIZE = { namespaces: 20, pods: 5_000, policies: 10_000, hotPods: 100 };
const BYSTANDERS = 50;
const EDITS = 100;
/** All come from one address, which may join only so often. */
const JOIN_EVERY_MS = 110;
const STATUS_EDITS = 10;
const TRUST_DOMAIN = "scale.example";

interface Running {
  readonly process: ChildProcess;
  readonly ports: { readonly bootstrap: number; readonly discovery: number };
  readonly startMs: number;
}

const rssBytes = (pid: number): number =>
  Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) * 1024;

export async function benchKubernetes({
  say,
}: {
  readonly say: (text: string) => void;
}): Promise<BenchRow[]> {
  if (!isUp()) {
    say("kubernetes: no cluster is up, so this is LEFT OUT; `npm run cluster -- up` brings one up");
    return [];
  }
  // Two control planes on one cluster would quarrel over statuses and bundles.
  await begin();
  const crds = join(import.meta.dirname, "../../../crds");
  await kubectl(["apply", "--server-side", "--force-conflicts", "-f", crds, "-f", join(crds, "records")]);
  await kubectl(["wait", "crd", "--all", "--for=condition=Established", "--timeout=30s"]);
  const kubernetes = await loadKubernetes({ kubeconfig: adminKubeconfig(), context: undefined });
  const prefix = `scale-${process.pid.toString(36)}`;
  const system = `${prefix}-system`;
  const objects = new ScaleObjects(kubernetes.kubeConfig, prefix, SIZE);
  const dir = mkdtempSync(join(tmpdir(), "countersign-scale-"));
  const sidecars: TestSidecar[] = [];
  let running: Running | undefined;
  try {
    await kubernetes.core.createNamespace({ body: { metadata: { name: system } } });
    say(`kubernetes: making ${SIZE.pods} pods and ${SIZE.policies} policies`);
    const pods = await objects.make((text) => say(`kubernetes: ${text}`));
    running = await startControlPlane(dir, system);
    const pid = running.process.pid ?? 0;
    const rss = rssBytes(pid);
    const rows = [
      row("kubernetes", "start with 5 000 pods and 10 000 policies", running.startMs, "ms"),
      row("kubernetes", "memory then (RSS)", rss / 1e6, "MB"),
    ];
    const hot = pods.filter(({ name }) => name.startsWith(`${HOT}-`)).slice(0, SIZE.hotPods);
    const others = pods.filter(({ name }) => !name.startsWith(`${HOT}-`)).slice(0, BYSTANDERS);
    say(`kubernetes: ${hot.length + others.length} sidecars join`);
    const roots = await rootsOf(kubernetes.core, system);
    for (const pod of [...hot, ...others]) {
      sidecars.push(await joinPod(kubernetes.core, running, roots, pod));
      await new Promise((resolve) => setTimeout(resolve, JOIN_EVERY_MS));
    }
    const [affected, bystanders] = [sidecars.slice(0, hot.length), sidecars.slice(hot.length)];
    await until(() => sidecars.every(({ tables }) => tables.length > 0), 60_000);
    rows.push(...(await measureEdits(objects, affected, bystanders, say)));
    rows.push(...(await measureStatus(objects, kubernetes.custom, affected, say)));
    rows.push(row("kubernetes", "memory at the end (RSS)", rssBytes(pid) / 1e6, "MB"));
    return rows;
  } finally {
    for (const sidecar of sidecars) await sidecar.stop();
    running?.process.kill("SIGTERM");
    for (let at = 0; at < SIZE.namespaces; at++)
      await kubernetes.core.deleteNamespace({ name: objects.namespace(at) }).catch(() => {});
    await kubernetes.core.deleteNamespace({ name: system }).catch(() => {});
    objects.writer.close();
    rmSync(dir, { recursive: true, force: true });
    await uninstall();
  }
}

async function startControlPlane(dir: string, namespace: string): Promise<Running> {
  const startedMs = performance.now();
  const main = join(import.meta.dirname, "../../../dist/control-plane/cli/main.js");
  const child = spawn(
    process.execPath,
    [
      main,
      ...["control-plane", "--kubernetes", "--kubeconfig", adminKubeconfig(), "--namespace", namespace],
      ...[
        "--state-dir",
        join(dir, "state"),
        "--port-base",
        "0",
        "--trust-domain",
        TRUST_DOMAIN,
        "--replica",
        "scale",
      ],
    ],
    {
      // As the chart runs it.
      env: { ...process.env, NODE_OPTIONS: "--max-semi-space-size=8", MALLOC_ARENA_MAX: "1" },
      stdio: ["ignore", "ignore", "pipe"],
    },
  );
  const serving = Promise.withResolvers<{ bootstrap: number; discovery: number }>();
  let text = "";
  child.stderr?.on("data", (chunk: Buffer) => {
    text += chunk;
    for (const line of text.split("\n").slice(0, -1)) {
      if (line.includes('"control plane serves"')) serving.resolve(JSON.parse(line));
      else if (!line.includes('"level":"info"')) process.stderr.write(`${line}\n`);
    }
    text = text.slice(text.lastIndexOf("\n") + 1);
  });
  child.once("exit", (code) => serving.reject(new Error(`the control plane ended with ${code}`)));
  const ports = await serving.promise;
  return { process: child, ports, startMs: performance.now() - startedMs };
}

async function joinPod(
  core: Awaited<ReturnType<typeof loadKubernetes>>["core"],
  { ports }: Running,
  roots: string,
  pod: MadePod,
): Promise<TestSidecar> {
  const { status } = await core.createNamespacedServiceAccountToken({
    name: "default",
    namespace: pod.namespace,
    body: {
      spec: {
        audiences: [`countersign.dev/${TRUST_DOMAIN}`],
        expirationSeconds: 3_600,
        boundObjectRef: { apiVersion: "v1", kind: "Pod", name: pod.name, uid: pod.uid },
      },
    },
  });
  const keys = createKeys();
  const answer = await joinMesh({
    address: `127.0.0.1:${ports.bootstrap}`,
    proof: {
      kind: "service-account-token",
      token: status?.token ?? "",
      roots: { pem: roots, trustDomain: TRUST_DOMAIN },
    },
    request: createCertificateRequest(keys),
    timeoutMs: 20_000,
  });
  const bundle = parseTrustBundle(answer.trustBundle);
  if (!bundle.ok) throw new Error(bundle.error);
  const identity = createWorkloadIdentity({
    chainDer: answer.certificateChainDer,
    ...keys,
    wit: answer.workloadIdentityToken,
    bundle: bundle.value,
    nowMs: Date.now(),
  });
  if (!identity.ok) throw new Error(identity.error);
  return TestSidecar.create(identity.value, `127.0.0.1:${ports.discovery}`, {});
}

type Core = Awaited<ReturnType<typeof loadKubernetes>>["core"];

async function rootsOf(core: Core, namespace: string): Promise<string> {
  let pem: string | undefined;
  await until(async () => {
    const found = await core
      .readNamespacedConfigMap({ name: "countersign-bundle", namespace })
      .catch(() => undefined);
    pem = found?.data?.["roots.pem"];
    return pem !== undefined;
  }, 30_000);
  return pem ?? "";
}

async function until(condition: () => boolean | Promise<boolean>, timeoutMs: number): Promise<void> {
  const endMs = performance.now() + timeoutMs;
  while (!(await condition())) {
    if (performance.now() > endMs) throw new Error("it did not happen in time");
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const percentile = (values: readonly number[], share: number): number =>
  values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.ceil(values.length * share) - 1)] ??
  Number.NaN;

/** Edits the hot policy and waits each time until every sidecar of its target has the table that follows. */
async function measureEdits(
  objects: ScaleObjects,
  affected: readonly TestSidecar[],
  bystanders: readonly TestSidecar[],
  say: (text: string) => void,
): Promise<BenchRow[]> {
  const tablesOf = (sidecars: readonly TestSidecar[]): number =>
    sidecars.reduce((sum, { tables }) => sum + tables.length, 0);
  await new Promise((resolve) => setTimeout(resolve, 3_000));
  const [before, others] = [tablesOf(affected), tablesOf(bystanders)];
  const times: number[] = [];
  for (let edit = 1; edit <= EDITS; edit++) {
    const startedMs = performance.now();
    await editHot(objects, `edit-${edit}`);
    await until(() => tablesOf(affected) >= before + edit * affected.length, 20_000);
    times.push(performance.now() - startedMs);
    if (edit % 25 === 0) say(`kubernetes: ${edit} edits`);
  }
  const pushes = tablesOf(affected) - before;
  const strays = tablesOf(bystanders) - others;
  if (pushes !== EDITS * affected.length || strays !== 0)
    throw new Error(
      `${pushes} pushes to the affected and ${strays} to others, expected ${EDITS * affected.length} and 0`,
    );
  return [
    row(
      "kubernetes",
      `edit among 10 000 to all ${affected.length} affected sidecars, median`,
      median(times),
      "ms",
    ),
    row("kubernetes", "… p99", percentile(times, 0.99), "ms"),
    row(
      "kubernetes",
      `tables sent to ${bystanders.length} sidecars that it does not affect`,
      strays,
      "tables",
    ),
  ];
}

async function editHot(objects: ScaleObjects, caller: string): Promise<number> {
  const { spec } = policyOf(HOT, HOT, caller) as { spec: object };
  const edited = (await objects.writer.send(
    {
      method: "PATCH",
      path: `${GROUP}/namespaces/${objects.namespace(0)}/accesspolicies/${HOT}`,
      contentType: MERGE_PATCH,
      body: { spec },
    },
    new AbortController().signal,
  )) as { metadata: { generation: number } };
  return edited.metadata.generation;
}

/** From an edit to `Programmed=True` of its generation. */
async function measureStatus(
  objects: ScaleObjects,
  custom: Awaited<ReturnType<typeof loadKubernetes>>["custom"],
  affected: readonly TestSidecar[],
  say: (text: string) => void,
): Promise<BenchRow[]> {
  const times: number[] = [];
  const [group, version] = ["countersign.dev", "v1alpha1"];
  for (let edit = 1; edit <= STATUS_EDITS; edit++) {
    const startedMs = performance.now();
    const generation = await editHot(objects, `status-${edit}`);
    let last: unknown;
    const isTold = async (): Promise<boolean> => {
      const { status } = (await custom.getNamespacedCustomObject({
        ...{ group, version, namespace: objects.namespace(0), plural: "accesspolicies", name: HOT },
      })) as {
        status?: {
          conditions?: { type: string; status: string; observedGeneration: number }[];
          proxies?: { total: number };
        };
      };
      last = status;
      const programmed = status?.conditions?.find(({ type }) => type === "Programmed");
      return (
        programmed?.status === "True" &&
        programmed.observedGeneration === generation &&
        status?.proxies?.total === affected.length
      );
    };
    await until(isTold, 60_000).catch((error: unknown) => {
      throw new Error(`generation ${generation} is not Programmed: ${JSON.stringify(last)}`, {
        cause: error,
      });
    });
    times.push(performance.now() - startedMs);
  }
  say("kubernetes: statuses measured");
  return [
    row("kubernetes", "edit to Programmed=True in its status, median", median(times), "ms"),
    row("kubernetes", "… slowest of 10", Math.max(...times), "ms"),
  ];
}
