// From resource bodies to the values of a SidecarTable. PURE. The bytes come from the control plane and are checked all
// the same: whatever cannot be used in full is refused, and the sender learns why through the NACK.
import type { Endpoints__Output } from "../../proto/gen/countersign/mesh/v1/Endpoints.ts";
import type { External__Output } from "../../proto/gen/countersign/mesh/v1/External.ts";
import type { OperationPack__Output } from "../../proto/gen/countersign/mesh/v1/OperationPack.ts";
import type { ResourcePort__Output } from "../../proto/gen/countersign/mesh/v1/ResourcePort.ts";
import type { Revocations__Output } from "../../proto/gen/countersign/mesh/v1/Revocations.ts";
import type { Service__Output } from "../../proto/gen/countersign/mesh/v1/Service.ts";
import type { Settings__Output } from "../../proto/gen/countersign/mesh/v1/Settings.ts";
import type { TrustBundle__Output } from "../../proto/gen/countersign/mesh/v1/TrustBundle.ts";
import { messageCodec } from "../../proto/load.ts";
import { RESOURCE_TYPES } from "../../proto/protocol.ts";
import type { Gateway } from "../core/gateway/gateway.ts";
import { parseAuthorities } from "../core/identity/authorities-pem.ts";
import { type RevocationEntry, Revocations } from "../core/identity/revocations.ts";
import { parseTrustBundle } from "../core/identity/trust-bundle.ts";
import { PORT_PROTOCOLS, type ProgramPort, type WorkloadProgram } from "../core/policy/rule.ts";
import { decodeProgram } from "../core/policy/wire.ts";
import { messageOf, type Result } from "../core/runtime/errors.ts";
import type { ServiceRoute } from "../core/traffic/route.ts";
import { decodeGateway } from "./decode-gateway.ts";
import { decodeRoute } from "./decode-route.ts";
import { oneOf, portNumber } from "./resource-checks.ts";
import type {
  ExternalHosts,
  MeshEndpoint,
  MeshService,
  MeshSettings,
  OperationPack,
  ServicePort,
  SidecarTable,
} from "./table.ts";

export type DecodedResource =
  | { readonly kind: "workload-program"; readonly value: WorkloadProgram }
  | { readonly kind: "service"; readonly value: MeshService }
  | { readonly kind: "endpoints"; readonly service: string; readonly value: readonly MeshEndpoint[] }
  | { readonly kind: "route"; readonly value: ServiceRoute }
  | { readonly kind: "gateway"; readonly value: Gateway }
  | { readonly kind: "external"; readonly value: ExternalHosts }
  | { readonly kind: "settings"; readonly value: MeshSettings }
  | { readonly kind: "trust-bundle"; readonly value: string }
  | { readonly kind: "operation-pack"; readonly value: OperationPack }
  | { readonly kind: "revocations"; readonly value: readonly RevocationEntry[] };

const serviceCodec = messageCodec<object, Service__Output>("countersign.mesh.v1.Service");
const endpointsCodec = messageCodec<object, Endpoints__Output>("countersign.mesh.v1.Endpoints");
const settingsCodec = messageCodec<object, Settings__Output>("countersign.mesh.v1.Settings");
const externalCodec = messageCodec<object, External__Output>("countersign.mesh.v1.External");
const bundleCodec = messageCodec<object, TrustBundle__Output>("countersign.mesh.v1.TrustBundle");
const packCodec = messageCodec<object, OperationPack__Output>("countersign.mesh.v1.OperationPack");
const revocationsCodec = messageCodec<object, Revocations__Output>("countersign.mesh.v1.Revocations");

const HOST = /^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/;
const ADDRESS = /^[0-9A-Za-z.:_%-]{1,253}$/;
const IP_ADDRESS = /^[0-9a-fA-F:.]{2,45}$/;
const PROPAGATION = ["trace", "session", "forward", "none"] as const;

function decodePorts(ports: readonly ResourcePort__Output[]): ProgramPort[] {
  const seen = new Set<number>();
  return ports.map((port) => {
    if (seen.has(port.port)) throw new Error(`port \`${port.port}\` is listed twice`);
    seen.add(port.port);
    return {
      port: portNumber(port.port, "port"),
      protocol: oneOf(PORT_PROTOCOLS, port.protocol, "protocol"),
      packs: port.packs,
    };
  });
}

function decodeServicePorts(ports: readonly ResourcePort__Output[]): ServicePort[] {
  return decodePorts(ports).map((port, index) => {
    const target = ports[index]?.targetPort ?? 0;
    return target === 0 ? port : { ...port, targetPort: portNumber(target, "target port") };
  });
}

function named(name: string, inside: string): void {
  if (name !== inside) throw new Error(`body is about \`${inside.slice(0, 128)}\``);
}

function decodeService(name: string, body: Buffer): DecodedResource {
  const message = serviceCodec.decode(body);
  named(name, message.id);
  // Without any it is reached by address alone: the pods of a workload that no Service selects.
  for (const host of message.hosts)
    if (!HOST.test(host)) throw new Error(`host \`${host.slice(0, 128)}\` is not a lower-case host name`);
  for (const address of message.addresses)
    if (!IP_ADDRESS.test(address))
      throw new Error(`address \`${address.slice(0, 64)}\` is not an IP address`);
  return {
    kind: "service",
    value: {
      id: name,
      hosts: message.hosts,
      addresses: message.addresses,
      ports: decodeServicePorts(message.ports),
      ...(message.freshProofs.length === 0 ? {} : { freshProofs: message.freshProofs }),
    },
  };
}

function decodeEndpoints(name: string, body: Buffer): DecodedResource {
  const message = endpointsCodec.decode(body);
  named(name, message.service);
  const value = message.endpoints.map((endpoint) => {
    if (!ADDRESS.test(endpoint.address)) throw new Error("endpoint has no usable address");
    if (!endpoint.spiffeId.startsWith("spiffe://")) throw new Error("endpoint has no SPIFFE ID");
    return {
      address: endpoint.address,
      meshPort: portNumber(endpoint.meshPort, "mesh port"),
      spiffeId: endpoint.spiffeId,
      ports: decodePorts(endpoint.ports),
      ...(endpoint.zone === "" ? {} : { zone: endpoint.zone }),
    };
  });
  return { kind: "endpoints", service: name, value };
}

function authoritiesOf(pem: string): readonly string[] {
  const parsed = parseAuthorities(pem);
  if (!parsed.ok) throw new Error(`external roots: the text ${parsed.error}`);
  return parsed.value;
}

function decodeSettings(body: Buffer): DecodedResource {
  const message = settingsCodec.decode(body);
  if (message.trustDomain === "") throw new Error("settings name no trust domain");
  if (message.maxHops < 1) throw new Error("settings have no limit of hops");
  return {
    kind: "settings",
    value: {
      trustDomain: message.trustDomain,
      outbound: oneOf(["Deny", "Allow"], message.outbound, "outbound"),
      proofs: oneOf(["Optional", "Required"], message.proofs, "proofs"),
      mtls: oneOf(["Strict", "Permissive"], message.mtls, "mtls"),
      maxHops: message.maxHops,
      explainDenials: message.explainDenials,
      cluster: message.cluster,
      propagation: message.propagation.map((mode) => oneOf(PROPAGATION, mode, "propagation")),
      ...(message.externalRoots === "" ? {} : { externalRoots: authoritiesOf(message.externalRoots) }),
    },
  };
}

function decodeWorkloadProgram(name: string, body: Buffer): DecodedResource {
  const program = decodeProgram(body);
  if (!program.ok) throw new Error(program.error);
  named(name, program.value.id);
  return { kind: "workload-program", value: program.value };
}

function decodeExternal(name: string, body: Buffer): ExternalHosts {
  const message = externalCodec.decode(body);
  named(name, message.id);
  const program = decodeProgram(message.program);
  if (!program.ok) throw new Error(program.error);
  if (program.value.ports.length !== 1) throw new Error("external service has not one port");
  if (message.hosts.length === 0) throw new Error("external service has no host");
  for (const host of message.hosts)
    if (!HOST.test(host)) throw new Error(`host \`${host.slice(0, 128)}\` is not a lower-case host name`);
  const { hosts, plaintext } = message;
  if (plaintext === "") return { id: name, hosts, program: program.value };
  // Never TLS where it is not known what else was meant, and never plaintext either.
  if (plaintext !== "http" && plaintext !== "h2c")
    throw new Error(`plaintext protocol \`${plaintext.slice(0, 32)}\` is not known`);
  return { id: name, hosts, program: program.value, plaintext };
}

function decodeBundle(name: string, body: Buffer): DecodedResource {
  const { json } = bundleCodec.decode(body);
  const parsed = parseTrustBundle(json, name);
  if (!parsed.ok) throw new Error(parsed.error);
  return { kind: "trust-bundle", value: json };
}

function decodePack(name: string, body: Buffer): DecodedResource {
  const message = packCodec.decode(body);
  named(name, message.name);
  return { kind: "operation-pack", value: { name, text: message.text } };
}

function decodeRevocations(body: Buffer): DecodedResource {
  const { entries, tokens } = revocationsCodec.decode(body);
  // A subject that this build does not know would be let through.
  const check = (one: string, other: string, beforeUnixMs: number): void => {
    if ((one === "") === (other === "")) throw new Error("revocation has no subject, or two");
    if (beforeUnixMs < 1) throw new Error("revocation has no epoch");
  };
  const value: RevocationEntry[] = entries.map(({ spiffeId, pod, beforeUnixMs }) => {
    check(spiffeId, pod, beforeUnixMs);
    return { spiffeId, pod, beforeMs: beforeUnixMs };
  });
  for (const { user, session, beforeUnixMs } of tokens) {
    check(user, session, beforeUnixMs);
    value.push({ spiffeId: "", pod: "", user, session, beforeMs: beforeUnixMs });
  }
  return { kind: "revocations", value };
}

/**
 * Decodes one resource.
 *
 * @returns the value, or one line that says why it cannot be used; a type that this build does not know is refused.
 */
export function decodeResource(type: string, name: string, body: Buffer): Result<DecodedResource, string> {
  try {
    const known = RESOURCE_TYPES.find((one) => one === type);
    switch (known) {
      case "workload-program":
        return { ok: true, value: decodeWorkloadProgram(name, body) };
      case "service":
        return { ok: true, value: decodeService(name, body) };
      case "endpoints":
        return { ok: true, value: decodeEndpoints(name, body) };
      case "route":
        return { ok: true, value: { kind: "route", value: decodeRoute(name, body) } };
      case "gateway":
        return { ok: true, value: { kind: "gateway", value: decodeGateway(name, body) } };
      case "external":
        return { ok: true, value: { kind: "external", value: decodeExternal(name, body) } };
      case "settings":
        return { ok: true, value: decodeSettings(body) };
      case "trust-bundle":
        return { ok: true, value: decodeBundle(name, body) };
      case "operation-pack":
        return { ok: true, value: decodePack(name, body) };
      case "revocations":
        return { ok: true, value: decodeRevocations(body) };
      default:
        return { ok: false, error: `resource type \`${type.slice(0, 64)}\` is not known to this build` };
    }
  } catch (error) {
    return { ok: false, error: messageOf(error) };
  }
}

/** Puts decoded resources together; they must be complete and must not contradict each other. */
export function assembleTable(
  resources: Iterable<DecodedResource>,
  revision: number,
  digest: string,
): Result<SidecarTable, string> {
  let program: WorkloadProgram | undefined;
  let settings: MeshSettings | undefined;
  let trustBundle: string | undefined;
  let gateway: Gateway | undefined;
  const services = new Map<string, MeshService>();
  const servicesByHost = new Map<string, MeshService>();
  const endpoints = new Map<string, readonly MeshEndpoint[]>();
  const routes = new Map<string, ServiceRoute>();
  const externals = new Map<string, ExternalHosts>();
  const packs = new Map<string, OperationPack>();
  const revoked: RevocationEntry[] = [];
  for (const resource of resources) {
    switch (resource.kind) {
      case "workload-program":
        if (program) return { ok: false, error: "table holds two programs" };
        program = resource.value;
        break;
      case "settings":
        if (settings) return { ok: false, error: "table holds two settings" };
        settings = resource.value;
        break;
      case "trust-bundle":
        if (trustBundle !== undefined) return { ok: false, error: "table holds two trust bundles" };
        trustBundle = resource.value;
        break;
      case "gateway":
        if (gateway) return { ok: false, error: "table holds two gateways" };
        gateway = resource.value;
        break;
      case "service":
        services.set(resource.value.id, resource.value);
        for (const host of resource.value.hosts) {
          const other = servicesByHost.get(host);
          if (other && other !== resource.value)
            return { ok: false, error: `host \`${host}\` means two services` };
          servicesByHost.set(host, resource.value);
        }
        break;
      case "endpoints":
        endpoints.set(resource.service, resource.value);
        break;
      case "route":
        routes.set(resource.value.service, resource.value);
        break;
      case "external":
        externals.set(resource.value.id, resource.value);
        break;
      case "operation-pack":
        packs.set(resource.value.name, resource.value);
        break;
      case "revocations":
        revoked.push(...resource.value);
        break;
    }
  }
  if (!program) return { ok: false, error: "table holds no program" };
  if (!settings) return { ok: false, error: "table holds no settings" };
  if (trustBundle === undefined) return { ok: false, error: "table holds no trust bundle" };
  if (settings.trustDomain !== program.trustDomain)
    return { ok: false, error: "settings and program name different trust domains" };
  if (gateway && program.kind !== "gateway")
    return { ok: false, error: "table holds a gateway for a workload that is none" };
  return {
    ok: true,
    value: {
      revision,
      digest,
      program,
      services,
      servicesByHost,
      endpoints,
      routes,
      packs,
      trustBundle,
      settings,
      ...(externals.size === 0 ? {} : { externals }),
      ...(gateway === undefined ? {} : { gateway }),
      revocations: revoked.length === 0 ? Revocations.none : new Revocations(revoked),
    },
  };
}
