// From Services, their EndpointSlices and the pods behind them to what callers can name; PURE. A pod without a sidecar
// is not part of the mesh, so it is no endpoint.
import { unchanged } from "../../policy/declared-services.ts";
import type { MeshPod, MeshService, ServiceEndpoint, Workload } from "../store.ts";
import { protocolOf } from "./classify.ts";
import type { ServiceFacts, SliceFacts } from "./facts.ts";
import { POD_MESH_PORT, type TargetPort } from "./pods.ts";

export interface ServiceInput {
  /** By `namespace/name`. */
  readonly services: ReadonlyMap<string, ServiceFacts>;
  readonly slices: Iterable<SliceFacts>;
  readonly workloads: ReadonlyMap<string, Workload>;
  /** By UID. */
  readonly pods: ReadonlyMap<string, MeshPod>;
  readonly previous: ReadonlyMap<string, MeshService>;
}

/** Slices by their Service, `namespace/name`. */
function bySlices(slices: Iterable<SliceFacts>): Map<string, SliceFacts[]> {
  const map = new Map<string, SliceFacts[]>();
  for (const slice of slices) {
    const id = `${slice.namespace}/${slice.service}`;
    const known = map.get(id);
    if (known) known.push(slice);
    else map.set(id, [slice]);
  }
  return map;
}

/** Ports that Services send to, by pod UID; endpoints that are not ready count too, so that readiness changes nothing. */
export function targetPortsOf(
  services: ReadonlyMap<string, ServiceFacts>,
  slices: Iterable<SliceFacts>,
): Map<string, TargetPort[]> {
  const found = new Map<string, Map<number, TargetPort>>();
  for (const slice of slices) {
    const service = services.get(`${slice.namespace}/${slice.service}`);
    const ports = slice.ports.map(({ name, port }) => ({
      port,
      protocol: protocolOf(name, service?.ports.find((one) => one.name === name)?.protocol),
    }));
    for (const { podUid } of slice.endpoints) {
      const known = found.get(podUid) ?? new Map<number, TargetPort>();
      found.set(podUid, known);
      // Two Services may disagree: one that says something knows more, and one that says opaque bytes most of all.
      for (const port of ports) {
        const other = known.get(port.port)?.protocol;
        if (other === undefined || other === "auto" || (other !== "tcp" && port.protocol !== "auto"))
          known.set(port.port, port);
      }
    }
  }
  return new Map([...found].map(([uid, ports]) => [uid, [...ports.values()]]));
}

/** Zones of nodes, from what is said of endpoints on them: reading nodes takes a right that nothing else needs. */
export function zonesOfNodes(slices: Iterable<SliceFacts>): Map<string, string> {
  const zones = new Map<string, string>();
  for (const { endpoints } of slices)
    for (const { node, zone } of endpoints) if (node !== "" && zone !== "") zones.set(node, zone);
  return zones;
}

/** Every Service with a meshed pod behind it, and the pods of each workload that are behind none. */
export function meshServices(input: ServiceInput): Map<string, MeshService> {
  const services = new Map<string, MeshService>();
  const placed = new Set<string>();
  const keep = (id: string, service: MeshService): void => {
    services.set(id, unchanged(service, input.previous.get(id)));
  };
  const slices = bySlices(input.slices);
  for (const [id, facts] of [...input.services].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const service = meshService(facts, slices.get(id) ?? [], input, placed);
    if (service) keep(id, service);
  }
  const alone = new Map<string, ServiceEndpoint[]>();
  for (const pod of input.pods.values()) {
    if (pod.workload === undefined || placed.has(pod.uid)) continue;
    const endpoints = alone.get(pod.workload) ?? [];
    alone.set(pod.workload, endpoints);
    for (const address of pod.addresses)
      endpoints.push({ address, meshPort: POD_MESH_PORT, workload: pod.workload, zone: pod.zone });
  }
  for (const [key, endpoints] of alone) {
    const workload = input.workloads.get(key);
    if (!workload || endpoints.length === 0) continue;
    const name = key.slice(workload.namespace.length + 1).replaceAll("/", ":");
    keep(`${workload.namespace}/${name}`, {
      namespace: workload.namespace,
      name,
      addresses: [],
      ports: workload.ports.map((port) => ({ ...port, targetPort: port.port })),
      members: [key],
      endpoints: endpoints.sort(byAddress),
    });
  }
  return services;
}

function meshService(
  facts: ServiceFacts,
  slices: readonly SliceFacts[],
  { pods, workloads }: ServiceInput,
  placed: Set<string>,
): MeshService | undefined {
  const [address] = facts.addresses;
  // Of a Service with two families the first is what its address goes to; a headless one is reached by both.
  const used = slices.filter((slice) => address === undefined || slice.isIPv6 === address.includes(":"));
  const members = new Set<string>();
  for (const slice of slices)
    for (const { podUid } of slice.endpoints) {
      placed.add(podUid);
      const workload = pods.get(podUid)?.workload;
      if (workload !== undefined) members.add(workload);
    }
  if (members.size === 0) return undefined;
  // Kubernetes itself takes every pod for unready after an outage of its API server, until each kubelet has reported
  // again. With no other endpoint left, those count that nobody but the controllers speaks against.
  const isReady = endpointsOf(used, pods, ({ ready }) => ready);
  const endpoints = isReady.size > 0 ? isReady : endpointsOf(used, pods, (_, pod) => pod.serving === true);
  const [first = ""] = [...members].sort();
  const packsOf = (port: number): readonly string[] =>
    workloads.get(first)?.ports.find((one) => one.port === port)?.packs ?? [];
  return {
    namespace: facts.namespace,
    name: facts.name,
    addresses: facts.addresses,
    ports: facts.ports.flatMap(({ name, port, protocol }) => {
      const target = used.flatMap((slice) => slice.ports).find((one) => one.name === name)?.port;
      if (target === undefined) return [];
      return [{ port, targetPort: target, protocol: protocolOf(name, protocol), packs: packsOf(target) }];
    }),
    members: [...members].sort(),
    endpoints: [...endpoints.values()].sort(byAddress),
  };
}

function endpointsOf(
  slices: readonly SliceFacts[],
  pods: ReadonlyMap<string, MeshPod>,
  isUsed: (endpoint: SliceFacts["endpoints"][number], pod: MeshPod) => boolean,
): Map<string, ServiceEndpoint> {
  const endpoints = new Map<string, ServiceEndpoint>();
  for (const slice of slices)
    for (const endpoint of slice.endpoints) {
      const { address, podUid, zone } = endpoint;
      const pod = pods.get(podUid);
      if (pod?.workload === undefined || !isUsed(endpoint, pod)) continue;
      endpoints.set(address, {
        address,
        meshPort: POD_MESH_PORT,
        workload: pod.workload,
        zone: zone === "" ? pod.zone : zone,
      });
    }
  return endpoints;
}

const byAddress = (a: ServiceEndpoint, b: ServiceEndpoint): number => (a.address < b.address ? -1 : 1);
