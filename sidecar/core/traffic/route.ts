// Where the calls to one service go: what RoutePolicies, HTTPRoutes and TrafficPolicies say, as the callers' sidecars are
// told it. Types and their closed lists only; a route chooses, it never allows.
import type { WorkloadKind } from "../policy/call.ts";
import type { TrafficSettings } from "./traffic.ts";

/** What requests are kept together by. */
export type StickyKey =
  | { readonly by: "user" }
  | { readonly by: "workload" }
  | { readonly by: "sourceIp" }
  /** Name in lower case. */
  | { readonly by: "header"; readonly name: string }
  | { readonly by: "cookie"; readonly name: string };

export const FIELD_MATCH_KINDS = ["exact", "prefix", "present"] as const;

/** A header field (name in lower case) or a query parameter. */
export interface FieldMatch {
  readonly name: string;
  readonly kind: (typeof FIELD_MATCH_KINDS)[number];
  /** Empty with `present`. */
  readonly value: string;
}

/** Every field that is there must hold; of a list one entry, of `headers` and `query` all. */
export interface RouteMatch {
  readonly path: { readonly kind: "exact" | "prefix"; readonly value: string } | undefined;
  readonly methods: readonly string[] | undefined;
  readonly headers: readonly FieldMatch[];
  readonly query: readonly FieldMatch[];
  /** An empty name means any; one of the two is set. */
  readonly grpc: { readonly service: string; readonly method: string } | undefined;
  /** Roles of the user; a call without a verified user does not match. */
  readonly roles: readonly string[] | undefined;
  readonly callerKinds: readonly WorkloadKind[] | undefined;
  /** Exact, or a prefix that ends in `*`. */
  readonly callerNames: readonly string[] | undefined;
  /** `serving.invoke` covers `serving.invoke.chat`. */
  readonly operations: readonly string[] | undefined;
}

export interface RouteBackend {
  /** `namespace/name`; undefined: there is no such service, and its share of the calls is refused. */
  readonly service: string | undefined;
  /** Of that service; undefined: the port that was called. */
  readonly port: number | undefined;
  readonly weight: number;
}

export interface RouteMirror {
  readonly service: string;
  readonly port: number | undefined;
  /** 0 to 1. */
  readonly share: number;
  /** Also requests whose method or operation is not idempotent. */
  readonly allMethods: boolean;
}

export const HEADER_ACTIONS = ["set", "add", "remove"] as const;

export interface HeaderChange {
  readonly action: (typeof HEADER_ACTIONS)[number];
  /** Lower case; one that `isPolicyField` allows. */
  readonly name: string;
  /** Empty with `remove`. */
  readonly value: string;
}

export interface RouteRule {
  /** Where it is written, for people and the audit trail. */
  readonly name: string;
  /** One must hold; empty: every request. */
  readonly matches: readonly RouteMatch[];
  /** Ports of the service; undefined: all. */
  readonly ports: readonly number[] | undefined;
  /** Empty: the service itself. */
  readonly backends: readonly RouteBackend[];
  readonly mirrors: readonly RouteMirror[];
  /** undefined: each request chooses by itself. */
  readonly stickyBy: StickyKey | undefined;
  /** From the request's head to the end of the answer, all attempts together; undefined: what the traffic settings say. */
  readonly requestTimeoutMs: number | undefined;
  /** Until an attempt's answer begins; undefined: what the traffic settings say. */
  readonly tryTimeoutMs: number | undefined;
  readonly requestHeaders: readonly HeaderChange[];
  readonly responseHeaders: readonly HeaderChange[];
}

/** All there is for one service; at least one of the two is there. */
export interface ServiceRoute {
  /** `namespace/name`. */
  readonly service: string;
  /** In order: the first that matches counts; none matches: the service itself. */
  readonly rules: readonly RouteRule[];
  /** undefined: as built in. */
  readonly traffic: TrafficSettings | undefined;
}
