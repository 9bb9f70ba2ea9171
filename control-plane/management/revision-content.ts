// Which objects a revision consists of, their text on disk, and how an earlier revision is laid over the present
// state. PURE.
import { createHash } from "node:crypto";
import type { AccessPolicy } from "../policy/access-policy.ts";
import { isDeclared, servicesOfWorkloads } from "../policy/declared-services.ts";
import type {
  ClusterState,
  ExternalService,
  GatewayRoute,
  MeshConfig,
  MeshGateway,
  MeshRole,
  MeshRoleBinding,
  MeshService,
  OperationCatalog,
  RoutePolicy,
  TrafficPolicy,
  Workload,
} from "../sources/store.ts";

export interface FieldChange {
  /** Such as `rules[0].operations[1].op`. */
  readonly path: string;
  readonly from: unknown;
  readonly to: unknown;
}

const MAX_FIELDS = 200;

/** Every object of a state with its name, `Kind/namespace/name` or `Kind/name`. */
export function* stateObjects(state: ClusterState): Generator<[string, object]> {
  yield ["MeshConfig/default", state.config];
  for (const [key, policy] of state.policies) yield [key, policy];
  for (const [key, workload] of state.workloads) if (isDeclared(key)) yield [`Workload/${key}`, workload];
  for (const [key, role] of state.roles) yield [`MeshRole/${key}`, role];
  for (const [key, binding] of state.bindings) yield [`MeshRoleBinding/${key}`, binding];
  for (const [key, grant] of state.grants) yield [`AccessGrant/${key}`, grant];
  for (const [key, service] of state.externalServices) yield [`ExternalService/${key}`, service];
  for (const [key, catalog] of state.catalogs) yield [`OperationCatalog/${key}`, catalog];
  for (const [key, provider] of state.identityProviders) yield [`IdentityProvider/${key}`, provider];
  for (const [key, gateway] of state.meshGateways) yield [`MeshGateway/${key}`, gateway];
  for (const [key, route] of state.routePolicies) yield [`RoutePolicy/${key}`, route];
  for (const [key, traffic] of state.trafficPolicies) yield [`TrafficPolicy/${key}`, traffic];
  for (const [key, route] of state.gatewayRoutes) yield [key, route];
}

/** Maps become a tagged list, because JSON has none. */
function encodeValue(value: unknown): unknown {
  if (value instanceof Map) return { $map: [...value].map(([key, item]) => [key, encodeValue(item)]) };
  if (Array.isArray(value)) return value.map(encodeValue);
  if (typeof value !== "object" || value === null) return value;
  // In order of names, so that equal content has equal text whatever way it was built.
  const names = Object.keys(value).sort();
  return Object.fromEntries(names.map((name) => [name, encodeValue(Reflect.get(value, name))]));
}

/** What `objectText` wrote, after its JSON was parsed. */
export function decodeValue(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(decodeValue);
  if (typeof value !== "object" || value === null) return value;
  if ("$map" in value && Array.isArray(value.$map)) {
    return new Map(
      value.$map.map((pair: unknown) => (Array.isArray(pair) ? [pair[0], decodeValue(pair[1])] : [])) as [
        unknown,
        unknown,
      ][],
    );
  }
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, decodeValue(item)]));
}

/** Text of an object; `parseObject` gives an equal object back. */
export function objectText(value: object): string {
  return JSON.stringify(encodeValue(value));
}

export function parseObject(text: string): unknown {
  return decodeValue(JSON.parse(text));
}

/** Hashes objects by content, each once: objects of a state never change, so the object is the key. */
export class ObjectHasher {
  readonly #known = new WeakMap<object, string>();

  /** Hex SHA-256, 32 characters of it. */
  hash(value: object): string {
    const known = this.#known.get(value);
    if (known !== undefined) return known;
    const hash = createHash("sha256").update(this.text(value)).digest("hex").slice(0, 32);
    this.#known.set(value, hash);
    return hash;
  }

  text(value: object): string {
    return objectText(value);
  }
}

/** Fields in which two objects differ, at most 200. Maps count as objects. */
export function fieldDiff(from: unknown, to: unknown): FieldChange[] {
  const changes: FieldChange[] = [];
  const visit = (path: string, left: unknown, right: unknown): void => {
    if (changes.length >= MAX_FIELDS || JSON.stringify(left) === JSON.stringify(right)) return;
    const isPair = typeof left === "object" && typeof right === "object" && left !== null && right !== null;
    if (!isPair || Array.isArray(left) !== Array.isArray(right)) {
      changes.push({ path, from: left, to: right });
      return;
    }
    for (const name of new Set([...Object.keys(left), ...Object.keys(right)])) {
      const inner = Array.isArray(left) ? `${path}[${name}]` : path === "" ? name : `${path}.${name}`;
      visit(inner, Reflect.get(left, name), Reflect.get(right, name));
    }
  };
  const plain = (value: unknown): unknown => {
    if (value instanceof Map)
      return Object.fromEntries([...value].map(([key, item]) => [String(key), plain(item)]));
    if (Array.isArray(value)) return value.map(plain);
    if (typeof value !== "object" || value === null) return value;
    return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, plain(item)]));
  };
  visit("", plain(from), plain(to));
  return changes;
}

/** The part of a revision that a rollback publishes again. */
export interface RestoredContent {
  readonly config: MeshConfig | undefined;
  readonly policies: ReadonlyMap<string, AccessPolicy>;
  readonly roles: ReadonlyMap<string, MeshRole>;
  readonly bindings: ReadonlyMap<string, MeshRoleBinding>;
  readonly externalServices: ReadonlyMap<string, ExternalService>;
  readonly catalogs: ReadonlyMap<string, OperationCatalog>;
  readonly meshGateways: ReadonlyMap<string, MeshGateway>;
  readonly routePolicies: ReadonlyMap<string, RoutePolicy>;
  readonly trafficPolicies: ReadonlyMap<string, TrafficPolicy>;
  readonly gatewayRoutes: ReadonlyMap<string, GatewayRoute>;
  /** Only their ports and propagation count. */
  readonly workloads: ReadonlyMap<string, Workload>;
}

/**
 * Sorts the objects of a revision. Grants and identity providers are left out: a rollback brings back neither a grant nor
 * somebody who may say who people are.
 */
export function restoredContent(objects: ReadonlyMap<string, unknown>): RestoredContent {
  const pick = <T>(kind: string): Map<string, T> => {
    const found = new Map<string, T>();
    for (const [name, value] of objects) {
      // Written by `stateObjects`, where the kind says the type.
      if (name.startsWith(`${kind}/`)) found.set(name.slice(kind.length + 1), value as T);
    }
    return found;
  };
  const policies = new Map<string, AccessPolicy>();
  for (const kind of ["AccessPolicy", "ClusterAccessPolicy"]) {
    for (const [name, policy] of pick<AccessPolicy>(kind)) policies.set(`${kind}/${name}`, policy);
  }
  const gatewayRoutes = new Map<string, GatewayRoute>();
  for (const kind of ["GRPCRoute", "HTTPRoute"]) {
    for (const [name, route] of pick<GatewayRoute>(kind)) gatewayRoutes.set(`${kind}/${name}`, route);
  }
  return {
    config: pick<MeshConfig>("MeshConfig").get("default"),
    policies,
    roles: pick("MeshRole"),
    bindings: pick("MeshRoleBinding"),
    externalServices: pick("ExternalService"),
    catalogs: pick("OperationCatalog"),
    meshGateways: pick("MeshGateway"),
    routePolicies: pick("RoutePolicy"),
    trafficPolicies: pick("TrafficPolicy"),
    gatewayRoutes,
    workloads: pick("Workload"),
  };
}

/** Lays restored content over live states; keeps objects the same while their input is the same. */
export class Overlay {
  readonly #content: RestoredContent;
  #live: ReadonlyMap<string, Workload> | undefined;
  #workloads: ReadonlyMap<string, Workload> = new Map();
  #declared: ReadonlyMap<string, MeshService> = new Map();
  #services:
    | {
        readonly live: ReadonlyMap<string, MeshService>;
        readonly workloads: unknown;
        readonly merged: ReadonlyMap<string, MeshService>;
      }
    | undefined;
  #config: { readonly live: MeshConfig; readonly merged: MeshConfig } | undefined;

  constructor(content: RestoredContent) {
    this.#content = content;
  }

  /**
   * The state to publish: policies, routes, gateways, roles, bindings, external services, catalogs and configuration (but for the trust
   * domain and external roots) of the restored revision; workloads, namespaces, identity providers and grants as they are now, with the ports and propagation
   * that they had then.
   */
  apply(live: ClusterState): ClusterState {
    // Every map of the content takes the place of the live one, but for what is merged below.
    const { config: _config, workloads: _workloads, ...restored } = this.#content;
    const workloads = this.#mergeWorkloads(live.workloads);
    return {
      ...live,
      ...restored,
      config: this.#mergeConfig(live.config),
      workloads,
      services: this.#mergeServices(live.services, workloads),
    };
  }

  /** What declared workloads serve follows their restored ports; Services of a cluster are as they are now. */
  #mergeServices(
    live: ReadonlyMap<string, MeshService>,
    workloads: ReadonlyMap<string, Workload>,
  ): ReadonlyMap<string, MeshService> {
    const before = this.#services;
    if (before?.live === live && before.workloads === workloads) return before.merged;
    const declared = new Map([...workloads].filter(([key]) => isDeclared(key)));
    this.#declared = servicesOfWorkloads(declared, this.#declared);
    const merged = new Map(live);
    for (const [id, service] of this.#declared)
      if (live.get(id)?.endpoints.every((endpoint) => isDeclared(endpoint.workload))) merged.set(id, service);
    this.#services = { live, workloads, merged };
    return merged;
  }

  #mergeConfig(live: MeshConfig): MeshConfig {
    if (this.#config?.live === live) return this.#config.merged;
    const { trustDomain, externalRoots } = live;
    // Who is trusted is no matter of policy: an authority that was withdrawn must not come back.
    const merged = { ...(this.#content.config ?? live), trustDomain, externalRoots };
    this.#config = { live, merged };
    return merged;
  }

  #mergeWorkloads(live: ReadonlyMap<string, Workload>): ReadonlyMap<string, Workload> {
    if (this.#live === live) return this.#workloads;
    const merged = new Map<string, Workload>();
    for (const [id, workload] of live) {
      const before = this.#live?.get(id) === workload ? this.#workloads.get(id) : undefined;
      merged.set(id, before ?? this.#mergeWorkload(id, workload));
    }
    this.#live = live;
    this.#workloads = merged;
    return merged;
  }

  #mergeWorkload(id: string, live: Workload): Workload {
    const then = this.#content.workloads.get(id);
    if (!then) return live;
    const same =
      objectText({ p: then.ports, q: then.propagation }) ===
      objectText({ p: live.ports, q: live.propagation });
    return same ? live : { ...live, ports: then.ports, propagation: then.propagation };
  }
}
