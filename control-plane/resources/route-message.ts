// A service's route as a discovery resource. PURE. The receiver's half is sidecar/discovery/decode-route.ts.
import type { Route } from "../../proto/gen/countersign/mesh/v1/Route.ts";
import type { RouteMatch as RouteMatchMessage } from "../../proto/gen/countersign/mesh/v1/RouteMatch.ts";
import type { RouteRule as RouteRuleMessage } from "../../proto/gen/countersign/mesh/v1/RouteRule.ts";
import type { StickyKey as StickyKeyMessage } from "../../proto/gen/countersign/mesh/v1/StickyKey.ts";
import type { Traffic } from "../../proto/gen/countersign/mesh/v1/Traffic.ts";
import { messageCodec } from "../../proto/load.ts";
import { RESOURCE_FEATURES } from "../../proto/protocol.ts";
import type { RouteMatch, RouteRule, ServiceRoute, StickyKey } from "../../sidecar/core/traffic/route.ts";
import type { TrafficSettings } from "../../sidecar/core/traffic/traffic.ts";
import { type BuiltResource, createResource } from "./build.ts";

const codec = messageCodec<Route>("countersign.mesh.v1.Route");

const stickyMessage = (key: StickyKey): StickyKeyMessage => ({
  by: key.by,
  name: "name" in key ? key.name : "",
});

const copied = <T>(list: readonly T[] | undefined): T[] => [...(list ?? [])];

function matchMessage(match: RouteMatch): RouteMatchMessage {
  const { path, grpc } = match;
  return {
    ...(path === undefined
      ? {}
      : path.kind === "exact"
        ? { pathExact: path.value }
        : { pathPrefix: path.value }),
    methods: copied(match.methods),
    headers: match.headers.map((one) => ({ ...one })),
    query: match.query.map((one) => ({ ...one })),
    ...(grpc === undefined ? {} : { grpcService: grpc.service, grpcMethod: grpc.method }),
    roles: copied(match.roles),
    callerKinds: copied(match.callerKinds),
    callerNames: copied(match.callerNames),
    operations: copied(match.operations),
  };
}

function ruleMessage(rule: RouteRule): RouteRuleMessage {
  return {
    name: rule.name,
    matches: rule.matches.map(matchMessage),
    ports: copied(rule.ports),
    backends: rule.backends.map(({ service = "", port = 0, weight }) => ({ service, port, weight })),
    mirrors: rule.mirrors.map(({ service, port = 0, share, allMethods }) => ({
      service,
      port,
      sharePpm: Math.round(share * 1_000_000),
      allMethods,
    })),
    ...(rule.stickyBy === undefined ? {} : { stickyBy: stickyMessage(rule.stickyBy) }),
    requestTimeoutMs: rule.requestTimeoutMs ?? 0,
    tryTimeoutMs: rule.tryTimeoutMs ?? 0,
    requestHeaders: rule.requestHeaders.map((one) => ({ ...one })),
    responseHeaders: rule.responseHeaders.map((one) => ({ ...one })),
  };
}

function trafficMessage({
  lb,
  healthCheck,
  outlier,
  limits,
  timeouts,
  retries,
  ...rest
}: TrafficSettings): Traffic {
  return {
    lb: lb?.kind ?? "",
    ...(lb?.kind === "consistentHash" ? { hashBy: stickyMessage(lb.key) } : {}),
    preferZone: rest.preferZone,
    ...(healthCheck === undefined
      ? {}
      : {
          healthCheck: {
            kind: healthCheck.probe.kind,
            path: healthCheck.probe.kind === "http" ? healthCheck.probe.path : "",
            service: healthCheck.probe.kind === "grpc" ? healthCheck.probe.service : "",
            intervalMs: healthCheck.intervalMs,
            timeoutMs: healthCheck.timeoutMs,
            healthyThreshold: healthCheck.healthyThreshold,
            unhealthyThreshold: healthCheck.unhealthyThreshold,
          },
        }),
    ...(outlier === undefined
      ? {}
      : {
          outlier: {
            consecutive_5xx: outlier.consecutive5xx,
            ejectForMs: outlier.ejectForMs,
            maxEjectPercent: outlier.maxEjectPercent,
            panicPercent: outlier.panicPercent,
          },
        }),
    slowStartMs: rest.slowStartMs ?? 0,
    ...(limits === undefined
      ? {}
      : {
          limits: {
            connections: limits.connections ?? 0,
            pending: limits.pending ?? 0,
            requests: limits.requests ?? 0,
          },
        }),
    ...(timeouts === undefined
      ? {}
      : {
          timeouts: {
            connectMs: timeouts.connectMs ?? 0,
            requestMs: timeouts.requestMs ?? 0,
            idleMs: timeouts.idleMs ?? 0,
            streamMs: timeouts.streamMs ?? 0,
          },
        }),
    ...(retries === undefined
      ? {}
      : {
          retries: {
            attempts: retries.attempts,
            on: [...retries.on],
            onlyAccess: [...retries.onlyAccess],
            idempotent: [...retries.idempotent],
            budgetPercent: retries.budgetPercent,
            tryTimeoutMs: retries.perTryTimeoutMs ?? 0,
          },
        }),
  };
}

export function buildRoute({ service, rules, traffic }: ServiceRoute): BuiltResource {
  const body = codec.encode({
    service,
    rules: rules.map(ruleMessage),
    ...(traffic === undefined ? {} : { traffic: trafficMessage(traffic) }),
  });
  return createResource("route", service, body, RESOURCE_FEATURES);
}
