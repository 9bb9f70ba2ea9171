// What a decision is made on: who calls (caller, user, chain), what is asked (operation, resource, request) and when.
// All of it is verified or computed by the sidecar; nothing here is taken on the word of the request.

export const WORKLOAD_KINDS = ["notebook", "job", "serving", "agent", "service", "gateway"] as const;
export type WorkloadKind = (typeof WORKLOAD_KINDS)[number];
export const ACCESS_CLASSES = ["read", "write", "execute", "admin"] as const;
export type AccessClass = (typeof ACCESS_CLASSES)[number];

/**
 * The caller of one call, taken from its certificate (and, with a valid WIT, owner and env).
 * Make it with `createCaller` once per verified peer, never per request: it carries precomputed index keys.
 */
export interface Caller {
  /** false: plaintext, nothing below is known and only rules without `from` on Deny and Audit match. */
  readonly authenticated: boolean;
  readonly spiffeId: string;
  readonly trustDomain: string;
  /** false for a foreign trust domain. */
  readonly local: boolean;
  readonly namespace: string;
  readonly serviceAccount: string;
  readonly kind: string;
  readonly name: string;
  readonly labels: ReadonlyMap<string, string>;
  /** Owner of a single-user workload as `idp|user`; undefined when unset. */
  readonly owner: string | undefined;
  /** Whom a workload acts for, `idp|user`: for the record alone, rules do not look at it. Absent: nobody that is known. */
  readonly runAs?: string | undefined;
  /** Environment such as `dev`; undefined when unset (then `environments` is an error, DOMAIN 3.3). */
  readonly env: string | undefined;
}

export interface User {
  readonly id: string;
  readonly roles: readonly string[];
  readonly idp: string;
  readonly type: "person" | "servicePrincipal";
  readonly amr: readonly string[];
  readonly acr: string | undefined;
  /** Unix milliseconds; undefined for a token without `auth_time`. */
  readonly authTimeMs: number | undefined;
}

/** One earlier hop; only the part of a SPIFFE ID that policies can ask for, plus the operation it served. */
export interface Hop {
  readonly spiffeId: string;
  readonly kind: string;
  readonly name: string;
  readonly namespace: string;
  readonly serviceAccount: string;
  readonly operation: string;
}

/** The resource of a call: `none` (the operation has none), a `known` value, or `unknown` (fails closed). */
export type Resource =
  | { readonly kind: "none" }
  | { readonly kind: "known"; readonly type: string; readonly value: string }
  | { readonly kind: "unknown"; readonly type: string };

/**
 * The operation of a call. `known`: a template of the port's packs matched. `unknown`: none did. `undetermined`: it
 * could not be told (MCP body over the limit), which is an error in every operation field.
 */
export type Operation =
  | { readonly kind: "known"; readonly name: string; readonly access: AccessClass; readonly template: string }
  | { readonly kind: "unknown" }
  | { readonly kind: "undetermined" };

/** What matching on the raw request needs, beside the operation. */
export interface RequestFacts {
  readonly method: string;
  /** Path without query, percent-decoded exactly once (DOMAIN M1). */
  readonly path: string;
  readonly host: string;
  /** Set for `application/grpc*`. */
  readonly grpc: { readonly service: string; readonly method: string } | undefined;
  /** Set on a port with pack `mcp`; undefined inside means it could not be determined. */
  readonly mcp: { readonly method: string | undefined; readonly name: string | undefined } | undefined;
}

export interface Call {
  readonly caller: Caller;
  readonly user: User | undefined;
  /** Earlier hops, oldest first, without the caller. */
  readonly via: readonly Hop[];
  /** Port of the application (container port). */
  readonly port: number;
  readonly request: RequestFacts;
  /** Exact view (allow rules). */
  readonly operation: Operation;
  readonly resource: Resource;
  /**
   * The folded views of DOMAIN M1 (one trailing slash removed, case folded) as far as they differ from the exact one;
   * only Deny rules look at them. Empty in nearly every call.
   */
  readonly folded: readonly {
    readonly operation: Operation;
    readonly resource: Resource;
    readonly path: string;
  }[];
  /** Textual IP address of DOMAIN 3.3 (`req_ip` with a user, else the TLS peer); undefined over a Unix socket. */
  readonly sourceIp: string | undefined;
  /** Scope of the Txn-Token intersected with all caveats; undefined: unlimited. */
  readonly scope: readonly string[] | undefined;
  /** Control-plane time, Unix milliseconds. */
  readonly nowMs: number;
}
