// What is kept of the objects of a cluster that are not ours (pods, Services, EndpointSlices, Jobs); PURE. An API server
// may be trusted with types, but a field may be absent: whatever is not as documented counts as absent.
import type { ApiObject } from "../../kubernetes/list-watch.ts";

export interface ContainerPort {
  readonly name: string;
  readonly port: number;
}

export interface PodFacts {
  readonly uid: string;
  readonly namespace: string;
  readonly name: string;
  readonly serviceAccount: string;
  readonly node: string;
  readonly labels: ReadonlyMap<string, string>;
  /** Those that mean something to the mesh. */
  readonly annotations: ReadonlyMap<string, string>;
  /** Its controller, or nothing for a bare pod. */
  readonly owner: { readonly kind: string; readonly name: string } | undefined;
  readonly addresses: readonly string[];
  readonly ready: boolean;
  /** What its kubelet said last is that it can serve, whatever others have made of its readiness since. */
  readonly serving: boolean;
  /** Has the sidecar's container. */
  readonly injected: boolean;
  /** TCP ports that its application declares. */
  readonly ports: readonly ContainerPort[];
  /** RFC 3339. */
  readonly createdAt: string;
}

export interface ServiceFacts {
  readonly namespace: string;
  readonly name: string;
  /** Cluster IPs; none for a headless Service. */
  readonly addresses: readonly string[];
  readonly ports: readonly {
    readonly name: string;
    readonly port: number;
    /** `appProtocol`, where it is set. */
    readonly protocol: string | undefined;
  }[];
}

export interface SliceFacts {
  readonly namespace: string;
  /** Name of its Service. */
  readonly service: string;
  readonly isIPv6: boolean;
  readonly ports: readonly { readonly name: string; readonly port: number }[];
  readonly endpoints: readonly {
    readonly address: string;
    readonly podUid: string;
    readonly ready: boolean;
    /** Empty: not known. */
    readonly node: string;
    readonly zone: string;
  }[];
}

export const PROXY_CONTAINER = "countersign-proxy";
const OWN_PREFIX = "countersign.dev/";

type Fields = Readonly<Record<string, unknown>>;
const isFields = (value: unknown): value is Fields =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const fields = (value: unknown): Fields => (isFields(value) ? value : {});
const list = (value: unknown): readonly Fields[] => (Array.isArray(value) ? value.filter(isFields) : []);
const text = (value: unknown): string => (typeof value === "string" ? value : "");
const texts = (value: unknown): string[] =>
  Array.isArray(value) ? value.filter((item): item is string => typeof item === "string") : [];

function textMap(value: unknown, keep: (key: string) => boolean = () => true): Map<string, string> {
  const map = new Map<string, string>();
  for (const [key, item] of Object.entries(fields(value)))
    if (typeof item === "string" && keep(key)) map.set(key, item);
  return map;
}

function isTcp(port: Fields): boolean {
  return port["protocol"] === undefined || port["protocol"] === "TCP";
}

/** @returns undefined for a pod that has ended: nothing of it runs any more. */
export function podFacts(object: ApiObject): PodFacts | undefined {
  const { metadata } = object;
  const meta = fields(metadata);
  const spec = fields(object["spec"]);
  const status = fields(object["status"]);
  const phase = text(status["phase"]);
  if (phase === "Succeeded" || phase === "Failed") return undefined;
  const controller = list(meta["ownerReferences"]).find((owner) => owner["controller"] === true);
  const containers = list(spec["containers"]);
  const initContainers = list(spec["initContainers"]);
  return {
    uid: text(meta["uid"]),
    namespace: metadata.namespace ?? "",
    name: metadata.name,
    serviceAccount: text(spec["serviceAccountName"]) || "default",
    node: text(spec["nodeName"]),
    labels: textMap(meta["labels"]),
    annotations: textMap(meta["annotations"], (key) => key.startsWith(OWN_PREFIX)),
    owner: controller && { kind: text(controller["kind"]), name: text(controller["name"]) },
    addresses: addressesOf(status),
    ready: isTrue(status, "Ready"),
    // Only the kubelet writes `ContainersReady`. The node controller, which has not heard of a node for a while (as after
    // an outage of the API server), writes `Ready` alone; so do readiness gates, but those are the application's word.
    serving:
      isTrue(status, "ContainersReady") &&
      meta["deletionTimestamp"] === undefined &&
      list(spec["readinessGates"]).length === 0,
    // A gateway has it in place of an application.
    injected: [...initContainers, ...containers].some((container) => container["name"] === PROXY_CONTAINER),
    ports: [...containers, ...initContainers.filter((one) => one["restartPolicy"] === "Always")]
      .filter((container) => container["name"] !== PROXY_CONTAINER)
      .flatMap((container) => list(container["ports"]).filter(isTcp))
      .map((port) => ({ name: text(port["name"]), port: Number(port["containerPort"]) })),
    createdAt: text(meta["creationTimestamp"]),
  };
}

function isTrue(status: Fields, type: string): boolean {
  return list(status["conditions"]).some((one) => one["type"] === type && one["status"] === "True");
}

function addressesOf(status: Fields): string[] {
  const all = list(status["podIPs"]).map((one) => text(one["ip"]));
  const first = text(status["podIP"]);
  return [...new Set(all.length > 0 ? all : [first])].filter((address) => address !== "");
}

/** @returns undefined for a Service that is a name for something else (`ExternalName`). */
export function serviceFacts(object: ApiObject): ServiceFacts | undefined {
  const spec = fields(object["spec"]);
  if (spec["type"] === "ExternalName") return undefined;
  const all = texts(spec["clusterIPs"]);
  const addresses = all.length > 0 ? all : [text(spec["clusterIP"])];
  return {
    namespace: object.metadata.namespace ?? "",
    name: object.metadata.name,
    addresses: addresses.filter((address) => address !== "" && address !== "None"),
    ports: list(spec["ports"])
      .filter(isTcp)
      .map((port) => ({
        name: text(port["name"]),
        port: Number(port["port"]),
        protocol: text(port["appProtocol"]) || undefined,
      })),
  };
}

/** @returns undefined for a slice of names, or of no Service. */
export function sliceFacts(object: ApiObject): SliceFacts | undefined {
  const service = textMap(fields(object.metadata)["labels"]).get("kubernetes.io/service-name");
  const type = object["addressType"];
  if (service === undefined || (type !== "IPv4" && type !== "IPv6")) return undefined;
  return {
    namespace: object.metadata.namespace ?? "",
    service,
    isIPv6: type === "IPv6",
    ports: list(object["ports"])
      .filter(isTcp)
      .map((port) => ({ name: text(port["name"]), port: Number(port["port"]) })),
    endpoints: list(object["endpoints"]).flatMap((endpoint) => {
      const target = fields(endpoint["targetRef"]);
      const [address] = texts(endpoint["addresses"]);
      if (target["kind"] !== "Pod" || address === undefined) return [];
      // Absent means that nobody knows; the API says to take it as ready.
      return [
        {
          address,
          podUid: text(target["uid"]),
          ready: fields(endpoint["conditions"])["ready"] !== false,
          node: text(endpoint["nodeName"]),
          zone: text(endpoint["zone"]),
        },
      ];
    }),
  };
}

/** @returns the CronJob that made a Job; undefined for one that stands alone. */
export function cronJobOf(object: ApiObject): string | undefined {
  const controller = list(fields(object.metadata)["ownerReferences"]).find(
    (owner) => owner["controller"] === true,
  );
  return controller?.["kind"] === "CronJob" ? text(controller["name"]) : undefined;
}

export function namespaceLabels(object: ApiObject): ReadonlyMap<string, string> {
  return textMap(fields(object.metadata)["labels"]);
}
