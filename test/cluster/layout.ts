// Names, versions, addresses and paths of the test cluster: the one place that the other files take them from.
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";

/** What is built from Go modules, once. */
export const VERSIONS = { kubernetes: "1.34.4", coredns: "1.12.4", helm: "3.19.0" } as const;

export const NODE_NAME = "node1";
export const BRIDGE = "cni-csign0";
/** The node's address on the bridge; the API server, the kubelet and CoreDNS listen on it, so only this machine and its pods reach them. */
export const NODE_ADDRESS = "10.88.0.1";
export const POD_CIDR = "10.88.0.0/20";
export const NODE_ADDRESS_BITS = 20;
export const SERVICE_CIDR = "10.96.0.0/16";
/** First address of the service range: `kubernetes.default.svc`. */
export const API_SERVICE_ADDRESS = "10.96.0.1";
export const DNS_SERVICE_ADDRESS = "10.96.0.10";
export const CLUSTER_DOMAIN = "cluster.local";
export const PAUSE_IMAGE = "countersign.test/pause:1";

/** Ports the parts take on this machine; `up` refuses to start when one of them is taken. */
export const PORTS = {
  apiServer: 6443,
  etcdClient: 12379,
  etcdPeer: 12380,
  kubelet: 10250,
  kubeletHealth: 10248,
  kubeProxyHealth: 10256,
  kubeProxyMetrics: 10249,
  controllerManager: 10257,
  scheduler: 10259,
} as const;

/** Programs of k8s.io/kubernetes that are built. */
export const KUBERNETES_PROGRAMS = [
  "kube-apiserver",
  "kubectl",
  "kube-controller-manager",
  "kube-scheduler",
  "kubelet",
  "kube-proxy",
] as const;

export type BuiltProgram = (typeof KUBERNETES_PROGRAMS)[number] | "coredns" | "helm";

/** Debian packages, each with a program that shows that it is installed. */
export const PACKAGES: Readonly<Record<string, string>> = {
  "etcd-server": "etcd",
  containerd: "containerd",
  runc: "runc",
  "containernetworking-plugins": "/usr/lib/cni/bridge",
  iptables: "iptables",
  iproute2: "ip",
  conntrack: "conntrack",
  ipset: "ipset",
  socat: "socat",
  "busybox-static": "busybox",
  openssl: "openssl",
  "redis-server": "redis-server",
};

/** Where built programs are kept; survives `down`. */
export function cacheFolder(): string {
  return join(process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache"), "countersign-cluster");
}

/** Path of a built program; its version is in the name, so another version is another file. */
export function programPath(program: BuiltProgram): string {
  const version =
    program === "coredns" ? VERSIONS.coredns : program === "helm" ? VERSIONS.helm : VERSIONS.kubernetes;
  return join(cacheFolder(), "bin", `${program}-v${version}`);
}

/** State of the running cluster; `down` deletes it whole. `COUNTERSIGN_CLUSTER_HOME` moves it. */
export function home(): string {
  return process.env["COUNTERSIGN_CLUSTER_HOME"] || join(tmpdir(), "countersign-cluster");
}

export const inHome = (...parts: readonly string[]): string => join(home(), ...parts);
export const adminKubeconfig = (): string => inHome("admin.conf");
/** Written last by `up` and deleted first by `down`: there means that the cluster is up. */
export const stateFile = (): string => inHome("up.json");
export const containerdSocket = (): string => inHome("containerd", "containerd.sock");
