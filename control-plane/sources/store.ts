// The state of the cluster as the compiler sees it: one readonly value per change, whichever source it came from.

import type {
  Gateway,
  GatewayRoute as GatewayFrontRoute,
  GatewayIdp,
} from "../../sidecar/core/gateway/gateway.ts";
import type { WorkloadKind } from "../../sidecar/core/policy/call.ts";
import type { OperationClause, ProgramPort } from "../../sidecar/core/policy/rule.ts";
import type { RouteRule } from "../../sidecar/core/traffic/route.ts";
import type { TrafficSettings } from "../../sidecar/core/traffic/traffic.ts";
import type { AccessPolicy, LabelSelector, TargetMatch } from "../policy/access-policy.ts";

export interface Workload {
  readonly name: string;
  readonly namespace: string;
  readonly kind: WorkloadKind;
  readonly serviceAccount: string;
  readonly labels: ReadonlyMap<string, string>;
  readonly addresses: readonly string[];
  /** TCP port of its sidecar's mTLS listener; 16008 in a cluster. */
  readonly meshPort: number;
  /** Name of the service it is reached by; undefined: cannot be called. */
  readonly service: string | undefined;
  readonly ports: readonly ProgramPort[];
  readonly propagation: readonly ("trace" | "session" | "forward" | "none")[];
  readonly owner: string | undefined;
  readonly env: string | undefined;
  readonly runAs: string | undefined;
  /** Where it runs; of pods see `MeshPod.zone`. */
  readonly zone?: string | undefined;
  readonly generation: number;
}

/** A port of a service: what callers name, and what the workload behind it listens on. */
export interface ServicePort extends ProgramPort {
  readonly targetPort: number;
}

/** A workload's address behind a service. */
export interface ServiceEndpoint {
  readonly address: string;
  /** TCP port of the sidecar's mTLS listener. */
  readonly meshPort: number;
  /** Key in `ClusterState.workloads`. */
  readonly workload: string;
  /** undefined: not known. */
  readonly zone?: string | undefined;
}

/**
 * What callers name: a Kubernetes Service, the `service` of Workload objects, or the pods of a workload that no Service
 * selects (`name` is then `{kind}:{name}`, which no Service can have, and it is reached by pod address only).
 */
export interface MeshService {
  readonly namespace: string;
  readonly name: string;
  /** Cluster IPs; none for a headless Service and outside Kubernetes. */
  readonly addresses: readonly string[];
  readonly ports: readonly ServicePort[];
  /** Keys of the workloads behind it, those whose pods are not ready too: whoever may call one of them knows the service. */
  readonly members: readonly string[];
  /** Where a call can go now. */
  readonly endpoints: readonly ServiceEndpoint[];
}

/** A pod with a sidecar, or one that should have one. */
export interface MeshPod {
  readonly uid: string;
  readonly namespace: string;
  readonly name: string;
  readonly serviceAccount: string;
  readonly node: string;
  /** Of its node, as EndpointSlices say; undefined: not known. */
  readonly zone?: string | undefined;
  readonly addresses: readonly string[];
  readonly ready: boolean;
  /** Its kubelet's last word is that it can serve: counts where no pod of a Service is ready. Absent: no. */
  readonly serving?: boolean | undefined;
  /** Whether it has the sidecar's container. */
  readonly injected: boolean;
  /** Its own label `countersign.dev/inject`, which beats its namespace's. */
  readonly inject?: string | undefined;
  /** Key in `ClusterState.workloads`; undefined for a pod without sidecar. */
  readonly workload: string | undefined;
}

export interface NamespaceOverride {
  readonly selector: LabelSelector;
  readonly names: readonly string[] | undefined;
  readonly mtls: "Strict" | "Permissive" | undefined;
  readonly defaultAction: "Allow" | "Deny" | undefined;
}

export interface MeshConfig {
  readonly trustDomain: string;
  readonly defaultAction: "Allow" | "Deny";
  readonly mtls: "Strict" | "Permissive";
  readonly outbound: "Deny" | "Allow";
  readonly proofs: "Optional" | "Required";
  readonly maxHops: number;
  readonly svidTtlMs: number;
  readonly txnTtlMs: number;
  readonly trustedSpawners: readonly string[];
  readonly protectedLabels: readonly string[];
  readonly gateways: readonly string[];
  readonly explainDenials: boolean;
  /** Authorities (PEM) that vouch for hosts outside the mesh, beside the usual ones. */
  readonly externalRoots?: string | undefined;
  readonly namespaces: readonly NamespaceOverride[];
}

export interface MeshRole {
  readonly name: string;
  /** Role-carried Allow rules; empty for a role that is only a label. */
  readonly rules: readonly {
    readonly operations: readonly OperationClause[];
    readonly targets: readonly TargetMatch[] | undefined;
  }[];
}

export interface MeshRoleBinding {
  readonly name: string;
  readonly roles: readonly string[];
  readonly namespaces: readonly string[] | undefined;
  readonly subjects: readonly {
    readonly idp?: string | undefined;
    readonly group?: string | undefined;
    readonly groupId?: string | undefined;
    readonly claim?: string | undefined;
    readonly user?: string | undefined;
    readonly servicePrincipal?: string | undefined;
    readonly serviceAccount?: string | undefined;
  }[];
}

export interface AccessGrant {
  readonly name: string;
  readonly namespace: string;
  readonly subject: { readonly user?: string | undefined; readonly workload?: string | undefined };
  readonly operations: readonly OperationClause[] | undefined;
  readonly roles: readonly string[] | undefined;
  readonly targets: readonly TargetMatch[] | undefined;
  readonly durationMs: number;
  readonly reason: string;
  readonly phase: "Pending" | "Approved" | "Active" | "Expired" | "Revoked" | "Rejected";
  /** Unix milliseconds, set while Approved or Active. */
  readonly activeFromMs: number | undefined;
  readonly activeUntilMs: number | undefined;
}

export interface ExternalService {
  readonly name: string;
  readonly namespace: string;
  readonly hosts: readonly string[];
  readonly port: number;
  readonly packs: readonly string[];
  /** What is spoken without TLS; undefined: TLS, and what the host chooses. */
  readonly plaintext?: "http" | "h2c" | undefined;
}

/** With `oidc`, the only type that works. */
export interface IdentityProvider extends GatewayIdp {
  /** Of the groups; dots lead into objects where no claim has the whole name. */
  readonly groupsClaim: string;
  /** Only access tokens of service principals have it, and its value is their id; undefined: there are none. */
  readonly servicePrincipalClaim: string | undefined;
  readonly generation: number;
}

/** A host for each notebook with an owner. */
export interface NotebookHosts {
  readonly name: string;
  /** `{name}` is the workload's name. */
  readonly hostPattern: string;
  /** Exact, or a prefix that ends in `*`. */
  readonly namespaces: readonly string[];
  readonly port: number | undefined;
  readonly stepUp: GatewayFrontRoute["stepUp"];
}

/** A gateway as it is written: with names of identity providers and backends that may not exist. */
export interface MeshGateway extends Omit<Gateway, "id" | "idps"> {
  readonly kind: "MeshGateway";
  readonly name: string;
  readonly namespace: string;
  readonly generation: number;
  /** Name of the workload of kind `gateway`, in its namespace, that it is for. */
  readonly workload: string;
  readonly identityProviders: readonly string[];
  readonly notebooks: readonly NotebookHosts[];
}

export interface OperationCatalog {
  readonly name: string;
  readonly packs: readonly { readonly name: string; readonly text: string }[];
}

/** Where the calls to one service go; several for one service count one after the other, by name. */
export interface RoutePolicy {
  readonly kind: "RoutePolicy";
  readonly name: string;
  readonly namespace: string;
  readonly generation: number;
  /** `namespace/name` of the service that callers name. */
  readonly service: string;
  /** As callers' sidecars get them; their backends may not exist. */
  readonly rules: readonly RouteRule[];
}

/** A HTTPRoute or GRPCRoute (gateway.networking.k8s.io) with Services as parents; none outside Kubernetes. */
export interface GatewayRoute {
  readonly kind: "HTTPRoute" | "GRPCRoute";
  readonly name: string;
  readonly namespace: string;
  readonly generation: number;
  /** Of its creation, Unix milliseconds: of two that match alike the older counts. */
  readonly createdAtMs: number;
  /** The Services whose calls it routes. */
  readonly parents: readonly {
    /** `namespace/name`. */
    readonly service: string;
    /** undefined: every port. */
    readonly port: number | undefined;
  }[];
  /** One per match, in the order of the route. */
  readonly rules: readonly RouteRule[];
}

/** How the calls to the services of some workloads are carried. */
export interface TrafficPolicy {
  readonly kind: "TrafficPolicy";
  readonly name: string;
  readonly namespace: string;
  readonly generation: number;
  /** undefined: every workload of the namespace. */
  readonly targets: readonly TargetMatch[] | undefined;
  /** undefined fields are for other policies to state. */
  readonly settings: StatedTraffic;
}

/** `TrafficSettings` where `preferZone` may be left open, too. */
export type StatedTraffic = Omit<TrafficSettings, "preferZone"> & {
  readonly preferZone: boolean | undefined;
};

/**
 * Keys of all maps: `namespace/name`, or `name` for a cluster-scoped kind; policies `kind/namespace/name` or `kind/name`;
 * workloads that are pods `namespace/serviceAccount/kind/name` (see sources/kubernetes/pods.ts); pods their UID.
 */
export interface ClusterState {
  /** Grows with every state. */
  readonly revision: number;
  readonly config: MeshConfig;
  readonly policies: ReadonlyMap<string, AccessPolicy>;
  readonly workloads: ReadonlyMap<string, Workload>;
  readonly services: ReadonlyMap<string, MeshService>;
  /** Empty outside Kubernetes. */
  readonly pods: ReadonlyMap<string, MeshPod>;
  readonly roles: ReadonlyMap<string, MeshRole>;
  readonly bindings: ReadonlyMap<string, MeshRoleBinding>;
  readonly grants: ReadonlyMap<string, AccessGrant>;
  readonly externalServices: ReadonlyMap<string, ExternalService>;
  readonly catalogs: ReadonlyMap<string, OperationCatalog>;
  readonly identityProviders: ReadonlyMap<string, IdentityProvider>;
  readonly meshGateways: ReadonlyMap<string, MeshGateway>;
  readonly routePolicies: ReadonlyMap<string, RoutePolicy>;
  readonly trafficPolicies: ReadonlyMap<string, TrafficPolicy>;
  /** By `kind/namespace/name`. */
  readonly gatewayRoutes: ReadonlyMap<string, GatewayRoute>;
  /** Labels of namespaces; in directory mode empty unless a namespace is declared. */
  readonly namespaces: ReadonlyMap<string, ReadonlyMap<string, string>>;
}
