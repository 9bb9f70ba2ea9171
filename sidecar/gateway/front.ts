// What all requests at the edge share: the rules in force, who knows people, the way into the mesh, and which requests
// hang on which session.
import type { Gateway, GatewayRoute } from "../core/gateway/gateway.ts";
import type { HeldTxn } from "../core/identity/held-txn.ts";
import type { Clock } from "../core/runtime/clock.ts";
import type { SidecarMetrics } from "../metrics.ts";
import type { AppExchange, AppSide, AppStream, OutboundHead } from "../outbound/app-side.ts";
import type { FixedDestination } from "../outbound/resolve.ts";
import { type CallChain, originChain } from "../telemetry/correlation.ts";
import type { Field } from "../wire/field.ts";
import type { FieldCache } from "../wire/field-cache.ts";
import type { TellEdge } from "./edge-audit.ts";
import { type Anomaly, EdgeFieldNames } from "./edge-fields.ts";
import type { People } from "./people.ts";
import type { PublishedKeys } from "./published-keys.ts";
import { RepeatedFields } from "./repeated-fields.ts";
import { RequestLimit } from "./request-limit.ts";
import { RouteTable } from "./route-table.ts";
import { type SecurityHeaders, securityHeaders } from "./security-headers.ts";
import { GatewayCookies } from "./session/cookies.ts";
import { TrustedHops } from "./source-address.ts";

/** A request on its way into the mesh. */
export interface Forwarded extends AppExchange {
  start(fixed: FixedDestination | undefined, bodyless: boolean, chain?: CallChain): void;
}

export interface FrontDeps {
  readonly clock: Clock;
  readonly cache: FieldCache;
  readonly metrics: SidecarMetrics;
  readonly decisionId: () => string;
  /** Writes down what is refused here. */
  readonly tell: TellEdge;
  /** @param external id of an ExternalService; undefined: the call goes into the mesh. @returns undefined: there is none. */
  readonly forward: (
    external: string | undefined,
    app: AppSide,
    stream: AppStream,
    head: OutboundHead,
  ) => Forwarded | undefined;
  /** The only port of a service of the mesh; undefined: it has several, or is not known. */
  readonly portOf: (service: string) => number | undefined;
}

/** What the gateway resource says, ready for use. */
export interface EdgeRules {
  readonly gateway: Gateway;
  readonly routes: RouteTable;
  readonly trusted: TrustedHops;
  readonly security: SecurityHeaders;
  readonly cookies: GatewayCookies;
  readonly perIp: RequestLimit | undefined;
  readonly perUser: RequestLimit | undefined;
}

/** What became of a request; label values of `countersign_gateway_requests_total`. */
export type EdgeResult =
  | "forwarded"
  | "answered"
  | "own"
  | "preflight"
  | "redirected"
  | "limited"
  | "malformed"
  | "unknown_host"
  | "unknown_path"
  | "not_owner"
  | "unavailable";

/** A request that ends with its session. */
export interface SessionBound {
  onSessionEnd(): void;
}

export class Front {
  readonly deps: FrontDeps;
  readonly names = new EdgeFieldNames();
  readonly hosts = new RepeatedFields("x-forwarded-host", { maxEntries: 1_024, maxWeight: 128 * 1024 });
  /** What is left of cookies when ours are taken off. */
  readonly cookies = new RepeatedFields("cookie", { maxEntries: 4_096, maxWeight: 1024 * 1024 });
  /** Nearly always a session has one request at a time: no set for it. */
  readonly #open = new Map<string, SessionBound | Set<SessionBound>>();
  /** What is kept by chain further on is found again by the same object. */
  readonly #chains = new WeakMap<HeldTxn, CallChain>();
  /** Index of `forwarded`, where nearly every request is counted. */
  readonly #forwardedOf = new WeakMap<GatewayRoute, number>();
  /** Documents of the token service; undefined: there is none. */
  published: PublishedKeys | undefined;
  #rules: EdgeRules | undefined;
  #people: People | undefined;

  constructor(deps: FrontDeps) {
    this.deps = deps;
  }

  /** undefined: this workload is no gateway (any more). */
  get rules(): EdgeRules | undefined {
    return this.#rules;
  }

  get people(): People | undefined {
    return this.#people;
  }

  set people(people: People) {
    this.#people = people;
    people.onSessionEnd(
      (session) => this.#end(session),
      (session) => this.#open.has(session),
    );
  }

  /** Puts a gateway resource in force. Limits that are as they were keep what they counted. */
  adopt(gateway: Gateway | undefined): void {
    const before = this.#rules;
    if (gateway === undefined) {
      this.#rules = undefined;
      return;
    }
    if (before?.gateway === gateway) return;
    const kept = <K extends "perIp" | "perUser">(key: K): RequestLimit | undefined => {
      const limit = gateway.limits[key];
      const same = JSON.stringify(before?.gateway.limits[key]) === JSON.stringify(limit);
      if (same && before !== undefined) return before[key];
      return limit === undefined ? undefined : new RequestLimit(limit);
    };
    this.#rules = {
      gateway,
      routes: new RouteTable(gateway),
      trusted: new TrustedHops(gateway.trustedHops),
      security: securityHeaders(gateway.securityHeaders),
      cookies: GatewayCookies.of(gateway),
      perIp: kept("perIp"),
      perUser: kept("perUser"),
    };
  }

  /** A field with a value of ours; cached, since most repeat. */
  field(name: string, value: string): Field {
    return this.deps.cache.get(name, value);
  }

  count(route: GatewayRoute | undefined, result: EdgeResult): void {
    const { gatewayRequests } = this.deps.metrics;
    let index = route === undefined || result !== "forwarded" ? undefined : this.#forwardedOf.get(route);
    if (index === undefined) {
      index = gatewayRequests.series(route?.name ?? "", result);
      if (route !== undefined && result === "forwarded") this.#forwardedOf.set(route, index);
    }
    gatewayRequests.add(index);
  }

  readonly onAnomaly = (kind: Anomaly): void => {
    const { headerAnomalies } = this.deps.metrics;
    headerAnomalies.add(headerAnomalies.series(kind));
  };

  /** The chain of calls on behalf of whom a token speaks for. */
  chainOf(txn: HeldTxn): CallChain {
    let chain = this.#chains.get(txn);
    if (chain === undefined) {
      chain = originChain(txn);
      this.#chains.set(txn, chain);
    }
    return chain;
  }

  bind(session: string, request: SessionBound): void {
    const open = this.#open.get(session);
    if (open === undefined) this.#open.set(session, request);
    else if (open instanceof Set) open.add(request);
    else this.#open.set(session, new Set([open, request]));
  }

  unbind(session: string, request: SessionBound): void {
    const open = this.#open.get(session);
    if (open === request) this.#open.delete(session);
    else if (open instanceof Set && open.delete(request) && open.size === 0) this.#open.delete(session);
  }

  #end(session: string): void {
    const open = this.#open.get(session);
    if (open === undefined) return;
    this.#open.delete(session);
    if (!(open instanceof Set)) open.onSessionEnd();
    else for (const request of open) request.onSessionEnd();
  }
}
