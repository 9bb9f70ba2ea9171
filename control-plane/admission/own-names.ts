// Names, numbers and paths that the injected pod and its rules share. Contract with the sidecar image, the chart and
// sources/kubernetes; tests hold those of sidecar/capture equal.

export const INIT_CONTAINER = "countersign-init";
export const PROXY_CONTAINER = "countersign-proxy";
export const STATE_VOLUME = "countersign-state";
export const TOKEN_VOLUME = "countersign-token";
export const BUNDLE_VOLUME = "countersign-bundle";
export const OWN_CONTAINERS: readonly string[] = [INIT_CONTAINER, PROXY_CONTAINER];
export const OWN_VOLUMES: readonly string[] = [STATE_VOLUME, TOKEN_VOLUME, BUNDLE_VOLUME];

/** User and group of the sidecar: capture lets this user's traffic pass. */
export const PROXY_UID = 61_600;
/** Ports of the mesh itself; applications may not have them. */
export const OWN_PORTS = { first: 16_001, last: 16_080 } as const;
/** Metrics, health and relayed probes of the sidecar. */
export const STATUS_PORT = 16_020;

/** Prefix of all labels and annotations of ours. */
export const PREFIX = "countersign.dev/";
export const INJECT_LABEL = `${PREFIX}inject`;
/** Annotation: version that injected the pod. */
export const INJECTED = `${PREFIX}injected`;

/** How to leave a pod out of the mesh, for messages. */
export const OPT_OUT = `label the pod \`${INJECT_LABEL}: disabled\` to leave it out of the mesh`;

export const isOwnPort = (port: number): boolean => port >= OWN_PORTS.first && port <= OWN_PORTS.last;
