// The objects that have a status of targets and sidecars: access policies, route and traffic policies, gateways, by key. PURE.
import type { AccessPolicy } from "../policy/access-policy.ts";
import type { Compiled } from "../policy/compile.ts";
import type { PolicyReport } from "../policy/policy-report.ts";
import type { MeshGateway, RoutePolicy, TrafficPolicy } from "../sources/store.ts";

export type StatusSubject = AccessPolicy | RoutePolicy | TrafficPolicy | MeshGateway;

/** Kinds whose status says where they are in force, by the begin of their keys. */
export const HAS_TARGETS = /^(?:AccessPolicy|ClusterAccessPolicy|RoutePolicy|TrafficPolicy|MeshGateway)\//;

const ROUTE = "RoutePolicy/";
const TRAFFIC = "TrafficPolicy/";
const GATEWAY = "MeshGateway/";

/** @param key `Kind/namespace/name` or `Kind/name`. */
export function subjectOf(compiled: Compiled | undefined, key: string): StatusSubject | undefined {
  if (key.startsWith(ROUTE)) return compiled?.state.routePolicies.get(key.slice(ROUTE.length));
  if (key.startsWith(TRAFFIC)) return compiled?.state.trafficPolicies.get(key.slice(TRAFFIC.length));
  if (key.startsWith(GATEWAY)) return compiled?.state.meshGateways.get(key.slice(GATEWAY.length));
  return compiled?.state.policies.get(key);
}

/** Keys of everything in force. */
export function* subjectsOf(compiled: Compiled | undefined): Generator<string> {
  if (compiled === undefined) return;
  yield* compiled.state.policies.keys();
  for (const key of compiled.state.routePolicies.keys()) yield ROUTE + key;
  for (const key of compiled.state.trafficPolicies.keys()) yield TRAFFIC + key;
  for (const key of compiled.state.meshGateways.keys()) yield GATEWAY + key;
}

export function reportOfSubject(compiled: Compiled | undefined, key: string): PolicyReport | undefined {
  if (key.startsWith(GATEWAY)) return compiled?.gateways.reports.get(key);
  return key.startsWith(ROUTE) || key.startsWith(TRAFFIC)
    ? compiled?.routes.reports.get(key)
    : compiled?.policies.get(key);
}

/** The subject if it is an access policy. */
export function accessPolicyOf(subject: StatusSubject | undefined): AccessPolicy | undefined {
  return subject?.kind === "AccessPolicy" || subject?.kind === "ClusterAccessPolicy" ? subject : undefined;
}
