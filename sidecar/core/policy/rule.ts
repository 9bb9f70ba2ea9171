// The rules of policies in the form that is parsed, compiled, sent to sidecars and evaluated: one vocabulary all the
// way. Lists that are `undefined` do not constrain; lists are never empty.
import type { AccessClass, WorkloadKind } from "./call.ts";

export type PolicyAction = "Allow" | "Deny" | "Audit";
export type Enforcement = "Enforce" | "DryRun";

/** A name, or a prefix when it ends in `*` (the only wildcard there is). */
export type NamePattern = string;

export interface WorkloadMatch {
  readonly kinds?: readonly WorkloadKind[] | undefined;
  readonly names?: readonly NamePattern[] | undefined;
  readonly namespaces?: readonly NamePattern[] | undefined;
  /** `name` or `namespace/name`. */
  readonly serviceAccounts?: readonly string[] | undefined;
  readonly trustDomains?: readonly string[] | undefined;
  readonly spiffeIds?: readonly string[] | undefined;
}

export interface UserMatch {
  readonly presence: "Required" | "Forbidden" | "Any";
  readonly ids?: readonly string[] | undefined;
  readonly roles?: readonly string[] | undefined;
  readonly idps?: readonly string[] | undefined;
  readonly types?: readonly ("person" | "servicePrincipal")[] | undefined;
}

export type HopMatch = Pick<WorkloadMatch, "kinds" | "names" | "namespaces" | "serviceAccounts">;

export interface ViaMatch {
  readonly origin?: HopMatch | undefined;
  readonly through?: HopMatch | undefined;
  /** Counts the caller. */
  readonly maxHops?: number | undefined;
}

/** One entry of `from` or `unless`; fields are AND. `any` stands alone. */
export interface FromClause {
  readonly any?: true | undefined;
  readonly workload?: WorkloadMatch | undefined;
  readonly user?: UserMatch | undefined;
  readonly via?: ViaMatch | undefined;
}

/** One entry of `operations`; fields are AND. `any` stands alone (also `unknown` operations). */
export interface OperationClause {
  readonly any?: true | undefined;
  /** Matches itself and everything below it at a dot. */
  readonly op?: string | undefined;
  readonly access?: readonly AccessClass[] | undefined;
  readonly resources?: readonly NamePattern[] | undefined;
  /** Paths: exact, or with a trailing `/**`. */
  readonly http?:
    | { readonly methods?: readonly string[] | undefined; readonly paths?: readonly string[] | undefined }
    | undefined;
  readonly grpc?:
    | { readonly service?: string | undefined; readonly methods?: readonly string[] | undefined }
    | undefined;
  readonly mcp?:
    | {
        readonly methods?: readonly string[] | undefined;
        readonly names?: readonly NamePattern[] | undefined;
      }
    | undefined;
}

export const WEEKDAYS = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"] as const;
export type Weekday = (typeof WEEKDAYS)[number];

export interface Schedule {
  /** IANA zone name. */
  readonly timeZone: string;
  readonly days?: readonly Weekday[] | undefined;
  /** `HH:MM`, inclusive; `to` exclusive; `to` before `from` spans midnight and belongs to the starting day. */
  readonly from?: string | undefined;
  readonly to?: string | undefined;
}

export interface When {
  readonly notBeforeMs?: number | undefined;
  /** Exclusive. */
  readonly notAfterMs?: number | undefined;
  readonly schedule?: Schedule | undefined;
  readonly environments?: readonly string[] | undefined;
  readonly sourceCidrs?: readonly string[] | undefined;
  readonly authn?:
    | {
        readonly maxAgeMs?: number | undefined;
        readonly amr?: readonly string[] | undefined;
        readonly acr?: readonly string[] | undefined;
      }
    | undefined;
  /** Source text; compiled where it is evaluated, checked at admission. */
  readonly cel?: string | undefined;
}

export const LIMIT_KEYS = ["user", "role", "workload", "namespace", "target", "resource"] as const;
export type LimitKey = (typeof LIMIT_KEYS)[number];

export interface RateLimit {
  /** What one counter is kept for, for example `user+resource`. */
  readonly key: readonly LimitKey[];
  readonly requests: number;
  readonly perMs: number;
  readonly burst: number;
}

export interface TokenLimit {
  readonly key: readonly LimitKey[];
  readonly tokens: number;
  readonly perMs: number;
  readonly count: "total" | "input" | "output";
}

export const AUDIT_LEVELS = ["None", "Metadata", "Headers", "Body"] as const;
export type AuditLevel = (typeof AUDIT_LEVELS)[number];

export interface AuditSetting {
  readonly level: AuditLevel;
  /** 0..1. */
  readonly sample: number;
  readonly mode: "BestEffort" | "Required";
}

export const IDENTITY_HEADERS = ["caller", "user", "email", "username", "roles", "xfcc"] as const;
export type IdentityHeader = (typeof IDENTITY_HEADERS)[number];

/** What has to happen when the rule wins. */
export interface Obligations {
  readonly rateLimit?: RateLimit | undefined;
  readonly tokenLimit?: TokenLimit | undefined;
  readonly concurrency?: number | undefined;
  readonly audit?: AuditSetting | undefined;
  readonly headers?:
    | { readonly set: ReadonlyMap<string, string>; readonly remove: readonly string[] }
    | undefined;
  readonly identity?: { readonly forward: readonly IdentityHeader[] } | undefined;
  readonly replay?: "Strict" | undefined;
}

export interface PolicyRule {
  readonly name: string;
  /** undefined (Deny and Audit only): every caller, plaintext ones too. */
  readonly from?: readonly FromClause[] | undefined;
  /** Deny only. */
  readonly unless?: readonly FromClause[] | undefined;
  /** undefined (Deny and Audit only): all. */
  readonly operations?: readonly OperationClause[] | undefined;
  readonly when?: When | undefined;
  readonly with?: Obligations | undefined;
}

/** A policy as far as one target is concerned: what a `WorkloadProgram` consists of. */
export interface ProgramPolicy {
  /** `name` for a ClusterAccessPolicy and a grant, `namespace/name` otherwise; as audit events report it. */
  readonly id: string;
  /** Name without namespace: what decision tables and messages show. */
  readonly name: string;
  readonly cluster: boolean;
  /** A grant counts as an Allow policy that is reported as `GRANTED` and only if no policy allows. */
  readonly source: "policy" | "grant" | "role";
  readonly action: PolicyAction;
  readonly enforcement: Enforcement;
  /** Container ports it covers; undefined: all. */
  readonly ports?: readonly number[] | undefined;
  /**
   * Only with `source: "grant"`: the user that a rule matches holds these roles for this call (a grant of roles). Such
   * a grant allows nothing by itself.
   */
  readonly roles?: readonly string[] | undefined;
  readonly rules: readonly PolicyRule[];
}

/**
 * What an application speaks on a port: `http` is HTTP/1.1 with WebSocket and server-sent events, `h2c` HTTP/2 with prior
 * knowledge, `grpc` that with gRPC calls, `tcp` bytes, `tls` bytes whose server name can be seen, `auto` not declared: found
 * per connection from the client's first bytes.
 */
export const PORT_PROTOCOLS = ["http", "h2c", "grpc", "tcp", "tls", "auto"] as const;
export type PortProtocol = (typeof PORT_PROTOCOLS)[number];

export interface ProgramPort {
  readonly port: number;
  readonly protocol: PortProtocol;
  /** Ordered; packs are tried in this order (DOMAIN M3). */
  readonly packs: readonly string[];
}

/** Everything one sidecar needs to decide on calls to its workload (or from it to one ExternalService). */
export interface WorkloadProgram {
  /** `namespace/name` of the workload, or `external:namespace/name`. */
  readonly id: string;
  readonly spiffeId: string;
  readonly kind: string;
  readonly name: string;
  readonly namespace: string;
  readonly labels: ReadonlyMap<string, string>;
  readonly ports: readonly ProgramPort[];
  readonly defaultAction: "Allow" | "Deny";
  readonly maxHops: number;
  readonly trustDomain: string;
  /** Policies that select the target, sorted: cluster before namespaced, then by name. */
  readonly policies: readonly ProgramPolicy[];
  /** `kind/name`s of CEL and other features that an older sidecar might lack; it refuses what it does not know. */
  readonly features: readonly string[];
}
