// What of a RoutePolicy or TrafficPolicy is valid and probably not meant; PURE.
import type { RouteRule } from "../../sidecar/core/traffic/route.ts";
import type { ClusterState, RoutePolicy, TrafficPolicy } from "../sources/store.ts";
import type { ConditionContext, PolicyProblem } from "./conditions.ts";
import { unknownNames } from "./lint-references.ts";
import { lintWarning } from "./lint-rules.ts";
import { planRoutes } from "./route-plan.ts";
import { routePolicyKey } from "./route-rules.ts";
import type { WorkloadIndex } from "./select.ts";

const REPEATABLE = new Set(["GET", "HEAD", "PUT", "DELETE", "OPTIONS"]);

interface LintedState {
  readonly state: ClusterState;
  readonly index: WorkloadIndex;
  readonly condition: Pick<ConditionContext, "roles">;
}

/** What the plan says of an object that stands in the state; who may call is left to status, which knows. */
function plannedProblems(state: ClusterState, index: WorkloadIndex, key: string): PolicyProblem[] {
  const report = planRoutes(state, new Map(), index).reports.get(key);
  return (report?.problems ?? [])
    .filter(({ reason }) => reason !== "NoCallers")
    .map((problem) => ({ ...problem, severity: "warning" as const }));
}

function lintMirror({ mirrors, matches }: RouteRule, path: string): PolicyProblem[] {
  const [mirror] = mirrors;
  const methods = matches.flatMap((match) => match.methods ?? []);
  if (mirror === undefined || mirror.allMethods || methods.length === 0) return [];
  return methods.some((method) => REPEATABLE.has(method))
    ? []
    : [
        lintWarning(
          "NeverMatches",
          `${path}.mirror`,
          "none of the rule's methods is idempotent, so only operations of class `read` are mirrored; set `allMethods` where a second time does no harm",
        ),
      ];
}

/** Rules that an earlier one of the policy takes all calls from. */
function lintShadowed(rules: readonly RouteRule[]): PolicyProblem[] {
  const texts = rules.map(({ matches }) => JSON.stringify(matches));
  const everything = rules.findIndex(({ matches }) => matches.length === 0);
  return rules.flatMap((_, i) => {
    const same = texts.indexOf(texts[i] ?? "");
    const by = everything >= 0 && everything < i ? everything : same < i ? same : undefined;
    return by === undefined
      ? []
      : [lintWarning("Shadowed", `spec.rules[${i}]`, `rule ${by} matches all that this one does`)];
  });
}

export function lintRoutePolicy(
  policy: RoutePolicy,
  { state, index, condition }: LintedState,
): PolicyProblem[] {
  const id = `${policy.namespace}/${policy.name}`;
  const own = policy.rules.flatMap((rule, i) => [
    ...rule.matches.flatMap(({ roles }) =>
      unknownNames(roles, condition.roles, {
        path: `spec.rules[${i}].match.user.roles`,
        what: "nothing gives anybody a role",
        reason: "UnknownRole",
      }),
    ),
    ...lintMirror(rule, `spec.rules[${i}]`),
  ]);
  const others = [...state.routePolicies]
    .filter(([key, other]) => key < id && other.service === policy.service)
    .flatMap(([, other]) => {
      const covers = other.rules.some(({ matches, ports }) => matches.length === 0 && ports === undefined);
      return [
        lintWarning(
          covers ? "Shadowed" : "Overlapping",
          "spec.service",
          covers
            ? `RoutePolicy \`${other.name}\` comes first by name and takes every call to the service`
            : `RoutePolicy \`${other.name}\` routes the same service and comes first by name`,
        ),
      ];
    });
  const alone = {
    ...state,
    routePolicies: new Map([[id, policy]]),
    trafficPolicies: new Map(),
    gatewayRoutes: new Map(),
  };
  return [
    ...own,
    ...lintShadowed(policy.rules),
    ...others,
    ...plannedProblems(alone, index, routePolicyKey(policy)),
  ];
}

export function lintTrafficPolicy(policy: TrafficPolicy, { state, index }: LintedState): PolicyProblem[] {
  const id = `${policy.namespace}/${policy.name}`;
  const trafficPolicies = new Map([...state.trafficPolicies, [id, policy] as const]);
  return plannedProblems(
    { ...state, routePolicies: new Map(), gatewayRoutes: new Map(), trafficPolicies },
    index,
    `TrafficPolicy/${id}`,
  );
}
