// From compiled policies and cluster state to discovery resources. PURE. A resource is encoded once, here, and the same
// bytes go to every sidecar that needs it.
import type { Service } from "../../proto/gen/countersign/mesh/v1/Service.ts";
import type { Settings } from "../../proto/gen/countersign/mesh/v1/Settings.ts";
import { messageCodec } from "../../proto/load.ts";
import {
  hashBody,
  lengthDelimited,
  type ResourceType,
  resourceKey,
  tableDigest,
} from "../../proto/protocol.ts";
import type { RevocationEntry } from "../../sidecar/core/identity/revocations.ts";
import { formatSpiffeId, type SpiffeId } from "../../sidecar/core/identity/spiffe-id.ts";
import type { ProgramPort, WorkloadProgram } from "../../sidecar/core/policy/rule.ts";
import { encodeProgram } from "../../sidecar/core/policy/wire.ts";
import type { ClusterState, MeshConfig, MeshService, Workload } from "../sources/store.ts";

export interface BuiltResource {
  /** `type/name`. */
  readonly key: string;
  readonly type: ResourceType;
  readonly name: string;
  /** Hex SHA-256 of the body. */
  readonly hash: string;
  /** What a receiver must know to use it. */
  readonly features: readonly string[];
  /** The `Resource` message, tagged and length-prefixed as field 5 of a `Delta`: chunks are made by joining these. */
  readonly encoded: Buffer;
}

/** What one sidecar is to have. */
export interface WorkloadTable {
  readonly digest: string;
  /** By key. */
  readonly resources: ReadonlyMap<string, BuiltResource>;
}

const resourceCodec = messageCodec("countersign.mesh.v1.Resource");
const serviceCodec = messageCodec<Service>("countersign.mesh.v1.Service");
const endpointsCodec = messageCodec("countersign.mesh.v1.Endpoints");
const settingsCodec = messageCodec<Settings>("countersign.mesh.v1.Settings");
const bundleCodec = messageCodec("countersign.mesh.v1.TrustBundle");
const revocationsCodec = messageCodec("countersign.mesh.v1.Revocations");
const packCodec = messageCodec("countersign.mesh.v1.OperationPack");

/** Field number of `Delta.upsert`. */
const UPSERT_FIELD = 5;

/** Wraps an encoded body. */
export function createResource(
  type: ResourceType,
  name: string,
  body: Buffer,
  features: readonly string[] = [],
): BuiltResource {
  const hash = hashBody(body);
  const message = resourceCodec.encode({ type, name, hash: Buffer.from(hash, "hex"), body, features });
  return {
    key: resourceKey(type, name),
    type,
    name,
    hash,
    features,
    encoded: lengthDelimited(UPSERT_FIELD, message),
  };
}

/** @param encode one that keeps bytes of policies pays where programs are built again and again. */
export function buildProgram(
  program: WorkloadProgram,
  encode: (program: WorkloadProgram) => Buffer = encodeProgram,
): BuiltResource {
  return createResource("workload-program", program.id, encode(program), program.features);
}

/** Host names without port that mean a service: those that Kubernetes DNS would give it outside its namespace. */
export function serviceHosts(serviceId: string): string[] {
  const [namespace = "", name = ""] = serviceId.split("/");
  return [`${name}.${namespace}`, `${name}.${namespace}.svc`, `${name}.${namespace}.svc.cluster.local`];
}

function portMessages(
  ports: readonly (ProgramPort & { readonly targetPort?: number })[],
): { port: number; protocol: string; packs: string[]; targetPort: number }[] {
  return ports.map(({ port, protocol, packs, targetPort = port }) => ({
    port,
    protocol,
    packs: [...packs],
    targetPort: targetPort === port ? 0 : targetPort,
  }));
}

/** @param freshProofs see `freshProofsOf`, of all workloads behind it. */
export function buildService(
  serviceId: string,
  service: MeshService,
  freshProofs: readonly string[] = [],
): BuiltResource {
  const body = serviceCodec.encode({
    id: serviceId,
    // A workload's own pods are reached by their addresses alone.
    hosts: service.name.includes(":") ? [] : serviceHosts(serviceId),
    ports: portMessages(service.ports),
    addresses: [...service.addresses],
    freshProofs: [...freshProofs],
  });
  return createResource("service", serviceId, body);
}

export function buildEndpoints(
  serviceId: string,
  service: MeshService,
  workloads: ReadonlyMap<string, Workload>,
  trustDomain: string,
): BuiltResource {
  const endpoints = service.endpoints.flatMap(({ address, meshPort, workload, zone = "" }) => {
    const member = workloads.get(workload);
    return member
      ? [
          {
            address,
            meshPort,
            spiffeId: spiffeIdOf(member, trustDomain),
            ports: portMessages(member.ports),
            zone,
          },
        ]
      : [];
  });
  return createResource("endpoints", serviceId, endpointsCodec.encode({ service: serviceId, endpoints }));
}

/** SPIFFE ID of a workload (DESIGN section 1). */
export function spiffeIdOf(workload: Workload, trustDomain: string): SpiffeId {
  const { namespace, serviceAccount, kind, name } = workload;
  return formatSpiffeId({ trustDomain, namespace, serviceAccount, kind, name });
}

export function buildTrustBundle(trustDomain: string, json: string): BuiltResource {
  return createResource("trust-bundle", trustDomain, bundleCodec.encode({ json }));
}

/** Of the one resource that tells what is revoked; there is none while nothing is. */
export const REVOCATIONS_KEY = "revocations/mesh";

export function buildRevocations(revocations: readonly RevocationEntry[]): BuiltResource {
  const entries: object[] = [];
  const tokens: object[] = [];
  for (const { spiffeId, pod, user = "", session = "", beforeMs: beforeUnixMs } of revocations)
    if (user === "" && session === "") entries.push({ spiffeId, pod, beforeUnixMs });
    else tokens.push({ user, session, beforeUnixMs });
  return createResource("revocations", "mesh", revocationsCodec.encode({ entries, tokens }));
}

export function buildPack(name: string, text: string): BuiltResource {
  return createResource("operation-pack", name, packCodec.encode({ name, text }));
}

function matchesLabels(
  selector: MeshConfig["namespaces"][number]["selector"],
  labels: ReadonlyMap<string, string>,
): boolean {
  for (const [key, value] of selector.matchLabels ?? []) if (labels.get(key) !== value) return false;
  for (const { key, operator, values } of selector.matchExpressions ?? []) {
    const value = labels.get(key);
    const holds =
      operator === "Exists"
        ? value !== undefined
        : operator === "DoesNotExist"
          ? value === undefined
          : operator === "In"
            ? value !== undefined && values.includes(value)
            : value === undefined || !values.includes(value);
    if (!holds) return false;
  }
  return true;
}

/** Mode of a namespace: Strict unless the mesh or a matching override says Permissive; the first override with a word wins. */
function mtlsOf(state: ClusterState, namespace: string): "Strict" | "Permissive" {
  const labels = state.namespaces.get(namespace) ?? new Map<string, string>();
  for (const override of state.config.namespaces) {
    if (override.mtls === undefined) continue;
    const selected = override.names
      ? override.names.includes(namespace)
      : matchesLabels(override.selector, labels);
    if (selected) return override.mtls;
  }
  return state.config.mtls;
}

/** Settings are named for what differs between workloads, so that equal ones are one resource. */
export function settingsName(state: ClusterState, workload: Workload): string {
  return `${mtlsOf(state, workload.namespace).toLowerCase()}.${[...workload.propagation].sort().join("-") || "default"}`;
}

export function buildSettings(state: ClusterState, workload: Workload, cluster: string): BuiltResource {
  const { config } = state;
  const body = settingsCodec.encode({
    trustDomain: config.trustDomain,
    outbound: config.outbound,
    proofs: config.proofs,
    mtls: mtlsOf(state, workload.namespace),
    maxHops: config.maxHops,
    explainDenials: config.explainDenials,
    cluster,
    propagation: [...workload.propagation].sort(),
    ...(config.externalRoots === undefined ? {} : { externalRoots: config.externalRoots }),
  });
  return createResource("settings", settingsName(state, workload), body);
}

/** Makes a table of resources; their order does not matter. */
export function createTable(resources: Iterable<BuiltResource>): WorkloadTable {
  const byKey = new Map<string, BuiltResource>();
  for (const resource of resources) byKey.set(resource.key, resource);
  return { digest: tableDigest(byKey.values()), resources: byKey };
}
