// Builds the ClusterState from accepted objects; maps of kinds that did not change are kept as they are. PURE.

import { servicesOfWorkloads } from "../policy/declared-services.ts";
import { DEFAULT_MESH_CONFIG } from "../policy/mesh-config.ts";
import type { TypedObject } from "../policy/typed-object.ts";
import type { Accepted } from "./reconcile.ts";
import type { ClusterState } from "./store.ts";

type MapName = Exclude<keyof ClusterState, "revision" | "config" | "services" | "pods" | "gatewayRoutes">;

const MAP_OF: Readonly<Record<Exclude<TypedObject["kind"], "MeshConfig">, MapName>> = {
  AccessPolicy: "policies",
  ClusterAccessPolicy: "policies",
  AccessGrant: "grants",
  MeshRole: "roles",
  MeshRoleBinding: "bindings",
  Workload: "workloads",
  ExternalService: "externalServices",
  OperationCatalog: "catalogs",
  IdentityProvider: "identityProviders",
  MeshGateway: "meshGateways",
  RoutePolicy: "routePolicies",
  TrafficPolicy: "trafficPolicies",
  Namespace: "namespaces",
};

export const EMPTY_STATE: ClusterState = {
  revision: 0,
  config: DEFAULT_MESH_CONFIG,
  policies: new Map(),
  workloads: new Map(),
  services: new Map(),
  pods: new Map(),
  roles: new Map(),
  bindings: new Map(),
  grants: new Map(),
  externalServices: new Map(),
  catalogs: new Map(),
  identityProviders: new Map(),
  meshGateways: new Map(),
  routePolicies: new Map(),
  trafficPolicies: new Map(),
  gatewayRoutes: new Map(),
  namespaces: new Map(),
};

function keyIn(map: MapName, accepted: Accepted): string {
  if (map === "policies") return accepted.key;
  const { namespace, name } = accepted.valid;
  return namespace === undefined ? name : `${namespace}/${name}`;
}

/** Sorted by key, so that the same objects give the same state whatever files they are in; the usual edit needs no sorting. */
function inOrder(
  previous: ReadonlyMap<string, unknown>,
  map: ReadonlyMap<string, unknown>,
): Map<string, unknown> {
  let sameKeys = previous.size === map.size;
  for (const key of map.keys()) if (sameKeys && !previous.has(key)) sameKeys = false;
  if (!sameKeys) return new Map([...map].sort(([a], [b]) => (a < b ? -1 : 1)));
  const next = new Map(previous);
  for (const [key, value] of map) next.set(key, value);
  return next;
}

/**
 * The next state.
 *
 * @param changed kinds of which an object was added, changed or removed.
 */
export function buildClusterState(
  previous: ClusterState,
  accepted: Iterable<Accepted>,
  changed: ReadonlySet<string>,
): ClusterState {
  const maps = new Map<MapName, Map<string, unknown>>();
  for (const [kind, map] of Object.entries(MAP_OF)) if (changed.has(kind)) maps.set(map, new Map());
  let config = DEFAULT_MESH_CONFIG;
  for (const object of accepted) {
    const { typed } = object;
    if (typed.kind === "MeshConfig") config = typed.value;
    else maps.get(MAP_OF[typed.kind])?.set(keyIn(MAP_OF[typed.kind], object), typed.value);
  }
  const sorted = [...maps].map(([name, map]) => [name, inOrder(previous[name], map)]);
  // Holds because `MAP_OF` puts every kind into the map of its type.
  const rebuilt = Object.fromEntries(sorted) as Partial<ClusterState>;
  const { workloads } = rebuilt;
  const services = workloads && servicesOfWorkloads(workloads, previous.services);
  return {
    ...previous,
    ...rebuilt,
    ...(services ? { services } : {}),
    revision: previous.revision + 1,
    config,
  };
}
