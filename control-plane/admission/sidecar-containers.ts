// The two containers and three volumes that a meshed pod gets. PURE. Defaults of the API server are written out, so that an
// injected pod that comes back (reinvocation) can be compared with what it should be.
import {
  BUNDLE_VOLUME,
  INIT_CONTAINER,
  PROXY_CONTAINER,
  PROXY_UID,
  STATE_VOLUME,
  STATUS_PORT,
  TOKEN_VOLUME,
} from "./own-names.ts";
import type { PodSettings, ProxyLogLevel, ProxyResources } from "./pod-settings.ts";
import { encodeProbes, type RelayedProbes } from "./probe-rewrite.ts";
import type { UnknownFields } from "./review.ts";

/** What all injected pods have in common: settings of the control plane. */
export interface InjectSettings {
  /** Image of the sidecar, by tag or digest; passed as it is. */
  readonly image: string;
  readonly imagePullPolicy: "Always" | "IfNotPresent" | "Never";
  readonly trustDomain: string;
  /** `host:port` of discovery (16012). */
  readonly controlPlane: string;
  /** `host:port` of identity bootstrap (16011). */
  readonly bootstrap: string;
  readonly resources: ProxyResources;
  readonly logLevel: ProxyLogLevel;
  /** Nodes whose kernel has no nftables: the init step gets NET_RAW besides NET_ADMIN. */
  readonly legacyIptables: boolean;
  /** Of this product, for the annotation `countersign.dev/injected`. */
  readonly version: string;
}

/** What the sidecar answers for the application on its status port. */
export interface Relayed {
  readonly probes: RelayedProbes;
  /** `PORT/PATH`. */
  readonly appMetrics: string | undefined;
}

/** The sidecar makes its own folder `state` in here (0700): a volume's root belongs to root and cannot be closed. */
const RUN_DIR = "/var/run/countersign";
const STATE_DIR = `${RUN_DIR}/state`;
const BUNDLE_DIR = `${RUN_DIR}/bundle`;
const TOKEN_DIR = "/var/run/secrets/countersign";
const TOKEN_SECONDS = 3_600;
const STATE_SIZE = "64Mi";
/** Ten minutes: an image's first start on a busy node, or a control plane that is being upgraded. */
const STARTUP_TRIES = 600;

const HARDENED = {
  allowPrivilegeEscalation: false,
  privileged: false,
  readOnlyRootFilesystem: true,
  seccompProfile: { type: "RuntimeDefault" },
};

const COMMON = {
  terminationMessagePath: "/dev/termination-log",
  terminationMessagePolicy: "FallbackToLogsOnError",
};

/** Texts in `args` and `env` of a pod: `$(NAME)` would be replaced, `$$` stands for `$`. */
const literal = (text: string): string => text.replaceAll("$", "$$$$");

/** Undoes {@link literal}. */
export const fromLiteral = (text: string): string => text.replaceAll("$$", "$");

const listFlag = (flag: string, ports: readonly number[]): string[] =>
  ports.length === 0 ? [] : [flag, ports.join(",")];

/** Root with the one capability that iptables needs, and nothing else; ends before anything else starts. */
export function initContainer(settings: InjectSettings, pod: PodSettings): UnknownFields {
  const { legacyIptables } = settings;
  return {
    name: INIT_CONTAINER,
    image: settings.image,
    imagePullPolicy: settings.imagePullPolicy,
    args: [
      "capture-init",
      ...["--proxy-uid", String(PROXY_UID)],
      ...["--iptables", legacyIptables ? "auto" : "nft"],
      ...listFlag("--exclude-outbound-ports", pod.excludeOutboundPorts),
      ...listFlag("--exclude-inbound-ports", pod.excludeInboundPorts),
    ],
    // Legacy iptables locks a file, and the root file system is read-only.
    ...(legacyIptables ? { env: [{ name: "XTABLES_LOCKFILE", value: `${RUN_DIR}/xtables.lock` }] } : {}),
    // As the sidecar's: it runs before it, so the pod needs no more, and a quota on limits finds one here too.
    resources: resourcesOf({ ...settings.resources, ...pod.resources }),
    securityContext: {
      ...HARDENED,
      capabilities: { add: legacyIptables ? ["NET_ADMIN", "NET_RAW"] : ["NET_ADMIN"], drop: ["ALL"] },
      runAsGroup: 0,
      runAsNonRoot: false,
      runAsUser: 0,
    },
    ...COMMON,
    ...(legacyIptables ? { volumeMounts: [{ mountPath: RUN_DIR, name: STATE_VOLUME }] } : {}),
  };
}

/** A native sidecar: starts before, ends after the others, and a Job can complete beside it. */
export function proxyContainer(settings: InjectSettings, pod: PodSettings, relayed: Relayed): UnknownFields {
  return {
    name: PROXY_CONTAINER,
    image: settings.image,
    imagePullPolicy: settings.imagePullPolicy,
    args: [
      "sidecar",
      ...["--capture", "on"],
      ...["--service-account-token-file", `${TOKEN_DIR}/token`],
      ...["--trust-bundle-file", `${BUNDLE_DIR}/roots.pem`],
      ...["--trust-domain", literal(settings.trustDomain)],
      ...["--state-dir", STATE_DIR],
      ...["--node", "$(POD_NAME)"],
      ...["--app", "$(POD_IP)"],
      ...["--mesh-listen", "[::]:16008"],
      ...["--metrics-listen", `[::]:${STATUS_PORT}`],
      ...["--control-plane", literal(settings.controlPlane)],
      ...["--bootstrap", literal(settings.bootstrap)],
      ...["--audit-file", "-"],
      ...["--log-level", pod.logLevel ?? settings.logLevel],
      ...listFlag("--opaque-ports", pod.opaquePorts),
      ...(relayed.appMetrics === undefined ? [] : ["--app-metrics", literal(relayed.appMetrics)]),
      ...(relayed.probes.size === 0 ? [] : ["--probes", literal(encodeProbes(relayed.probes))]),
    ],
    env: [
      fieldEnv("POD_NAME", "metadata.name"),
      fieldEnv("POD_UID", "metadata.uid"),
      fieldEnv("POD_IP", "status.podIP"),
      // 6 to 15 MB less; it counts only when set before the process starts.
      { name: "MALLOC_ARENA_MAX", value: "1" },
    ],
    resources: resourcesOf({ ...settings.resources, ...pod.resources }),
    restartPolicy: "Always",
    securityContext: {
      ...HARDENED,
      capabilities: { drop: ["ALL"] },
      runAsGroup: PROXY_UID,
      runAsNonRoot: true,
      runAsUser: PROXY_UID,
    },
    // Ready once capture was verified from inside the pod: until then nothing of the application starts.
    startupProbe: {
      failureThreshold: STARTUP_TRIES,
      httpGet: { path: "/readyz", port: STATUS_PORT, scheme: "HTTP" },
      periodSeconds: 1,
      successThreshold: 1,
      timeoutSeconds: 2,
    },
    ...COMMON,
    volumeMounts: [
      { mountPath: RUN_DIR, name: STATE_VOLUME },
      { mountPath: BUNDLE_DIR, name: BUNDLE_VOLUME, readOnly: true },
      { mountPath: TOKEN_DIR, name: TOKEN_VOLUME, readOnly: true },
    ],
  };
}

function fieldEnv(name: string, fieldPath: string): UnknownFields {
  return { name, valueFrom: { fieldRef: { apiVersion: "v1", fieldPath } } };
}

function resourcesOf({ cpu, memory, cpuLimit, memoryLimit }: ProxyResources): UnknownFields {
  const limits = {
    ...(cpuLimit === undefined ? {} : { cpu: cpuLimit }),
    ...(memoryLimit === undefined ? {} : { memory: memoryLimit }),
  };
  return { ...(Object.keys(limits).length > 0 ? { limits } : {}), requests: { cpu, memory } };
}

export function sidecarVolumes(settings: InjectSettings): readonly UnknownFields[] {
  return [
    { emptyDir: { medium: "Memory", sizeLimit: STATE_SIZE }, name: STATE_VOLUME },
    {
      name: TOKEN_VOLUME,
      projected: {
        defaultMode: 0o644,
        sources: [
          {
            serviceAccountToken: {
              audience: `countersign.dev/${settings.trustDomain}`,
              expirationSeconds: TOKEN_SECONDS,
              path: "token",
            },
          },
        ],
      },
    },
    // Not optional: the kubelet tries again until the control plane has put it into the namespace.
    { configMap: { defaultMode: 0o644, name: "countersign-bundle" }, name: BUNDLE_VOLUME },
  ];
}
