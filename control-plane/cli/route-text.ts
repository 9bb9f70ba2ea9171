// A service's route in words, as `countersign describe svc` shows it. PURE.
import type { RouteMatch, RouteRule, ServiceRoute } from "../../sidecar/core/traffic/route.ts";
import type { TrafficSettings } from "../../sidecar/core/traffic/traffic.ts";
import { durationText } from "./proxy-status.ts";

const timeText = (ms: number): string => (ms < 1_000 ? `${ms}ms` : durationText(ms));

function matchText(match: RouteMatch): string {
  const { path, methods, headers, query, grpc, roles, callerKinds, callerNames, operations } = match;
  const parts = [
    path && (path.kind === "exact" ? `path ${path.value}` : `path ${path.value} and below`),
    methods && `method ${methods.join("|")}`,
    ...headers.map(({ name, kind, value }) =>
      kind === "present" ? `header ${name}` : `header ${name}: ${value}${kind === "prefix" ? "…" : ""}`,
    ),
    ...query.map(({ name, value }) => `query ${name}=${value}`),
    grpc && `gRPC ${grpc.service || "*"}/${grpc.method || "*"}`,
    roles && `a user with role ${roles.join("|")}`,
    callerKinds && `from ${callerKinds.join("|")}`,
    callerNames && `from ${callerNames.join("|")}`,
    operations && `operation ${operations.join("|")}`,
  ];
  return parts.filter((part) => part !== undefined).join(", ");
}

function ruleText(rule: RouteRule): string {
  const total = rule.backends.reduce((sum, { weight }) => sum + weight, 0);
  const share = (weight: number): string =>
    rule.backends.length === 1 ? "" : ` ${Math.round((weight / total) * 1_000) / 10}%`;
  const backends = rule.backends.map(
    ({ service, port, weight }) =>
      `${service ?? "nobody"}${port === undefined ? "" : `:${port}`}${share(weight)}`,
  );
  const { stickyBy, mirrors, requestTimeoutMs, tryTimeoutMs } = rule;
  const parts = [
    backends.join(", ") || "the service itself",
    stickyBy && `by ${stickyBy.by}${"name" in stickyBy ? ` ${stickyBy.name}` : ""}`,
    ...mirrors.map(({ service, share: part }) => `${Math.round(part * 1_000) / 10}% copied to ${service}`),
    requestTimeoutMs && `within ${timeText(requestTimeoutMs)}`,
    tryTimeoutMs && `each try within ${timeText(tryTimeoutMs)}`,
    rule.requestHeaders.length + rule.responseHeaders.length > 0 ? "headers changed" : undefined,
  ];
  return parts.filter((part) => part !== undefined && part !== 0).join("; ");
}

function trafficText(traffic: TrafficSettings): string {
  const { lb, preferZone, healthCheck, outlier, slowStartMs, limits, timeouts, retries } = traffic;
  const named = (values: object | undefined, text: (value: number) => string): string[] =>
    Object.entries(values ?? {}).flatMap(([name, value]) =>
      typeof value === "number" ? [`${name.replace(/Ms$/, "")} ${text(value)}`] : [],
    );
  const parts = [
    lb && (lb.kind === "consistentHash" ? `consistentHash by ${lb.key.by}` : lb.kind),
    preferZone ? "own zone first" : undefined,
    healthCheck && `${healthCheck.probe.kind} checks every ${timeText(healthCheck.intervalMs)}`,
    outlier &&
      `ejected for ${timeText(outlier.ejectForMs)} after ${outlier.consecutive5xx} failures in a row`,
    slowStartMs && `slow start ${timeText(slowStartMs)}`,
    ...named(limits, String).map((text) => `at most ${text}`),
    ...named(timeouts, timeText).map((text) => `timeout ${text}`),
    retries && `${retries.attempts} retries on ${retries.on.join("|")}, budget ${retries.budgetPercent}%`,
  ];
  return parts.filter((part) => part !== undefined && part !== 0).join("; ");
}

/** One line per rule, in the order in which they count, and one for how calls are carried. */
export function routeLines({ service, rules, traffic }: ServiceRoute): string[] {
  const lines = rules.map((rule, i) => {
    const when = rule.matches.map(matchText).join(" or ") || "every call";
    return `${i === 0 ? "routes    " : "          "}${when} -> ${ruleText(rule)}  [${rule.name}]`;
  });
  const covers = rules.some(({ matches, ports }) => matches.length === 0 && ports === undefined);
  if (rules.length > 0 && !covers) lines.push(`          everything else -> ${service}`);
  if (traffic !== undefined) lines.push(`traffic   ${trafficText(traffic)}`);
  return lines;
}
