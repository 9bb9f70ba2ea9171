// Settings of the control-plane process: flags to one readonly value.
import { hostname, networkInterfaces } from "node:os";
import { join, resolve } from "node:path";
import { isTrustDomain } from "../sidecar/core/identity/spiffe-id.ts";
import type { Result } from "../sidecar/core/runtime/errors.ts";

export interface ControlPlanePorts {
  readonly bootstrap: number;
  readonly discovery: number;
  readonly tokens: number;
  readonly metrics: number;
}

/** What only a control plane in a cluster needs. */
export interface ClusterConfig {
  /** File; undefined: what `kubectl` would use, or the pod's own ServiceAccount. */
  readonly kubeconfig: string | undefined;
  readonly context: string | undefined;
  /** Where the control plane runs and keeps its records. */
  readonly namespace: string;
  /** Name of this replica, unique among them: the pod's. */
  readonly replica: string;
  /** IP address at which the other replicas reach this one. */
  readonly address: string | undefined;
  /** undefined: that of the MeshConfig, or its default. */
  readonly trustDomain: string | undefined;
  /** Image that the webhook puts into pods; undefined: pods are not injected. */
  readonly sidecarImage: string | undefined;
  /** Directory with `tls.crt`, `tls.key` and `ca.crt` of an issuing certificate made elsewhere (cert-manager). */
  readonly issuerDir: string | undefined;
  /** JSON object of resources (`cpu`, `memory`, `cpu-limit`, `memory-limit`) and `log-level` of injected sidecars. */
  readonly sidecarDefaults: Readonly<Record<string, string>>;
  readonly webhookPort: number;
  readonly managementPort: number;
  /** Where replicas tell the leader how their sidecars stand. */
  readonly reportPort: number;
}

export interface ControlPlaneConfig {
  /** Where the configuration comes from: a directory, or a cluster. */
  readonly source: { readonly configDir: string } | { readonly cluster: ClusterConfig };
  readonly stateDir: string;
  /** Address that bootstrap and discovery listen on. */
  readonly listen: string;
  /** Address that metrics and health listen on. */
  readonly metricsListen: string;
  /** 0: the system chooses; what was chosen stands in `{stateDir}/ports.json`. */
  readonly ports: ControlPlanePorts;
  /** Name of this cluster, part of the settings every sidecar gets. */
  readonly cluster: string;
  readonly heartbeatMs: number;
  /** URL under which the keys of the token service are public; undefined: `https://{trust domain}`. */
  readonly tokenIssuer: string | undefined;
}

/** Where the management API listens. */
export function managementSocketPath(stateDir: string): string {
  return join(stateDir, "management.sock");
}

const USAGE = "see `countersign control-plane --help`";

function portOf(name: string, text: string): Result<number, string> {
  const port = Number(text);
  if (!/^\d{1,5}$/.test(text) || port > 65_535)
    return { ok: false, error: `\`${name}\` is \`${text}\`, expected 0 to 65535` };
  return { ok: true, value: port };
}

/** Flags that only a control plane in a cluster takes. */
const CLUSTER_FLAGS = [
  "kubeconfig",
  "context",
  "namespace",
  "replica",
  "address",
  "trust-domain",
  "sidecar-image",
  "sidecar-defaults",
  "issuer-dir",
  "webhook-port",
  "management-port",
  "report-port",
];

function clusterConfig(values: ReadonlyMap<string, string>, base: number): Result<ClusterConfig, string> {
  const webhook = portOf("--webhook-port", values.get("webhook-port") ?? String(base === 0 ? 0 : base + 17));
  if (!webhook.ok) return webhook;
  const management = portOf(
    "--management-port",
    values.get("management-port") ?? String(base === 0 ? 0 : base + 80),
  );
  if (!management.ok) return management;
  const report = portOf("--report-port", values.get("report-port") ?? String(base === 0 ? 0 : base + 15));
  if (!report.ok) return report;
  const trustDomain = values.get("trust-domain");
  if (trustDomain !== undefined && !isTrustDomain(trustDomain))
    return {
      ok: false,
      error: `\`--trust-domain\` is \`${trustDomain}\`, expected a name such as \`mesh.example\``,
    };
  const defaults = sidecarDefaults(values.get("sidecar-defaults") ?? "{}");
  if (!defaults.ok) return defaults;
  const issuerDir = values.get("issuer-dir");
  return {
    ok: true,
    value: {
      kubeconfig: values.get("kubeconfig"),
      context: values.get("context"),
      namespace: values.get("namespace") ?? "countersign-system",
      replica: values.get("replica") ?? hostname(),
      address: values.get("address") ?? ownAddress(),
      trustDomain,
      sidecarImage: values.get("sidecar-image"),
      issuerDir: issuerDir === undefined ? undefined : resolve(issuerDir),
      sidecarDefaults: defaults.value,
      webhookPort: webhook.value,
      managementPort: management.value,
      reportPort: report.value,
    },
  };
}

/** The first address that others can reach; a pod has one. */
function ownAddress(): string | undefined {
  return Object.values(networkInterfaces())
    .flatMap((addresses) => addresses ?? [])
    .find(({ internal }) => !internal)?.address;
}

function sidecarDefaults(text: string): Result<Readonly<Record<string, string>>, string> {
  const wrong = { ok: false, error: "`--sidecar-defaults` is not a JSON object of texts" } as const;
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value !== "object" || value === null || Array.isArray(value)) return wrong;
    const entries = Object.entries(value);
    return entries.every((entry): entry is [string, string] => typeof entry[1] === "string")
      ? { ok: true, value: Object.fromEntries(entries) }
      : wrong;
  } catch {
    return wrong;
  }
}

/**
 * Parses flags in the form `--name value` or `--name=value`.
 *
 * `--state-dir DIR` and one of `--config-dir DIR` and `--kubernetes` are required. `--port-base N` moves the block 16000 to N (so 16011 becomes
 * N+11); `--port-base 0` lets the system choose all ports.
 *
 * @returns the settings, or one line that says what is wrong.
 */
export function parseControlPlaneConfig(args: readonly string[]): Result<ControlPlaneConfig, string> {
  const known = [
    "config-dir",
    "state-dir",
    "listen",
    "metrics-listen",
    "port-base",
    "bootstrap-port",
    "discovery-port",
    "token-port",
    "metrics-port",
    "token-issuer",
    "cluster",
    "heartbeat-ms",
    ...CLUSTER_FLAGS,
  ];
  const switches = ["kubernetes"];
  const values = new Map<string, string>();
  for (let at = 0; at < args.length; at++) {
    const match = /^--([a-z-]+)(?:=(.*))?$/s.exec(args[at] ?? "");
    const name = match?.[1];
    if (!name || !(known.includes(name) || switches.includes(name)))
      return { ok: false, error: `unknown argument \`${args[at]}\`, ${USAGE}` };
    const value = switches.includes(name) ? (match[2] ?? "true") : (match[2] ?? args[++at]);
    if (value === undefined || value === "")
      return { ok: false, error: `\`--${name}\` needs a value, ${USAGE}` };
    if (values.has(name)) return { ok: false, error: `\`--${name}\` is given twice` };
    values.set(name, value);
  }
  const configDir = values.get("config-dir");
  const stateDir = values.get("state-dir");
  const inCluster = values.get("kubernetes") === "true";
  if (inCluster === (configDir !== undefined))
    return {
      ok: false,
      error: inCluster
        ? `\`--config-dir\` and \`--kubernetes\` exclude each other, ${USAGE}`
        : `\`--config-dir\` is missing: the directory with the mesh's YAML files (or \`--kubernetes\` to read a cluster), ${USAGE}`,
    };
  const stray = CLUSTER_FLAGS.find((name) => values.has(name));
  if (!inCluster && stray !== undefined)
    return { ok: false, error: `\`--${stray}\` goes with \`--kubernetes\`, ${USAGE}` };
  if (!stateDir)
    return {
      ok: false,
      error: `\`--state-dir\` is missing: where keys, history and status are kept, ${USAGE}`,
    };
  const base = portOf("--port-base", values.get("port-base") ?? "16000");
  if (!base.ok) return base;
  if (base.value > 65_500)
    return { ok: false, error: `\`--port-base\` is \`${base.value}\`, expected at most 65500` };
  const ports: number[] = [];
  for (const [name, offset] of [
    ["bootstrap-port", 11],
    ["discovery-port", 12],
    ["token-port", 13],
    ["metrics-port", 14],
  ] as const) {
    const port = portOf(`--${name}`, values.get(name) ?? String(base.value === 0 ? 0 : base.value + offset));
    if (!port.ok) return port;
    ports.push(port.value);
  }
  const [bootstrap = 0, discovery = 0, tokens = 0, metrics = 0] = ports;
  const tokenIssuer = values.get("token-issuer");
  if (tokenIssuer !== undefined && !/^https:\/\/[a-z0-9.:-]+(?:\/[\w./-]*)?$/.test(tokenIssuer))
    return {
      ok: false,
      error: `\`--token-issuer\` is \`${tokenIssuer}\`, expected a URL such as \`https://mesh.example\``,
    };
  const heartbeat = values.get("heartbeat-ms") ?? "5000";
  if (!/^\d{3,6}$/.test(heartbeat))
    return { ok: false, error: `\`--heartbeat-ms\` is \`${heartbeat}\`, expected 100 to 999999` };
  const cluster = clusterConfig(values, base.value);
  if (!cluster.ok) return cluster;
  return {
    ok: true,
    value: {
      source: configDir === undefined ? { cluster: cluster.value } : { configDir: resolve(configDir) },
      stateDir: resolve(stateDir),
      listen: values.get("listen") ?? "127.0.0.1",
      metricsListen: values.get("metrics-listen") ?? "127.0.0.1",
      ports: { bootstrap, discovery, tokens, metrics },
      cluster: values.get("cluster") ?? "local",
      heartbeatMs: Number(heartbeat),
      tokenIssuer,
    },
  };
}
