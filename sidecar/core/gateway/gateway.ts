// What a gateway is told of itself: where it listens, whom it signs in with, which of its hosts and paths lead where.
// Types and their closed lists only. Secrets never travel: they are named, and read from files beside the gateway.

export const GATEWAY_TIERS = ["internal", "external"] as const;
export const ROUTE_ACCESS = ["Login", "Bearer", "LoginOrBearer", "Public"] as const;
export const SESSION_STORES = ["memory", "redis"] as const;
export const IDP_ALGORITHMS = [
  "RS256",
  "RS384",
  "RS512",
  "PS256",
  "PS384",
  "PS512",
  "ES256",
  "ES384",
  "ES512",
] as const;
export const FRAME_OPTIONS = ["DENY", "SAMEORIGIN"] as const;
export const REFERRER_POLICIES = [
  "no-referrer",
  "same-origin",
  "strict-origin",
  "strict-origin-when-cross-origin",
] as const;

export type RouteAccess = (typeof ROUTE_ACCESS)[number];
export type IdpAlgorithm = (typeof IDP_ALGORITHMS)[number];

/** Where TLS from outside ends. */
export interface GatewayListener {
  readonly name: string;
  readonly port: number;
  /** Lower case; `*.example.com` covers one label. */
  readonly hosts: readonly string[];
  /** Of the mounted Secret: its files `tls.crt` and `tls.key`. */
  readonly secretName: string;
}

/** The public part of an IdentityProvider. */
export interface GatewayIdp {
  readonly name: string;
  /** For people to choose by. */
  readonly displayName: string;
  /** Exactly as in `iss`. */
  readonly issuer: string;
  readonly clientId: string;
  /** File of the client secret below the folder of mounted Secrets; undefined: a public client (PKCE alone). */
  readonly clientSecret: { readonly name: string; readonly key: string } | undefined;
  /** `openid` is among them. */
  readonly scopes: readonly string[];
  readonly userIdClaim: string;
  readonly emailClaim: string;
  readonly usernameClaim: string;
  /** Audiences of access tokens (RFC 9068) of API callers; empty: none are taken. */
  readonly audiences: readonly string[];
  readonly algorithms: readonly IdpAlgorithm[];
  /** Asked for and required where a route asks for more without saying what. */
  readonly stepUpAcr: string | undefined;
  /** Sent as `max_age` with each sign-in; undefined: the provider decides. */
  readonly maxAgeSeconds: number | undefined;
  /** Required as `hd` (Google). */
  readonly hostedDomain: string | undefined;
  /** Asks for a refresh token (`offline_access`). */
  readonly offlineAccess: boolean;
  readonly clockSkewSeconds: number;
  /** `http` on loopback is let through: tests. */
  readonly allowInsecureIssuer: boolean;
}

export interface GatewayCors {
  /** `https://host[:port]`, exact. */
  readonly allowOrigins: readonly string[];
  readonly allowMethods: readonly string[];
  /** Lower case. */
  readonly allowHeaders: readonly string[];
  readonly exposeHeaders: readonly string[];
  readonly allowCredentials: boolean;
  readonly maxAgeSeconds: number;
}

export type GatewayBackend =
  /** `id` is `namespace/name` of a mesh service. */
  | { readonly kind: "service"; readonly id: string; readonly port: number | undefined }
  /** `id` is `namespace/name` of an ExternalService. */
  | { readonly kind: "external"; readonly id: string };

export interface GatewayRoute {
  /** Unique in the gateway. */
  readonly name: string;
  /** Lower case, each covered by a listener; `*.example.com` covers one label. */
  readonly hosts: readonly string[];
  /** A prefix holds for whole segments; `/` for all. */
  readonly path: { readonly kind: "exact" | "prefix"; readonly value: string };
  readonly backend: GatewayBackend;
  readonly access: RouteAccess;
  /** A fresh or stronger sign-in than a session has by itself. */
  readonly stepUp:
    | { readonly acr: string | undefined; readonly maxAgeSeconds: number | undefined }
    | undefined;
  /** `prefix` replaces the path that matched; `host` is what the backend sees as host. */
  readonly rewrite: { readonly prefix: string | undefined; readonly host: string | undefined } | undefined;
  readonly cors: GatewayCors | undefined;
  /** The one user (`idp|user`) who may come here; undefined: whom `access` lets in. */
  readonly owner: string | undefined;
}

/** `requests` in `perMs`, `burst` at once. */
export interface GatewayLimit {
  readonly requests: number;
  readonly perMs: number;
  readonly burst: number;
}

export interface Gateway {
  /** `namespace/name`. */
  readonly id: string;
  readonly tier: (typeof GATEWAY_TIERS)[number];
  readonly listeners: readonly GatewayListener[];
  /** Plain HTTP that redirects to the listeners; undefined: none. */
  readonly redirectPort: number | undefined;
  readonly idps: readonly GatewayIdp[];
  /** In the order in which they are tried: exact hosts before wildcards, exact paths before prefixes, long before short. */
  readonly routes: readonly GatewayRoute[];
  readonly session: {
    readonly idleMs: number;
    readonly absoluteMs: number;
    /** Begins with `__Host-`. */
    readonly cookieName: string;
    /** The one host that signs people in; the others get the session from it. undefined: each by itself. */
    readonly loginHost: string | undefined;
    readonly store: (typeof SESSION_STORES)[number];
    /** Of the Secret whose file `url` names the Redis; only with store `redis`. */
    readonly storeSecretName: string | undefined;
  };
  /** Networks of proxies whose forwarding fields are believed; empty: nobody's. */
  readonly trustedHops: readonly string[];
  readonly limits: { readonly perUser: GatewayLimit | undefined; readonly perIp: GatewayLimit | undefined };
  readonly securityHeaders: {
    /** Seconds of Strict-Transport-Security; 0: not sent. */
    readonly hstsMaxAgeSeconds: number;
    readonly hstsIncludeSubDomains: boolean;
    readonly hstsPreload: boolean;
    readonly contentSecurityPolicy: string | undefined;
    readonly frameOptions: (typeof FRAME_OPTIONS)[number] | undefined;
    readonly referrerPolicy: (typeof REFERRER_POLICIES)[number] | undefined;
    /** `X-Content-Type-Options: nosniff`. */
    readonly noSniff: boolean;
  };
}
