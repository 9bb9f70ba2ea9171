// Probes of a pod's containers: the kubelet has no identity, so it asks the sidecar, which asks the application. PURE. The
// form of `--probes` is that of sidecar/capture/probes.ts, and what that refuses is refused here, where its author sees it.
import { isOwnPort, OWN_CONTAINERS, STATUS_PORT } from "./own-names.ts";
import { type ContainerView, fieldsAt, objectsOf, type PodView } from "./pod-view.ts";
import { isFields, type JsonPatchOperation, type UnknownFields } from "./review.ts";

const KINDS = ["startup", "liveness", "readiness"] as const;
type ProbeKind = (typeof KINDS)[number];
const ACTIONS = ["httpGet", "tcpSocket", "grpc"] as const;

const MAX_PROBES = 64;
const MAX_HEADERS = 32;
const MAX_TIMEOUT_SECONDS = 300;
const PATH = /^\/[\x21-\x7e]{0,4095}$/;
const HEADER_NAME = /^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$/;
const HEADER_VALUE = /^[\x20-\x7e\t]{0,4096}$/;
const SERVICE = /^[\x21-\x7e]{0,127}$/;
const CONTAINER = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;

/** The original of each relayed probe, by `container/kind`, with ports as numbers. */
export type RelayedProbes = ReadonlyMap<string, UnknownFields>;

export interface ProbeRewrite {
  readonly relayed: RelayedProbes;
  readonly patch: readonly JsonPatchOperation[];
  readonly problems: readonly string[];
  readonly warnings: readonly string[];
}

/**
 * Points every probe over the network at the sidecar.
 *
 * @param known originals of probes that point there already (the pod was injected before).
 * @param open ports that may be called without the mesh: hooks to them work.
 */
export function rewriteProbes(pod: PodView, known: RelayedProbes, open: readonly number[]): ProbeRewrite {
  const relayed = new Map<string, UnknownFields>();
  const patch: JsonPatchOperation[] = [];
  const problems: string[] = [];
  const warnings: string[] = [];
  for (const container of pod.containers) {
    if (!container.isLasting || OWN_CONTAINERS.includes(container.name)) continue;
    warnings.push(...hookWarnings(container, open));
    for (const kind of KINDS) {
      const probe = container.fields[`${kind}Probe`];
      if (!isFields(probe) || !ACTIONS.some((action) => isFields(probe[action]))) continue;
      const title = `${kind}Probe of container \`${container.name}\``;
      const key = `${container.name}/${kind}`;
      const standing = pointsAtSidecar(probe, container.name, kind) ? known.get(key) : undefined;
      const read = readProbe(standing ?? probe, container);
      if (typeof read === "string") {
        if (read === ELSEWHERE) warnings.push(`${title} has a \`host\`, so the sidecar does not relay it`);
        else problems.push(`${title} ${read}`);
        continue;
      }
      relayed.set(key, read);
      if (standing === undefined)
        patch.push({
          op: "replace",
          path: `/spec/${container.list}/${container.index}/${kind}Probe`,
          value: relay(probe, container.name, kind),
        });
    }
  }
  if (relayed.size > MAX_PROBES)
    problems.push(`it has ${relayed.size} probes; at most ${MAX_PROBES} are relayed`);
  return { relayed, patch, problems, warnings };
}

/** Value of the sidecar's `--probes`. */
export function encodeProbes(probes: RelayedProbes): string {
  return JSON.stringify(Object.fromEntries([...probes].sort(([a], [b]) => (a < b ? -1 : 1))));
}

/** Reads what `encodeProbes` wrote; empty for anything else. */
export function decodeProbes(text: string): RelayedProbes {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    // Not ours: no original is known then, and a probe that needs one is refused.
    return new Map();
  }
  if (!isFields(value)) return new Map();
  return new Map(Object.entries(value).flatMap(([key, probe]) => (isFields(probe) ? [[key, probe]] : [])));
}

const relayPath = (container: string, kind: ProbeKind): string => `/probe/${container}/${kind}`;

function pointsAtSidecar(probe: UnknownFields, container: string, kind: ProbeKind): boolean {
  const http = fieldsAt(probe, "httpGet");
  return http["port"] === STATUS_PORT && http["path"] === relayPath(container, kind);
}

/** Periods and thresholds stay with the kubelet. */
function relay(probe: UnknownFields, container: string, kind: ProbeKind): UnknownFields {
  const rest = Object.entries(probe).filter(([field]) => !ACTIONS.some((action) => action === field));
  return {
    ...Object.fromEntries(rest),
    httpGet: { path: relayPath(container, kind), port: STATUS_PORT, scheme: "HTTP" },
  };
}

/** The probe asks another machine: not a caller of this pod. */
const ELSEWHERE = "elsewhere";

/** The action with its port as a number; a text: what is wrong with it. */
function readProbe(probe: UnknownFields, container: ContainerView): UnknownFields | string {
  if (!CONTAINER.test(container.name)) return "belongs to a container whose name cannot be used";
  const timeoutSeconds = probe["timeoutSeconds"] ?? 1;
  if (typeof timeoutSeconds !== "number" || !(timeoutSeconds >= 1 && timeoutSeconds <= MAX_TIMEOUT_SECONDS))
    return `has a \`timeoutSeconds\` that is not between 1 and ${MAX_TIMEOUT_SECONDS}`;
  const given = ACTIONS.filter((action) => isFields(probe[action]));
  const [kind] = given;
  if (kind === undefined || given.length > 1) return `has ${given.length} actions; give it one`;
  const action = fieldsAt(probe, kind);
  if ((action["host"] ?? "") !== "") return ELSEWHERE;
  const port = portNumber(action["port"], container);
  if (typeof port === "string") return port;
  const body = kind === "httpGet" ? httpFields(action) : kind === "grpc" ? grpcFields(action) : {};
  return typeof body === "string" ? body : { [kind]: { ...body, port }, timeoutSeconds };
}

/** As the kubelet finds it: a name among the container's own ports, else a number in the text. */
function portNumber(port: unknown, { name, fields }: ContainerView): number | string {
  const named = (objectsOf(fields["ports"]) ?? []).find((one) => one["name"] === port);
  const number =
    typeof port === "string"
      ? (named?.["containerPort"] ?? (/^[0-9]{1,5}$/.test(port) ? Number(port) : undefined))
      : port;
  if (typeof number !== "number" || !Number.isInteger(number) || number < 1 || number > 65_535)
    return `names the port \`${String(port).slice(0, 64)}\`, which container \`${name}\` does not have; add it to its \`ports\``;
  return isOwnPort(number) ? `asks port ${number}, which belongs to the mesh; let it ask another` : number;
}

function httpFields(action: UnknownFields): UnknownFields | string {
  const given = action["path"] ?? "/";
  const path = typeof given === "string" && !given.startsWith("/") ? `/${given}` : given;
  if (typeof path !== "string" || !PATH.test(path)) return "has a `path` that cannot be relayed";
  const scheme = action["scheme"] ?? "HTTP";
  if (scheme !== "HTTP" && scheme !== "HTTPS") return "has a `scheme` that is neither HTTP nor HTTPS";
  const headers = objectsOf(action["httpHeaders"]) ?? [];
  if (headers.length > MAX_HEADERS) return `has more than ${MAX_HEADERS} headers`;
  const httpHeaders = [];
  for (const header of headers) {
    const { name, value = "" } = header;
    if (typeof name !== "string" || typeof value !== "string") return "has a header that cannot be relayed";
    if (!HEADER_NAME.test(name) || !HEADER_VALUE.test(value)) return "has a header that cannot be relayed";
    httpHeaders.push({ name, value });
  }
  return {
    path,
    ...(scheme === "HTTPS" ? { scheme } : {}),
    ...(httpHeaders.length > 0 ? { httpHeaders } : {}),
  };
}

function grpcFields(action: UnknownFields): UnknownFields | string {
  const service = action["service"] ?? "";
  if (typeof service !== "string" || !SERVICE.test(service)) return "has a `service` that cannot be relayed";
  return service === "" ? {} : { service };
}

/** Lifecycle hooks over the network come from the kubelet, in plaintext, and nothing can relay them. */
function hookWarnings(container: ContainerView, open: readonly number[]): string[] {
  const lifecycle = fieldsAt(container.fields, "lifecycle");
  return ["postStart", "preStop"].flatMap((hook) => {
    const handler = fieldsAt(lifecycle, hook);
    const action = isFields(handler["httpGet"]) ? handler["httpGet"] : handler["tcpSocket"];
    if (!isFields(action) || (action["host"] ?? "") !== "") return [];
    const port = portNumber(action["port"], container);
    if (typeof port === "number" && open.includes(port)) return [];
    return [
      `the ${hook} hook of container \`${container.name}\` comes from the kubelet without an identity and will be refused; use \`exec\``,
    ];
  });
}
