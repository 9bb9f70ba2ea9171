// From RoutePolicies, TrafficPolicies and Gateway API routes to one route per service; PURE and incremental. A route that
// does not change stays the same object, so that nothing downstream encodes or sends it again.
import type { RouteRule, ServiceRoute } from "../../sidecar/core/traffic/route.ts";
import type {
  ClusterState,
  GatewayRoute,
  MeshService,
  RoutePolicy,
  TrafficPolicy,
} from "../sources/store.ts";
import type { PolicyProblem } from "./conditions.ts";
import { NameFinder } from "./name-finder.ts";
import type { Callers } from "./policy-entry.ts";
import type { PolicyReport } from "./policy-report.ts";
import { gatewayRouteKey, missingService, routePolicyKey, rulesOfService } from "./route-rules.ts";
import type { WorkloadIndex } from "./select.ts";
import { type Cover, coverOf, mergeTraffic } from "./traffic-cover.ts";

export interface RoutePlan {
  /** By service, `namespace/name`; only services that have one. */
  readonly routes: ReadonlyMap<string, ServiceRoute>;
  /** Services that a service's route can send calls to, beside itself; only those with some. */
  readonly leadsTo: ReadonlyMap<string, readonly string[]>;
  /** By key of the object, such as `RoutePolicy/ml/canary`; `targets` are the workloads that call so. */
  readonly reports: ReadonlyMap<string, PolicyReport>;
  /** What the next plan reuses. */
  readonly basis: PlanBasis | undefined;
}

interface PlanBasis {
  readonly state: ClusterState;
  readonly callers: ReadonlyMap<string, Callers>;
  /** By key of the TrafficPolicy. */
  readonly covers: ReadonlyMap<string, Cover>;
  /** By service, then by object. */
  readonly problems: ReadonlyMap<string, ReadonlyMap<string, readonly PolicyProblem[]>>;
}

export const NO_ROUTES: RoutePlan = {
  routes: new Map(),
  leadsTo: new Map(),
  reports: new Map(),
  basis: undefined,
};

const trafficKey = ({ namespace, name }: TrafficPolicy): string => `TrafficPolicy/${namespace}/${name}`;
const sameJson = (a: unknown, b: unknown): boolean => a === b || JSON.stringify(a) === JSON.stringify(b);

/** What is written, by the services that it is about. */
interface Written {
  readonly policies: ReadonlyMap<string, readonly RoutePolicy[]>;
  readonly gateways: ReadonlyMap<string, readonly GatewayRoute[]>;
  /** TrafficPolicies by the workloads that they cover. */
  readonly covering: ReadonlyMap<string, readonly TrafficPolicy[]>;
}

function push<V>(map: Map<string, V[]>, key: string, value: V): void {
  const list = map.get(key);
  if (list === undefined) map.set(key, [value]);
  else list.push(value);
}

function written(state: ClusterState, covers: ReadonlyMap<string, Cover>): Written {
  const policies = new Map<string, RoutePolicy[]>();
  const gateways = new Map<string, GatewayRoute[]>();
  const covering = new Map<string, TrafficPolicy[]>();
  // By name, as the maps of a state are.
  for (const policy of state.routePolicies.values()) push(policies, policy.service, policy);
  for (const route of state.gatewayRoutes.values())
    for (const service of new Set(route.parents.map((parent) => parent.service)))
      push(gateways, service, route);
  for (const policy of state.trafficPolicies.values())
    for (const workload of covers.get(trafficKey(policy))?.keys() ?? []) push(covering, workload, policy);
  return { policies, gateways, covering };
}

/** Objects of two maps under one key that are not the same, from both. */
function* changes<V>(before: ReadonlyMap<string, V> | undefined, now: ReadonlyMap<string, V>): Generator<V> {
  if (before === now) return;
  for (const [key, value] of now) {
    const other = before?.get(key);
    if (other === value) continue;
    yield value;
    if (other !== undefined) yield other;
  }
  for (const [key, value] of before ?? []) if (!now.has(key)) yield value;
}

/** Whether two states of a service differ in what a route is made of: addresses come and go all the time. */
function sameShape(a: MeshService | undefined, b: MeshService | undefined): boolean {
  if (a === b) return true;
  if (a === undefined || b === undefined) return false;
  return sameJson(a.members, b.members) && sameJson(a.ports, b.ports);
}

function coversOf(
  state: ClusterState,
  index: WorkloadIndex,
  before: PlanBasis | undefined,
): ReadonlyMap<string, Cover> {
  const still = before?.state.workloads === state.workloads && before.state.namespaces === state.namespaces;
  if (still && before.state.trafficPolicies === state.trafficPolicies) return before.covers;
  const covers = new Map<string, Cover>();
  for (const [id, policy] of state.trafficPolicies) {
    const key = trafficKey(policy);
    const earlier = before?.covers.get(key);
    if (still && earlier !== undefined && before.state.trafficPolicies.get(id) === policy)
      covers.set(key, earlier);
    else covers.set(key, coverOf(policy, index, state.namespaces));
  }
  return covers;
}

/** Services of which the route may be another than before; undefined: all. */
function dirtyServices(
  state: ClusterState,
  covers: ReadonlyMap<string, Cover>,
  previous: RoutePlan,
): ReadonlySet<string> | undefined {
  const { basis } = previous;
  if (basis === undefined) return undefined;
  const { state: before } = basis;
  const dirty = new Set<string>();
  for (const { service } of changes(before.routePolicies, state.routePolicies)) dirty.add(service);
  for (const { parents } of changes(before.gatewayRoutes, state.gatewayRoutes))
    for (const { service } of parents) dirty.add(service);
  const moved = new Set<string>();
  for (const policy of changes(before.trafficPolicies, state.trafficPolicies))
    for (const cover of [covers, basis.covers])
      for (const workload of cover.get(trafficKey(policy))?.keys() ?? []) moved.add(workload);
  if (basis.covers !== covers)
    for (const [key, cover] of covers) {
      const earlier = basis.covers.get(key);
      if (earlier === cover) continue;
      for (const [workload, precision] of cover)
        if (earlier?.get(workload) !== precision) moved.add(workload);
      for (const workload of earlier?.keys() ?? []) if (!cover.has(workload)) moved.add(workload);
    }
  const shapes = new Set<string>();
  if (before.services !== state.services) {
    for (const [id, service] of state.services)
      if (!sameShape(before.services.get(id), service)) shapes.add(id);
    for (const id of before.services.keys()) if (!state.services.has(id)) shapes.add(id);
  }
  for (const id of shapes) dirty.add(id);
  if (moved.size > 0)
    for (const [id, { members }] of state.services)
      if (members.some((member) => moved.has(member))) dirty.add(id);
  if (shapes.size > 0)
    for (const { name, rules, service } of namedRoutes(state))
      if (rules.some((rule) => namesOf(rule).some((one) => shapes.has(one)))) dirty.add(service ?? name);
  return dirty;
}

/** Every route with the services it is for, whether its backends exist or not. */
function* namedRoutes(
  state: ClusterState,
): Generator<{ readonly name: string; readonly service: string; readonly rules: readonly RouteRule[] }> {
  for (const { name, service, rules } of state.routePolicies.values()) yield { name, service, rules };
  for (const { name, parents, rules } of state.gatewayRoutes.values())
    for (const { service } of parents) yield { name, service, rules };
}

/** Services that a rule sends calls or copies to. */
const namesOf = ({ backends, mirrors }: RouteRule): string[] =>
  [...backends, ...mirrors].flatMap(({ service }) => service ?? []);

interface Made {
  readonly route: ServiceRoute | undefined;
  readonly problems: ReadonlyMap<string, readonly PolicyProblem[]>;
}

function makeRoute(
  id: string,
  state: ClusterState,
  { policies, gateways, covering }: Written,
  covers: ReadonlyMap<string, Cover>,
): Made {
  const problems = new Map<string, PolicyProblem[]>();
  const service = state.services.get(id);
  if (service === undefined) return { route: undefined, problems };
  const report = (key: string, problem: PolicyProblem): void => push(problems, key, problem);
  const rules = rulesOfService(
    service,
    { policies: policies.get(id) ?? [], gateways: gateways.get(id) ?? [] },
    state.services,
    report,
  );
  const candidates = new Set(service.members.flatMap((member) => covering.get(member) ?? []));
  const traffic = mergeTraffic(
    id,
    [...candidates].map((policy) => {
      const key = trafficKey(policy);
      const cover = covers.get(key);
      return {
        key,
        policy,
        precision: Math.max(...service.members.map((member) => cover?.get(member) ?? -1)),
      };
    }),
    report,
  );
  const isThere = rules.length > 0 || traffic !== undefined;
  return { route: isThere ? { service: id, rules, traffic } : undefined, problems };
}

/** Whether reports of an earlier plan can stay: what changes no route may still be another object to report on. */
function sameWritten(basis: PlanBasis, state: ClusterState, covers: ReadonlyMap<string, Cover>): boolean {
  const { state: before } = basis;
  return (
    basis.covers === covers &&
    before.routePolicies === state.routePolicies &&
    before.trafficPolicies === state.trafficPolicies &&
    before.gatewayRoutes === state.gatewayRoutes
  );
}

/** Everything that has to do with routes: what is written for a state, as callers are to follow it. */
export function planRoutes(
  state: ClusterState,
  callers: ReadonlyMap<string, Callers>,
  index: WorkloadIndex,
  previous: RoutePlan = NO_ROUTES,
): RoutePlan {
  if (state.routePolicies.size + state.trafficPolicies.size + state.gatewayRoutes.size === 0)
    return NO_ROUTES;
  const { basis } = previous;
  const covers = coversOf(state, index, basis);
  const dirty = dirtyServices(state, covers, previous);
  if (
    dirty?.size === 0 &&
    basis !== undefined &&
    basis.callers === callers &&
    sameWritten(basis, state, covers)
  )
    return { ...previous, basis: { ...basis, state, covers } };
  const routes = new Map(dirty === undefined ? [] : previous.routes);
  const problems = new Map(dirty === undefined ? [] : basis?.problems);
  const all = written(state, covers);
  for (const id of dirty ??
    new Set([...state.services.keys(), ...all.policies.keys(), ...all.gateways.keys()])) {
    const made = makeRoute(id, state, all, covers);
    const before = previous.routes.get(id);
    if (made.route === undefined) routes.delete(id);
    else routes.set(id, before !== undefined && sameJson(before, made.route) ? before : made.route);
    if (made.problems.size > 0) problems.set(id, made.problems);
    else problems.delete(id);
  }
  const ordered = new Map([...routes].sort(([a], [b]) => (a < b ? -1 : 1)));
  const leadsTo = leadsToOf(ordered);
  const reports = reportsOfRoutes(state, { covers, problems, routes: ordered, leadsTo, callers });
  return { routes: ordered, leadsTo, reports, basis: { state, callers, covers, problems } };
}

function leadsToOf(routes: ReadonlyMap<string, ServiceRoute>): ReadonlyMap<string, readonly string[]> {
  const leadsTo = new Map<string, readonly string[]>();
  for (const [id, { rules }] of routes) {
    const names = new Set(rules.flatMap(namesOf));
    names.delete(id);
    if (names.size > 0) leadsTo.set(id, [...names].sort());
  }
  return leadsTo;
}

interface ReportInput {
  readonly covers: ReadonlyMap<string, Cover>;
  readonly problems: PlanBasis["problems"];
  readonly routes: ReadonlyMap<string, ServiceRoute>;
  readonly leadsTo: ReadonlyMap<string, readonly string[]>;
  readonly callers: ReadonlyMap<string, Callers>;
}

/** Workloads whose sidecars are told of services: whoever may call one of them, or one that its route leads to. */
function callersOfServices(
  services: Iterable<string>,
  state: ClusterState,
  { leadsTo, callers }: ReportInput,
): readonly string[] {
  const found = new Set<string>();
  for (const id of services)
    for (const name of [id, ...(leadsTo.get(id) ?? [])])
      for (const member of state.services.get(name)?.members ?? []) {
        const who = callers.get(member);
        if (who === "all") return [...state.workloads.keys()].sort();
        for (const caller of who ?? []) found.add(caller);
      }
  return [...found].sort();
}

function warning(reason: string, path: string, message: string): PolicyProblem {
  return { severity: "warning", type: "ResolvedRefs", reason, path, message };
}

function reportsOfRoutes(state: ClusterState, input: ReportInput): ReadonlyMap<string, PolicyReport> {
  const reports = new Map<string, PolicyReport>();
  const byObject = new Map<string, PolicyProblem[]>();
  // By service, whichever was looked at first.
  for (const [, problems] of [...input.problems].sort(([a], [b]) => (a < b ? -1 : 1)))
    for (const [key, list] of problems) for (const one of list) push(byObject, key, one);
  const report = (key: string, services: ReadonlySet<string>, own: readonly PolicyProblem[]): void => {
    const problems = [...own, ...(byObject.get(key) ?? [])];
    const targets = callersOfServices(services, state, input);
    const path = key.startsWith("TrafficPolicy/") ? "spec" : "spec.rules";
    if (services.size > 0 && targets.length === 0)
      problems.push(warning("NoCallers", path, "no policy lets anybody call it, so nobody follows it"));
    reports.set(key, { targets, problems });
  };
  for (const policy of state.routePolicies.values()) {
    const { service } = policy;
    const own = state.services.has(service) ? [] : [notThere(service, "spec.service", state.services.keys())];
    const uncallable = uncalledBackends(policy.rules, state, input);
    report(routePolicyKey(policy), new Set(own.length > 0 ? [] : [service]), [...own, ...uncallable]);
  }
  for (const route of state.gatewayRoutes.values()) {
    const services = new Set(
      route.parents.map(({ service }) => service).filter((id) => state.services.has(id)),
    );
    const own = route.parents
      .filter(({ service }) => !state.services.has(service))
      .map(({ service }) => notThere(service, "spec.parentRefs", state.services.keys()));
    report(gatewayRouteKey(route), services, own);
  }
  for (const policy of state.trafficPolicies.values()) {
    const key = trafficKey(policy);
    const cover = input.covers.get(key) ?? new Map();
    const services = new Set<string>();
    if (cover.size > 0)
      for (const [id, { members }] of state.services)
        if (members.some((member) => cover.has(member))) services.add(id);
    const own =
      cover.size === 0
        ? [warning("TargetNotFound", "spec.targets", "no workload matches, the policy is in force nowhere")]
        : services.size === 0
          ? [
              warning(
                "TargetNotFound",
                "spec.targets",
                "no service leads to these workloads, so nobody calls them",
              ),
            ]
          : [];
    report(key, services, own);
  }
  return reports;
}

function notThere(service: string, path: string, services: Iterable<string>): PolicyProblem {
  const message = missingService(service, services, new NameFinder());
  return { severity: "error", type: "ResolvedRefs", reason: "ServiceNotFound", path, message };
}

/** Backends that no policy lets anybody call: their share of the calls is denied. */
function uncalledBackends(
  rules: readonly RouteRule[],
  state: ClusterState,
  { callers }: ReportInput,
): PolicyProblem[] {
  const isCalled = (service: string): boolean =>
    state.services.get(service)?.members.some((member) => {
      const who = callers.get(member);
      return who === "all" || (who !== undefined && who.size > 0);
    }) === true;
  return rules.flatMap(({ backends, mirrors }, i) =>
    [...new Set([...backends, ...mirrors].flatMap(({ service }) => service ?? []))]
      .filter((service) => state.services.has(service) && !isCalled(service))
      .map((service) =>
        warning(
          "NoCallers",
          `spec.rules[${i}]`,
          `no policy lets anybody call \`${service}\`, so its share of the calls is denied`,
        ),
      ),
  );
}
