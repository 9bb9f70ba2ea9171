// Starts the cluster and waits until its node is Ready. Idempotent: what runs is left running, what ended is started again.
import { chmodSync, lstatSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { ClusterError, progress, run, tryRun, waitUntil } from "./commands.ts";
import { configurationFiles, type Part, parts } from "./configuration.ts";
import { loadPauseImage } from "./images.ts";
import { missingPieces } from "./install.ts";
import {
  adminKubeconfig,
  BRIDGE,
  containerdSocket,
  DNS_SERVICE_ADDRESS,
  home,
  inHome,
  NODE_ADDRESS,
  NODE_NAME,
  programPath,
  stateFile,
  VERSIONS,
} from "./layout.ts";
import { checkPortsAreFree, ensureNetwork } from "./network.ts";
import { ensureCertificates, writeKubeconfigs } from "./pki.ts";
import { isRunning, logTail, startPart } from "./processes.ts";

/** Brings the cluster up. Resolves with the path of the admin's kubeconfig. */
export async function up(): Promise<string> {
  const startMs = performance.now();
  checkMachine();
  const names = parts().map((part) => part.name);
  if (names.every(isRunning) && (await nodeIsReady())) {
    progress("is up already");
  } else {
    if (!names.some(isRunning)) await checkPortsAreFree();
    prepareHome();
    await ensureCertificates();
    writeKubeconfigs();
    writeConfiguration();
    progress(`bridge ${BRIDGE}, ${NODE_ADDRESS}`);
    await ensureNetwork();
    await startAll();
    await waitFor(
      `node ${NODE_NAME} Ready`,
      ["kubelet", "containerd", "kube-controller-manager"],
      nodeIsReady,
      120_000,
    );
  }
  writeFileSync(
    stateFile(),
    JSON.stringify({ kubeconfig: adminKubeconfig(), kubernetes: VERSIONS.kubernetes }),
  );
  progress(`Kubernetes ${VERSIONS.kubernetes} is up after ${Math.round(performance.now() - startMs)} ms`);
  return adminKubeconfig();
}

function checkMachine(): void {
  if (process.platform !== "linux") throw new ClusterError("the cluster runs on Linux only");
  if (process.getuid?.() !== 0)
    throw new ClusterError("only root can start containers and a bridge; run this as root");
  const { packages, programs } = missingPieces();
  if (packages.length + programs.length > 0)
    throw new ClusterError(
      `not installed: ${[...packages, ...programs].join(", ")}; run \`npm run cluster -- install\``,
    );
}

/** The home lies in a folder where everybody may write: it must be ours and closed, or others could swap its files. */
function prepareHome(): void {
  mkdirSync(home(), { recursive: true, mode: 0o700 });
  const found = lstatSync(home());
  if (!found.isDirectory() || found.uid !== process.getuid?.())
    throw new ClusterError(
      `\`${home()}\` belongs to somebody else; set COUNTERSIGN_CLUSTER_HOME to another folder`,
    );
  chmodSync(home(), 0o711); // containers of other users reach their volumes below it
  for (const folder of ["log", "run", "cni", "containerd", "volume-plugins"])
    mkdirSync(inHome(folder), { recursive: true });
}

function writeConfiguration(): void {
  for (const [path, text] of Object.entries(configurationFiles())) {
    mkdirSync(dirname(inHome(path)), { recursive: true });
    writeFileSync(inHome(path), text);
  }
}

async function startAll(): Promise<void> {
  const all = new Map(parts().map((part) => [part.name, part]));
  const start = (name: string) => {
    const part = all.get(name) as Part; // names below are those of parts()
    if (!isRunning(name)) progress(`starting ${name}`);
    startPart(part.name, part.command, part.args);
  };
  start("etcd");
  start("containerd");
  await waitFor("containerd", ["containerd"], containerdAnswers, 30_000);
  await loadPauseImage();
  start("kube-apiserver");
  await waitFor("API server", ["kube-apiserver", "etcd"], apiServerIsReady, 120_000);
  await run(programPath("kubectl"), ["--kubeconfig", adminKubeconfig(), "apply", "--filename", "-"], {
    stdin: JSON.stringify(dnsService()),
  });
  for (const name of ["kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "coredns"])
    start(name);
}

/** CoreDNS runs beside the cluster; pods reach it through a Service, as everywhere else. */
function dnsService(): unknown {
  const metadata = { name: "kube-dns", namespace: "kube-system" };
  const ports = [
    { name: "dns", port: 53, protocol: "UDP" },
    { name: "dns-tcp", port: 53, protocol: "TCP" },
  ];
  return {
    apiVersion: "v1",
    kind: "List",
    items: [
      {
        apiVersion: "v1",
        kind: "Service",
        metadata: { ...metadata, labels: { "k8s-app": "kube-dns" } },
        spec: { clusterIP: DNS_SERVICE_ADDRESS, ports },
      },
      {
        apiVersion: "discovery.k8s.io/v1",
        kind: "EndpointSlice",
        metadata: { ...metadata, labels: { "kubernetes.io/service-name": metadata.name } },
        addressType: "IPv4",
        ports,
        endpoints: [{ addresses: [NODE_ADDRESS], conditions: { ready: true } }],
      },
    ],
  };
}

/** Waits for a condition; where a part ended meanwhile, says so with the end of its log. */
async function waitFor(
  what: string,
  needed: readonly string[],
  check: () => Promise<boolean>,
  timeoutMs: number,
): Promise<void> {
  try {
    await waitUntil(
      what,
      async () => {
        const ended = needed.find((name) => !isRunning(name));
        if (ended !== undefined) throw new ClusterError(`${ended} ended:\n${logTail(ended)}`);
        return check();
      },
      timeoutMs,
    );
  } catch (error) {
    const ended = needed.find((name) => !isRunning(name));
    const tails = (ended === undefined ? needed : [ended]).map((name) => `--- ${name}\n${logTail(name)}`);
    throw new ClusterError(
      `${error instanceof Error ? error.message : String(error)}\n${tails.join("\n")}\nlogs are in ${inHome("log")}`,
    );
  }
}

const containerdAnswers = async () =>
  (await tryRun("ctr", ["--address", containerdSocket(), "version"])).code === 0;

const kubectl = (args: readonly string[]) =>
  tryRun(programPath("kubectl"), ["--kubeconfig", adminKubeconfig(), "--request-timeout=5s", ...args]);

const apiServerIsReady = async () => (await kubectl(["get", "--raw", "/readyz"])).code === 0;

async function nodeIsReady(): Promise<boolean> {
  const path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
  return (await kubectl(["get", "node", NODE_NAME, "--output", path])).stdout === "True";
}
