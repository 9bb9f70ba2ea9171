// From the RoutePolicies and Gateway API routes of one service to the rules that callers follow; PURE.
import type { RouteMatch, RouteRule } from "../../sidecar/core/traffic/route.ts";
import type { ClusterState, GatewayRoute, MeshService, RoutePolicy } from "../sources/store.ts";
import type { PolicyProblem } from "./conditions.ts";
import { NameFinder } from "./name-finder.ts";

/** What is written for one service. */
export interface RouteSources {
  /** By name. */
  readonly policies: readonly RoutePolicy[];
  readonly gateways: readonly GatewayRoute[];
}

/** Told of what is wrong, by the key of the object that it is about. */
export type ProblemSink = (key: string, problem: PolicyProblem) => void;

/** Rules of one service that callers are told at most; a receiver takes as many. */
export const MAX_RULES = 256;

export const routePolicyKey = ({ namespace, name }: RoutePolicy): string =>
  `RoutePolicy/${namespace}/${name}`;
export const gatewayRouteKey = ({ kind, namespace, name }: GatewayRoute): string =>
  `${kind}/${namespace}/${name}`;

/** The port of a service that a backend means when the port `called` was called; undefined: it has none such. */
export function backendPort(
  service: MeshService,
  stated: number | undefined,
  called: number | undefined,
): number | undefined {
  const wanted = stated ?? called;
  if (service.ports.some(({ port }) => port === wanted)) return wanted;
  const [only, second] = service.ports;
  return stated === undefined && second === undefined ? only?.port : undefined;
}

function refProblem(reason: string, path: string, message: string): PolicyProblem {
  return { severity: "error", type: "ResolvedRefs", reason, path, message };
}

/** Says that a service is not there, with the closest name of its namespace. */
export function missingService(id: string, services: Iterable<string>, finder: NameFinder): string {
  const namespace = id.slice(0, id.indexOf("/") + 1);
  const names: string[] = [];
  for (const one of services) if (one.startsWith(namespace)) names.push(one.slice(namespace.length));
  return `there is no service \`${id}\` with workloads of the mesh${finder.hint(id.slice(namespace.length), names)}`;
}

/** One rule with its backends checked: those that lead nowhere keep their share of the calls and refuse it. */
function resolveRule(
  rule: RouteRule,
  services: ClusterState["services"],
  called: readonly number[],
  { problem, finder }: { readonly problem: (problem: PolicyProblem) => void; readonly finder: NameFinder },
): RouteRule {
  const path = `spec.${rule.name.slice(rule.name.indexOf("rules["))}`;
  const usable = (name: string | undefined, port: number | undefined, field: string): boolean => {
    const service = name === undefined ? undefined : services.get(name);
    if (service === undefined) {
      if (name !== undefined)
        problem(refProblem("BackendNotFound", field, missingService(name, services.keys(), finder)));
      return false;
    }
    const ports = port === undefined ? called : [port];
    const missing = ports.find((one) => backendPort(service, port, one) === undefined);
    if (missing === undefined) return true;
    problem(refProblem("BackendNotFound", field, `service \`${name}\` has no port ${missing}`));
    // With some of the ports it is of use.
    return ports.some((one) => backendPort(service, port, one) !== undefined);
  };
  return {
    ...rule,
    backends: rule.backends.map((backend, i) =>
      usable(backend.service, backend.port, `${path}.backends[${i}].service`)
        ? backend
        : { ...backend, service: undefined },
    ),
    mirrors: rule.mirrors.filter(({ service, port }) => usable(service, port, `${path}.mirror.service`)),
  };
}

/** Precedence of the Gateway API: exact path, longest prefix, a method, more headers, more query parameters. */
function ranks({ path, methods, grpc, headers, query }: RouteMatch): readonly number[] {
  return [
    path?.kind === "exact" ? 1 : 0,
    path?.kind === "prefix" ? path.value.length : 0,
    methods === undefined ? 0 : 1,
    grpc?.service.length ?? 0,
    grpc?.method.length ?? 0,
    headers.length,
    query.length,
  ];
}

const NO_RANKS: readonly number[] = [0, 0, 0, 0, 0, 0, 0];

interface GatewayRule {
  readonly route: GatewayRoute;
  readonly rule: RouteRule;
  readonly ranks: readonly number[];
  readonly order: number;
}

function compareRules(a: GatewayRule, b: GatewayRule): number {
  for (const [i, rank] of a.ranks.entries()) if (rank !== b.ranks[i]) return (b.ranks[i] ?? 0) - rank;
  if (a.route.createdAtMs !== b.route.createdAtMs) return a.route.createdAtMs - b.route.createdAtMs;
  const [left, right] = [gatewayRouteKey(a.route), gatewayRouteKey(b.route)];
  return left === right ? a.order - b.order : left < right ? -1 : 1;
}

function gatewayRules(service: string, gateways: readonly GatewayRoute[]): GatewayRule[] {
  const rules = gateways.flatMap((route) =>
    route.parents
      .filter((parent) => parent.service === service)
      .flatMap(({ port }) =>
        route.rules.map((rule, order) => ({
          route,
          rule: { ...rule, ports: port === undefined ? undefined : [port] },
          ranks: rule.matches[0] === undefined ? NO_RANKS : ranks(rule.matches[0]),
          order,
        })),
      ),
  );
  return rules.sort(compareRules);
}

/**
 * A call to a port with routes of the Gateway API that none of them matches is refused (GAMMA); to others it goes as ever.
 */
function otherwiseRefused(service: string, gateways: readonly GatewayRoute[]): RouteRule {
  const ports = gateways
    .flatMap(({ parents }) => parents)
    .filter((parent) => parent.service === service)
    .map(({ port }) => port);
  const stated = ports.flatMap((port) => port ?? []);
  return {
    name: `no rule of the routes of ${service}`,
    matches: [],
    ports: stated.length < ports.length ? undefined : [...new Set(stated)].sort((a, b) => a - b),
    backends: [{ service: undefined, port: undefined, weight: 1 }],
    mirrors: [],
    stickyBy: undefined,
    requestTimeoutMs: undefined,
    tryTimeoutMs: undefined,
    requestHeaders: [],
    responseHeaders: [],
  };
}

function overridden(service: string, policies: readonly RoutePolicy[]): PolicyProblem {
  const by = policies.map(({ name }) => `\`${name}\``).join(", ");
  return {
    severity: "error",
    type: "Accepted",
    reason: "Overridden",
    path: "spec.parentRefs",
    message: `RoutePolicy ${by} routes the calls to \`${service}\`, so this route does not count there`,
  };
}

/**
 * The rules of one service in the order in which they count. A RoutePolicy beats the Gateway API's routes for the same
 * service, which then say that they do not count.
 */
export function rulesOfService(
  service: MeshService,
  { policies, gateways }: RouteSources,
  services: ClusterState["services"],
  problem: ProblemSink,
): readonly RouteRule[] {
  const ports = service.ports.map(({ port }) => port);
  const id = `${service.namespace}/${service.name}`;
  const rules: RouteRule[] = [];
  const finder = new NameFinder();
  const take = (key: string, rule: RouteRule): void => {
    const resolved = resolveRule(rule, services, rule.ports ?? ports, {
      problem: (one) => problem(key, one),
      finder,
    });
    if (rules.push(resolved) === MAX_RULES + 1) problem(key, tooMany(id));
  };
  for (const policy of policies) {
    const key = routePolicyKey(policy);
    const unknown = policy.rules[0]?.ports?.find((port) => !ports.includes(port));
    if (unknown !== undefined)
      problem(key, refProblem("PortNotFound", "spec.ports", `service \`${id}\` has no port ${unknown}`));
    for (const rule of policy.rules) take(key, rule);
  }
  if (policies.length > 0)
    for (const route of gateways) problem(gatewayRouteKey(route), overridden(id, policies));
  else {
    for (const { route, rule } of gatewayRules(id, gateways)) take(gatewayRouteKey(route), rule);
    if (rules.length > 0) return [...rules.slice(0, MAX_RULES - 1), otherwiseRefused(id, gateways)];
  }
  return rules.slice(0, MAX_RULES);
}

function tooMany(service: string): PolicyProblem {
  return {
    severity: "error",
    type: "Accepted",
    reason: "Invalid",
    path: "spec.rules",
    message: `all rules for \`${service}\` together are more than ${MAX_RULES}; those after it do not count`,
  };
}
