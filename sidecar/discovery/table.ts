// The table of one sidecar: everything it was told, as one readonly value that is swapped whole.
import type { Gateway } from "../core/gateway/gateway.ts";
import type { Revocations } from "../core/identity/revocations.ts";
import type { ProgramPort, WorkloadProgram } from "../core/policy/rule.ts";
import type { ServiceRoute } from "../core/traffic/route.ts";

export interface ServicePort extends ProgramPort {
  /** The application's port behind it; undefined: the same. */
  readonly targetPort?: number;
}

export interface MeshService {
  /** `namespace/name`. */
  readonly id: string;
  /** Lower-case host names without port that mean this service, e.g. `fraud-scorer.ml-serving`. */
  readonly hosts: readonly string[];
  /** IP addresses of the service itself (cluster IPs); none outside Kubernetes and for a headless one. */
  readonly addresses?: readonly string[];
  readonly ports: readonly ServicePort[];
  /** Operations, and all below them, that take each proof once; `*`: every one. */
  readonly freshProofs?: readonly string[];
}

export interface MeshEndpoint {
  readonly address: string;
  readonly meshPort: number;
  /** The callee's SPIFFE ID: checked against its certificate, and the audience of the proof. */
  readonly spiffeId: string;
  readonly ports: readonly ProgramPort[];
  /** Where it runs; undefined: not known. */
  readonly zone?: string;
}

/** Hosts outside the mesh that one ExternalService names. */
export interface ExternalHosts {
  /** `namespace/name`. */
  readonly id: string;
  /** Lower case, without port. */
  readonly hosts: readonly string[];
  /** What is decided by, at the caller; its one port is that of the hosts. */
  readonly program: WorkloadProgram;
  /** What is spoken without TLS; undefined: TLS, and what the host chooses. */
  readonly plaintext?: "http" | "h2c";
}

export interface MeshSettings {
  readonly trustDomain: string;
  readonly outbound: "Deny" | "Allow";
  readonly proofs: "Optional" | "Required";
  readonly mtls: "Strict" | "Permissive";
  readonly maxHops: number;
  readonly explainDenials: boolean;
  readonly cluster: string;
  /** Authorities that vouch for hosts outside the mesh, beside the usual ones; a PEM for each. */
  readonly externalRoots?: readonly string[];
  /** Facts about the own workload that the sidecar needs. */
  readonly propagation: readonly ("trace" | "session" | "forward" | "none")[];
}

export interface OperationPack {
  readonly name: string;
  /** Catalog text as in DOMAIN 1.4. */
  readonly text: string;
}

export interface SidecarTable {
  readonly revision: number;
  /** `tableDigest` of all resources (proto/protocol.ts). */
  readonly digest: string;
  readonly program: WorkloadProgram;
  /** By host name (lower case, no port). */
  readonly servicesByHost: ReadonlyMap<string, MeshService>;
  readonly services: ReadonlyMap<string, MeshService>;
  /** By service id. */
  readonly endpoints: ReadonlyMap<string, readonly MeshEndpoint[]>;
  /** By service id; most services have none. */
  readonly routes: ReadonlyMap<string, ServiceRoute>;
  readonly packs: ReadonlyMap<string, OperationPack>;
  /** JWKS document of the own trust domain. */
  readonly trustBundle: string;
  readonly settings: MeshSettings;
  /** By id; undefined: none may be called. */
  readonly externals?: ReadonlyMap<string, ExternalHosts>;
  /** What a gateway is to be; undefined: this workload is none, or has no MeshGateway. */
  readonly gateway?: Gateway;
  readonly revocations: Revocations;
}
