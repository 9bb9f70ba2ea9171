// Configuration of containerd, the kubelet, CNI and CoreDNS, and the arguments of every part. Text only: nothing is started here.
import {
  adminKubeconfig,
  BRIDGE,
  CLUSTER_DOMAIN,
  containerdSocket,
  DNS_SERVICE_ADDRESS,
  inHome,
  NODE_ADDRESS,
  NODE_NAME,
  PAUSE_IMAGE,
  POD_CIDR,
  PORTS,
  programPath,
  SERVICE_CIDR,
} from "./layout.ts";
import { pkiFile } from "./pki.ts";

/** Files that `up` writes, by path below the cluster's home. JSON where the reader takes YAML. */
export function configurationFiles(): Readonly<Record<string, string>> {
  return {
    "cni/10-countersign.conflist": JSON.stringify(cni()),
    "containerd.toml": containerd(),
    "kubelet.yaml": JSON.stringify(kubelet(), undefined, 2),
    Corefile: corefile(),
  };
}

function cni(): unknown {
  // No masquerading and no host ports: pods reach each other, Services and this machine, and nothing beyond.
  return {
    cniVersion: "1.0.0",
    name: "countersign",
    plugins: [
      {
        type: "bridge",
        bridge: BRIDGE,
        isGateway: true,
        hairpinMode: true,
        ipam: {
          type: "host-local",
          dataDir: inHome("ipam"),
          ranges: [[{ subnet: POD_CIDR, gateway: NODE_ADDRESS }]],
          routes: [{ dst: "0.0.0.0/0" }],
        },
      },
    ],
  };
}

function containerd(): string {
  // restrict_oom_score_adj: without CAP_SYS_RESOURCE runc may not lower the score, and fails when asked to.
  // netns_mounts_under_state_dir: so `down` finds every network namespace of this cluster and no other.
  const cri = 'plugins."io.containerd.grpc.v1.cri"';
  return `version = 2
root = "${inHome("containerd", "root")}"
state = "${inHome("containerd", "state")}"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
address = "${containerdSocket()}"
[${cri}]
restrict_oom_score_adj = true
sandbox_image = "${PAUSE_IMAGE}"
netns_mounts_under_state_dir = true
[${cri}.cni]
bin_dir = "/usr/lib/cni"
conf_dir = "${inHome("cni")}"
[${cri}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[${cri}.containerd.runtimes.runc.options]
SystemdCgroup = false
`;
}

function kubelet(): unknown {
  return {
    apiVersion: "kubelet.config.k8s.io/v1beta1",
    kind: "KubeletConfiguration",
    address: NODE_ADDRESS,
    port: PORTS.kubelet,
    healthzPort: PORTS.kubeletHealth,
    authentication: {
      anonymous: { enabled: false },
      webhook: { enabled: false },
      x509: { clientCAFile: pkiFile("ca.crt") },
    },
    authorization: { mode: "AlwaysAllow" },
    tlsCertFile: pkiFile("kubelet.crt"),
    tlsPrivateKeyFile: pkiFile("kubelet.key"),
    containerRuntimeEndpoint: `unix://${containerdSocket()}`,
    clusterDNS: [DNS_SERVICE_ADDRESS],
    clusterDomain: CLUSTER_DOMAIN,
    resolvConf: "/dev/null",
    cgroupDriver: "cgroupfs",
    failCgroupV1: false, // test machines with the old hierarchy are common
    failSwapOn: false,
    enforceNodeAllocatable: [],
    makeIPTablesUtilChains: false, // nothing of the kubelet's stays in the host's tables
    maxPods: 250,
    imageGCHighThresholdPercent: 100, // images come from no registry: one collected would be gone for good
    evictionHard: { "memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%" },
    volumePluginDir: inHome("volume-plugins"),
    syncFrequency: "10s",
    // A ConfigMap's change reaches pods when the kubelet's own watch sees it, not after a minute's cache.
    configMapAndSecretChangeDetectionStrategy: "Watch",
  };
}

function corefile(): string {
  return `${CLUSTER_DOMAIN}:53 {
  bind ${NODE_ADDRESS}
  errors
  kubernetes ${CLUSTER_DOMAIN} {
    kubeconfig ${adminKubeconfig()}
    pods verified
    ttl 1
  }
}
.:53 {
  bind ${NODE_ADDRESS}
  template ANY ANY {
    rcode NXDOMAIN
  }
}
`;
}

export interface Part {
  readonly name: string;
  /** A program's name or path. */
  readonly command: string;
  readonly args: readonly string[];
}

/** Every part, in the order they start. */
export function parts(): readonly Part[] {
  const etcd = `http://127.0.0.1:${PORTS.etcdClient}`;
  const kubeconfig = (name: string) => `--kubeconfig=${inHome(`${name}.conf`)}`;
  return [
    {
      name: "etcd",
      command: "etcd",
      args: [
        `--data-dir=${inHome("etcd")}`,
        `--listen-client-urls=${etcd}`,
        `--advertise-client-urls=${etcd}`,
        `--listen-peer-urls=http://127.0.0.1:${PORTS.etcdPeer}`,
        `--initial-advertise-peer-urls=http://127.0.0.1:${PORTS.etcdPeer}`,
        `--initial-cluster=default=http://127.0.0.1:${PORTS.etcdPeer}`,
        "--unsafe-no-fsync", // the data is thrown away with the cluster
      ],
    },
    { name: "containerd", command: "containerd", args: ["--config", inHome("containerd.toml")] },
    {
      name: "kube-apiserver",
      command: programPath("kube-apiserver"),
      args: [
        `--etcd-servers=${etcd}`,
        `--bind-address=${NODE_ADDRESS}`,
        `--advertise-address=${NODE_ADDRESS}`,
        `--secure-port=${PORTS.apiServer}`,
        `--client-ca-file=${pkiFile("ca.crt")}`,
        `--tls-cert-file=${pkiFile("apiserver.crt")}`,
        `--tls-private-key-file=${pkiFile("apiserver.key")}`,
        `--service-account-key-file=${pkiFile("service-accounts.pub")}`,
        `--service-account-signing-key-file=${pkiFile("service-accounts.key")}`,
        `--service-account-issuer=https://kubernetes.default.svc.${CLUSTER_DOMAIN}`,
        `--service-cluster-ip-range=${SERVICE_CIDR}`,
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction,MutatingAdmissionWebhook,ValidatingAdmissionWebhook,ValidatingAdmissionPolicy",
        "--kubelet-preferred-address-types=InternalIP",
        `--kubelet-certificate-authority=${pkiFile("ca.crt")}`,
        `--kubelet-client-certificate=${pkiFile("admin.crt")}`,
        `--kubelet-client-key=${pkiFile("admin.key")}`,
        "--allow-privileged",
      ],
    },
    {
      name: "kube-controller-manager",
      command: programPath("kube-controller-manager"),
      args: [
        kubeconfig("controller-manager"),
        "--bind-address=127.0.0.1",
        `--secure-port=${PORTS.controllerManager}`,
        `--service-account-private-key-file=${pkiFile("service-accounts.key")}`,
        `--root-ca-file=${pkiFile("ca.crt")}`,
        `--cluster-signing-cert-file=${pkiFile("ca.crt")}`,
        `--cluster-signing-key-file=${pkiFile("ca.key")}`,
        "--use-service-account-credentials",
        "--leader-elect=false",
      ],
    },
    {
      name: "kube-scheduler",
      command: programPath("kube-scheduler"),
      args: [
        kubeconfig("scheduler"),
        "--bind-address=127.0.0.1",
        `--secure-port=${PORTS.scheduler}`,
        "--leader-elect=false",
      ],
    },
    {
      name: "kubelet",
      command: programPath("kubelet"),
      args: [
        `--config=${inHome("kubelet.yaml")}`,
        kubeconfig("kubelet"),
        `--hostname-override=${NODE_NAME}`,
        `--node-ip=${NODE_ADDRESS}`,
        `--root-dir=${inHome("kubelet")}`,
        `--cert-dir=${inHome("kubelet-pki")}`,
      ],
    },
    {
      name: "kube-proxy",
      command: programPath("kube-proxy"),
      args: [
        kubeconfig("kube-proxy"),
        "--proxy-mode=iptables",
        `--cluster-cidr=${POD_CIDR}`,
        `--hostname-override=${NODE_NAME}`,
        `--bind-address=${NODE_ADDRESS}`,
        `--healthz-bind-address=127.0.0.1:${PORTS.kubeProxyHealth}`,
        `--metrics-bind-address=127.0.0.1:${PORTS.kubeProxyMetrics}`,
        "--iptables-min-sync-period=100ms",
        // What `--cleanup` would leave behind: a firewall chain, kernel settings of loopback and connection tracking.
        "--iptables-localhost-nodeports=false",
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0s",
        "--conntrack-tcp-timeout-close-wait=0s",
      ],
    },
    { name: "coredns", command: programPath("coredns"), args: ["-conf", inHome("Corefile")] },
  ];
}
