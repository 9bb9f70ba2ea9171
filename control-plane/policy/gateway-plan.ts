// From MeshGateways to what each gateway is told: names resolved, a route for each notebook with an owner; PURE. A gateway
// that does not change stays the same object, so that it is not encoded again.
import type { Gateway, GatewayRoute } from "../../sidecar/core/gateway/gateway.ts";
import type { ClusterState, MeshGateway, NotebookHosts } from "../sources/store.ts";
import type { PolicyProblem } from "./conditions.ts";
import { inOrder, shadowedHost } from "./gateway-hosts.ts";
import { NameFinder } from "./name-finder.ts";
import type { PolicyReport } from "./policy-report.ts";
import { matchesName } from "./select.ts";

export interface GatewayPlan {
  /** By key of the workload in `ClusterState.workloads`. */
  readonly gateways: ReadonlyMap<string, Gateway>;
  /** By `MeshGateway/namespace/name`; targets are the workloads. */
  readonly reports: ReadonlyMap<string, PolicyReport>;
  readonly basis: GatewayBasis | undefined;
}

/** The part of a state that a plan follows from. */
type GatewayBasis = Pick<
  ClusterState,
  "meshGateways" | "identityProviders" | "services" | "workloads" | "externalServices"
>;

export const NO_GATEWAYS: GatewayPlan = { gateways: new Map(), reports: new Map(), basis: undefined };

const BASIS = ["meshGateways", "identityProviders", "services", "workloads", "externalServices"] as const;

const keyOf = ({ namespace, name }: MeshGateway): string => `MeshGateway/${namespace}/${name}`;
const sameJson = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b);

/** Equal to `planGateways(state, undefined)` in every respect but the identity of what stayed as it was. */
export function planGateways(state: ClusterState, previous: GatewayPlan | undefined): GatewayPlan {
  const { basis } = previous ?? NO_GATEWAYS;
  if (previous !== undefined && basis !== undefined && BASIS.every((name) => basis[name] === state[name]))
    return previous;
  // Pods come and go all the time; where there is no gateway they must cost nothing.
  if (state.meshGateways.size === 0 && previous?.gateways.size === 0)
    return previous.reports.size === 0 ? previous : NO_GATEWAYS;
  const gateways = new Map<string, Gateway>();
  const reports = new Map<string, PolicyReport>();
  const taken = new Map<string, MeshGateway>();
  const owned = notebooksOf(state);
  for (const gateway of state.meshGateways.values()) {
    const targets = workloadsOf(gateway, state).filter((key) => !taken.has(key));
    const built = buildGateway(gateway, state, owned);
    const problems = gatewayProblems(gateway, state, taken);
    for (const key of targets) {
      taken.set(key, gateway);
      const before = previous?.gateways.get(key);
      gateways.set(key, before !== undefined && sameJson(before, built) ? before : built);
    }
    const report = { targets: targets.sort(), problems };
    const before = previous?.reports.get(keyOf(gateway));
    reports.set(keyOf(gateway), before !== undefined && sameJson(before, report) ? before : report);
  }
  return { gateways, reports, basis: state };
}

/** Workloads of kind `gateway` with its name, in its namespace: mostly one. */
function workloadsOf({ namespace, workload }: MeshGateway, state: ClusterState): string[] {
  const found: string[] = [];
  for (const [key, one] of state.workloads)
    if (one.kind === "gateway" && one.name === workload && one.namespace === namespace) found.push(key);
  return found;
}

/** A notebook that belongs to somebody, and the service that is it alone. */
interface OwnedNotebook {
  readonly key: string;
  readonly name: string;
  readonly namespace: string;
  readonly owner: string;
  readonly service: string;
}

function notebooksOf(state: ClusterState): readonly OwnedNotebook[] {
  if (![...state.meshGateways.values()].some(({ notebooks }) => notebooks.length > 0)) return [];
  const found = new Map<string, OwnedNotebook>();
  for (const [service, { members }] of state.services) {
    const [key] = members;
    const workload = key === undefined || members.length !== 1 ? undefined : state.workloads.get(key);
    if (key === undefined || workload?.kind !== "notebook") continue;
    const { name, namespace } = workload;
    // JupyterHub's own name of an owner may be a plain one, which nobody signs in as; `run-as` then says who it is.
    const owner = [workload.owner, workload.runAs].find((user) => user?.includes("|") === true);
    if (owner === undefined) continue;
    // Of several Services of one notebook the first by name; a name that no host can have is left out.
    if (!found.has(key) && /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/.test(name))
      found.set(key, { key, name, namespace, owner, service });
  }
  return [...found.values()];
}

function routesOfNotebooks(hosts: NotebookHosts, notebooks: readonly OwnedNotebook[]): GatewayRoute[] {
  return notebooks
    .filter(({ namespace }) => matchesName(hosts.namespaces, namespace))
    .map(({ key, name, owner, service }) => ({
      name: `${hosts.name}:${key}`,
      hosts: [hosts.hostPattern.replace("{name}", name)],
      path: { kind: "prefix", value: "/" },
      backend: { kind: "service", id: service, port: hosts.port },
      access: "Login",
      stepUp: hosts.stepUp,
      rewrite: undefined,
      cors: undefined,
      owner,
    }));
}

/** Two notebooks of one name in two namespaces would share a host, and so an origin: neither gets it. */
function withoutShared(routes: readonly GatewayRoute[]): GatewayRoute[] {
  const count = new Map<string, number>();
  for (const { hosts } of routes) for (const host of hosts) count.set(host, (count.get(host) ?? 0) + 1);
  return routes.filter(({ hosts }) => hosts.every((host) => count.get(host) === 1));
}

function buildGateway(
  gateway: MeshGateway,
  state: ClusterState,
  notebooks: readonly OwnedNotebook[],
): Gateway {
  const { kind: _, generation: __, workload: ___, notebooks: hosts, identityProviders, ...rest } = gateway;
  const { name, namespace, routes, ...settings } = rest;
  const perNotebook = withoutShared(hosts.flatMap((one) => routesOfNotebooks(one, notebooks)));
  return {
    id: `${namespace}/${name}`,
    ...settings,
    idps: identityProviders.flatMap((one) => {
      const provider = state.identityProviders.get(one);
      if (provider === undefined) return [];
      const { groupsClaim: _groups, servicePrincipalClaim: _principal, generation: _gen, ...idp } = provider;
      return [idp];
    }),
    routes: inOrder([...routes, ...perNotebook]),
  };
}

const problem = (
  type: PolicyProblem["type"],
  reason: PolicyProblem["reason"],
  path: string,
  message: string,
): PolicyProblem => ({
  severity: reason === "Shadowed" ? "warning" : "error",
  type,
  reason,
  path,
  message,
});

/** @param taken workloads that gateways before it are for. */
export function gatewayProblems(
  gateway: MeshGateway,
  state: ClusterState,
  taken: ReadonlyMap<string, MeshGateway> = new Map(),
): readonly PolicyProblem[] {
  const problems: PolicyProblem[] = [];
  const finder = new NameFinder();
  for (const [i, name] of gateway.identityProviders.entries())
    if (!state.identityProviders.has(name))
      problems.push(
        problem(
          "ResolvedRefs",
          "IdentityProviderNotFound",
          `spec.identityProviders[${i}]`,
          `there is no IdentityProvider \`${name}\`${finder.hint(name, state.identityProviders.keys())}`,
        ),
      );
  for (const [i, route] of gateway.routes.entries()) {
    problems.push(...backendProblems(route, `spec.routes[${i}]`, state, finder));
    for (const earlier of gateway.routes.slice(0, i)) {
      const host = shadowedHost(earlier, route);
      if (host === undefined) continue;
      const message = `route \`${earlier.name}\` has this path on \`${host}\` and comes first: this one is never reached there`;
      problems.push(problem("Accepted", "Shadowed", `spec.routes[${i}].path`, message));
      break;
    }
  }
  const mine = workloadsOf(gateway, state);
  if (mine.length === 0)
    problems.push(
      problem(
        "ResolvedRefs",
        "TargetNotFound",
        "spec.workload",
        `no workload of kind \`gateway\` is named \`${gateway.workload}\` in namespace \`${gateway.namespace}\``,
      ),
    );
  const other = mine.map((key) => taken.get(key)).find((one) => one !== undefined);
  if (other !== undefined)
    problems.push(
      problem(
        "Accepted",
        "Conflicted",
        "spec.workload",
        `MeshGateway \`${other.name}\` is for the same workload and comes first by name`,
      ),
    );
  return problems;
}

function backendProblems(
  { backend }: GatewayRoute,
  path: string,
  state: ClusterState,
  finder: NameFinder,
): readonly PolicyProblem[] {
  if (backend.kind === "external")
    return state.externalServices.has(backend.id)
      ? []
      : [
          problem(
            "ResolvedRefs",
            "BackendNotFound",
            `${path}.external`,
            `there is no ExternalService \`${backend.id}\`${finder.hint(backend.id, state.externalServices.keys())}`,
          ),
        ];
  const service = state.services.get(backend.id);
  if (service === undefined)
    return [
      problem(
        "ResolvedRefs",
        "BackendNotFound",
        `${path}.backend.service`,
        `there is no service \`${backend.id}\`${finder.hint(backend.id, state.services.keys())}`,
      ),
    ];
  const ports = service.ports.map(({ port }) => port);
  const said =
    backend.port === undefined
      ? ports.length === 1
        ? undefined
        : `service \`${backend.id}\` has ${ports.length} ports: say which`
      : ports.includes(backend.port)
        ? undefined
        : `service \`${backend.id}\` has no port \`${backend.port}\``;
  return said === undefined ? [] : [problem("ResolvedRefs", "PortNotFound", `${path}.backend.port`, said)];
}
