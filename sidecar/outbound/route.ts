// Where the calls to one port of a service go: the first rule that matches, a backend by weight, and who gets a copy. Made
// once per table and destination; a destination without rules has none, and its calls are not looked at here.
import { hash32 } from "../balance/pick.ts";
import { joinedField } from "../core/http/headers.ts";
import type { RouteBackend, RouteMirror, RouteRule, StickyKey } from "../core/traffic/route.ts";
import type { Field } from "../wire/field.ts";
import { createHeaderEdit, type HeaderEdit } from "./header-edit.ts";
import type { Destination } from "./resolve.ts";
import {
  type CompiledMatches,
  compileMatches,
  matchesCall,
  type RouteCaller,
  type RoutedCall,
} from "./route-match.ts";

/** What a rule says of the calls it matches, beside where they go. */
export interface RuleEffects {
  /** For people: where it is written. */
  readonly name: string;
  /** Of the call, all attempts together; undefined: as the traffic settings say. */
  readonly requestTimeoutMs: number | undefined;
  /** Until an attempt's answer begins; undefined: as the traffic settings say. */
  readonly tryTimeoutMs: number | undefined;
  readonly requestEdit: HeaderEdit | undefined;
  readonly responseEdit: HeaderEdit | undefined;
}

/** A service that gets copies. */
export interface MirrorTarget {
  /** undefined: the table has no such service for this caller; its copies are counted and not sent. */
  readonly destination: Destination | undefined;
  /** 0 to 1. */
  readonly share: number;
  readonly allMethods: boolean;
}

interface CompiledRule extends RuleEffects {
  readonly matches: CompiledMatches;
  /** Empty: the service that was called. */
  readonly backends: readonly { readonly destination: Destination | undefined; readonly upTo: number }[];
  readonly totalWeight: number;
  readonly stickyBy: StickyKey | undefined;
  readonly mirrors: readonly MirrorTarget[];
}

/** What a route says of one call. */
export interface RouteChoice {
  readonly effects: RuleEffects;
  /** undefined: the call goes to a backend that does not exist, and is refused. */
  readonly destination: Destination | undefined;
  readonly mirrors: readonly MirrorTarget[];
}

/** What requests are kept together by, in the space of 32 bits; undefined: this one stands alone. */
export function stickyHash(
  key: StickyKey,
  { fields, claims }: Pick<RoutedCall, "fields" | "claims">,
  callerSpiffeId: string,
  pod: string,
): number | undefined {
  switch (key.by) {
    case "workload":
      return hash32(callerSpiffeId);
    case "sourceIp":
      return hash32(pod);
    case "header": {
      const value = joinedField(fields, key.name);
      return value === undefined ? undefined : hash32(value);
    }
    case "cookie": {
      const value = cookieOf(fields, key.name);
      return value === undefined ? undefined : hash32(value);
    }
    case "user":
      return claims === undefined ? undefined : hash32(claims.sub);
  }
}

/** Value of a cookie (RFC 6265 section 4.2); the first of its name. */
export function cookieOf(fields: readonly Field[], name: string): string | undefined {
  for (const field of fields) {
    if (field.name !== "cookie") continue;
    for (const pair of field.value.split(";")) {
      const equals = pair.indexOf("=");
      if (equals > 0 && pair.slice(0, equals).trim() === name) return pair.slice(equals + 1).trim();
    }
  }
  return undefined;
}

export interface RouteContext {
  readonly caller: RouteCaller & { readonly spiffeId: string };
  /** Name of this pod or machine. */
  readonly pod: string;
  /** In [0, 1). */
  readonly random: () => number;
  /** The port of a service, or its only one where `port` is open and it has no such. */
  readonly destinationOf: (
    service: string,
    port: number | undefined,
    called: number,
  ) => Destination | undefined;
}

export class DestinationRoute {
  readonly #rules: readonly CompiledRule[];
  readonly #own: Destination;
  readonly #context: RouteContext;

  constructor(own: Destination, rules: readonly RouteRule[], context: RouteContext) {
    this.#own = own;
    this.#context = context;
    const called = own.port.port;
    this.#rules = rules
      .filter(({ ports }) => ports === undefined || ports.includes(called))
      .map((rule) => compileRule(rule, called, context))
      .filter(({ matches }) => matches !== "never");
  }

  get isEmpty(): boolean {
    return this.#rules.length === 0;
  }

  /** @returns undefined: no rule matches, the call goes to the service itself. */
  choose(call: RoutedCall): RouteChoice | undefined {
    for (const rule of this.#rules) {
      if (!matchesCall(rule.matches, call)) continue;
      return { effects: rule, destination: this.#backendOf(rule, call), mirrors: rule.mirrors };
    }
    return undefined;
  }

  #backendOf({ backends, totalWeight, stickyBy }: CompiledRule, call: RoutedCall): Destination | undefined {
    const [first] = backends;
    if (first === undefined) return this.#own;
    if (backends.length === 1) return first.destination;
    const { caller, pod, random } = this.#context;
    const hash = stickyBy === undefined ? undefined : stickyHash(stickyBy, call, caller.spiffeId, pod);
    // One key falls on one place of the weights at every sidecar; a weight that moves takes only its own part along.
    const place = (hash === undefined ? random() : hash / 2 ** 32) * totalWeight;
    for (const { destination, upTo } of backends) if (place < upTo) return destination;
    return first.destination;
  }
}

function compileRule(rule: RouteRule, called: number, { caller, destinationOf }: RouteContext): CompiledRule {
  let upTo = 0;
  const find = ({ service, port }: RouteBackend | RouteMirror): Destination | undefined =>
    service === undefined ? undefined : destinationOf(service, port, called);
  const backends = rule.backends
    .filter(({ weight }) => weight > 0)
    .map((backend) => {
      upTo += backend.weight;
      return { destination: find(backend), upTo };
    });
  return {
    name: rule.name,
    matches: compileMatches(rule.matches, caller),
    backends,
    totalWeight: upTo,
    stickyBy: rule.stickyBy,
    mirrors: rule.mirrors.map((mirror) => ({
      destination: find(mirror),
      share: mirror.share,
      allMethods: mirror.allMethods,
    })),
    requestTimeoutMs: rule.requestTimeoutMs,
    tryTimeoutMs: rule.tryTimeoutMs,
    requestEdit: createHeaderEdit(rule.requestHeaders),
    responseEdit: createHeaderEdit(rule.responseHeaders),
  };
}
