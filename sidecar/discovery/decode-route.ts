// From the body of a `route` resource to what the outbound side chooses by. PURE. The control plane checked it all before;
// whatever cannot be used in full is refused here again, so that a condition is never lost on the way.
import type { HealthCheck__Output } from "../../proto/gen/countersign/mesh/v1/HealthCheck.ts";
import type { Retries__Output } from "../../proto/gen/countersign/mesh/v1/Retries.ts";
import type { Route__Output } from "../../proto/gen/countersign/mesh/v1/Route.ts";
import type { RouteFieldMatch__Output } from "../../proto/gen/countersign/mesh/v1/RouteFieldMatch.ts";
import type { RouteHeaderChange__Output } from "../../proto/gen/countersign/mesh/v1/RouteHeaderChange.ts";
import type { RouteMatch__Output } from "../../proto/gen/countersign/mesh/v1/RouteMatch.ts";
import type { RouteRule__Output } from "../../proto/gen/countersign/mesh/v1/RouteRule.ts";
import type { StickyKey__Output } from "../../proto/gen/countersign/mesh/v1/StickyKey.ts";
import type { Traffic__Output } from "../../proto/gen/countersign/mesh/v1/Traffic.ts";
import { messageCodec } from "../../proto/load.ts";
import { isPolicyField } from "../core/http/headers.ts";
import { ACCESS_CLASSES, WORKLOAD_KINDS } from "../core/policy/call.ts";
import {
  FIELD_MATCH_KINDS,
  type FieldMatch,
  HEADER_ACTIONS,
  type HeaderChange,
  type RouteMatch,
  type RouteRule,
  type ServiceRoute,
  type StickyKey,
} from "../core/traffic/route.ts";
import {
  type HashKey,
  type HealthCheckSettings,
  type HealthProbe,
  type LoadBalancing,
  RETRY_CAUSES,
  type RetrySettings,
  type TrafficSettings,
} from "../core/traffic/traffic.ts";
import { oneOf, portNumber } from "./resource-checks.ts";

const codec = messageCodec<object, Route__Output>("countersign.mesh.v1.Route");

/** All routes of one service together; the control plane keeps to it. */
export const MAX_ROUTE_RULES = 256;

const FIELD_NAME = /^[a-z0-9!#$%&'*+.^_`|~-]{1,128}$/;
const FIELD_VALUE = /^[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]{0,4094}[\x21-\x7e\x80-\xff])?$/;
const PATH = /^\/[\x21-\x7e]{0,1023}$/;
const METHOD = /^[A-Z-]{1,32}$/;

function checked(text: string, pattern: RegExp, what: string): string {
  if (!pattern.test(text)) throw new Error(`${what} \`${text.slice(0, 64)}\` cannot be used`);
  return text;
}

const filled = <T>(list: readonly T[]): readonly T[] | undefined => (list.length === 0 ? undefined : list);
const positive = (value: number): number | undefined => (value === 0 ? undefined : value);

function decodeField({ name, kind, value }: RouteFieldMatch__Output, isHeader: boolean): FieldMatch {
  if (isHeader) checked(name, FIELD_NAME, "header");
  else if (name === "" || kind !== "exact") throw new Error("query parameter is not matched by its value");
  return { name, kind: oneOf(FIELD_MATCH_KINDS, kind, "kind of match"), value };
}

function decodePath({ pathExact, pathPrefix }: RouteMatch__Output): RouteMatch["path"] {
  if (pathExact !== "" && pathPrefix !== "") throw new Error("match has two paths");
  if (pathExact !== "") return { kind: "exact", value: checked(pathExact, PATH, "path") };
  return pathPrefix === "" ? undefined : { kind: "prefix", value: checked(pathPrefix, PATH, "path") };
}

function decodeMatch(match: RouteMatch__Output): RouteMatch {
  const { grpcService: service, grpcMethod: method } = match;
  const decoded: RouteMatch = {
    path: decodePath(match),
    methods: filled(match.methods.map((one) => checked(one, METHOD, "method"))),
    headers: match.headers.map((one) => decodeField(one, true)),
    query: match.query.map((one) => decodeField(one, false)),
    grpc: service === "" && method === "" ? undefined : { service, method },
    roles: filled(match.roles),
    callerKinds: filled(match.callerKinds.map((kind) => oneOf(WORKLOAD_KINDS, kind, "kind"))),
    callerNames: filled(match.callerNames),
    operations: filled(match.operations),
  };
  const { headers, query, ...others } = decoded;
  const isEmpty =
    headers.length + query.length === 0 && Object.values(others).every((one) => one === undefined);
  if (isEmpty) throw new Error("match has no condition that is known to this build");
  return decoded;
}

function decodeSticky({ by, name }: StickyKey__Output): StickyKey {
  const known = oneOf(["user", "workload", "sourceIp", "header", "cookie"], by, "key");
  if (known === "header") return { by: known, name: checked(name, FIELD_NAME, "header") };
  if (known !== "cookie") return { by: known };
  if (name === "") throw new Error("key names no cookie");
  return { by: known, name };
}

function decodeChange({ action, name, value }: RouteHeaderChange__Output): HeaderChange {
  const known = oneOf(HEADER_ACTIONS, action, "action");
  if (!isPolicyField(name)) throw new Error(`header \`${name.slice(0, 64)}\` is not for routes to change`);
  if (known !== "remove" && value !== "") checked(value, FIELD_VALUE, "value of a header");
  return { action: known, name, value };
}

const portOrNone = (port: number): number | undefined => (port === 0 ? undefined : portNumber(port, "port"));

function decodeRule(rule: RouteRule__Output): RouteRule {
  if (rule.backends.length > 0 && !rule.backends.some(({ weight }) => weight > 0))
    throw new Error(`rule \`${rule.name.slice(0, 128)}\` has no backend with a weight`);
  return {
    name: rule.name,
    matches: rule.matches.map(decodeMatch),
    ports: filled(rule.ports.map((port) => portNumber(port, "port"))),
    backends: rule.backends.map(({ service, port, weight }) => ({
      service: service === "" ? undefined : service,
      port: portOrNone(port),
      weight,
    })),
    mirrors: rule.mirrors.map(({ service, port, sharePpm, allMethods }) => {
      if (service === "" || sharePpm > 1_000_000)
        throw new Error("mirror has no service or more than all calls");
      return { service, port: portOrNone(port), share: sharePpm / 1_000_000, allMethods };
    }),
    stickyBy: rule.stickyBy === null ? undefined : decodeSticky(rule.stickyBy),
    requestTimeoutMs: positive(rule.requestTimeoutMs),
    tryTimeoutMs: positive(rule.tryTimeoutMs),
    requestHeaders: rule.requestHeaders.map(decodeChange),
    responseHeaders: rule.responseHeaders.map(decodeChange),
  };
}

function decodeBalancing({ lb, hashBy }: Traffic__Output): LoadBalancing | undefined {
  if (lb === "") return undefined;
  const kind = oneOf(["leastRequest", "roundRobin", "consistentHash"], lb, "load balancing");
  if (kind !== "consistentHash") return { kind };
  const key = hashBy === null ? undefined : decodeSticky(hashBy);
  if (key === undefined || key.by === "cookie") throw new Error("consistent hash has no key that is known");
  return { kind, key: key satisfies HashKey };
}

function decodeProbe({ kind, path, service }: HealthCheck__Output): HealthProbe {
  const known = oneOf(["http", "grpc", "tcp"], kind, "health check");
  if (known === "http") return { kind: known, path: checked(path, PATH, "path") };
  return known === "grpc" ? { kind: known, service } : { kind: known };
}

function atLeastOne(value: number, what: string): number {
  if (value < 1) throw new Error(`${what} is 0`);
  return value;
}

function percent(value: number, what: string): number {
  if (value > 100) throw new Error(`${what} is more than 100`);
  return value;
}

function decodeHealthCheck(check: HealthCheck__Output): HealthCheckSettings {
  return {
    probe: decodeProbe(check),
    intervalMs: atLeastOne(check.intervalMs, "interval"),
    timeoutMs: atLeastOne(check.timeoutMs, "timeout"),
    healthyThreshold: atLeastOne(check.healthyThreshold, "healthy threshold"),
    unhealthyThreshold: atLeastOne(check.unhealthyThreshold, "unhealthy threshold"),
  };
}

function decodeRetries(retries: Retries__Output): RetrySettings {
  return {
    attempts: atLeastOne(retries.attempts, "number of retries"),
    on: retries.on.map((cause) => oneOf(RETRY_CAUSES, cause, "cause of retries")),
    onlyAccess: retries.onlyAccess.map((access) => oneOf(ACCESS_CLASSES, access, "access class")),
    idempotent: retries.idempotent,
    budgetPercent: percent(retries.budgetPercent, "budget of retries"),
    perTryTimeoutMs: positive(retries.tryTimeoutMs),
  };
}

function decodeTraffic(traffic: Traffic__Output): TrafficSettings {
  const { outlier, limits, timeouts } = traffic;
  return {
    lb: decodeBalancing(traffic),
    preferZone: traffic.preferZone,
    healthCheck: traffic.healthCheck === null ? undefined : decodeHealthCheck(traffic.healthCheck),
    outlier:
      outlier === null
        ? undefined
        : {
            consecutive5xx: atLeastOne(outlier.consecutive_5xx, "number of failures"),
            ejectForMs: atLeastOne(outlier.ejectForMs, "ejection"),
            maxEjectPercent: percent(outlier.maxEjectPercent, "part to eject"),
            panicPercent: percent(outlier.panicPercent, "panic threshold"),
          },
    slowStartMs: positive(traffic.slowStartMs),
    limits:
      limits === null
        ? undefined
        : {
            connections: positive(limits.connections),
            pending: positive(limits.pending),
            requests: positive(limits.requests),
          },
    timeouts:
      timeouts === null
        ? undefined
        : {
            connectMs: positive(timeouts.connectMs),
            requestMs: positive(timeouts.requestMs),
            idleMs: positive(timeouts.idleMs),
            streamMs: positive(timeouts.streamMs),
          },
    retries: traffic.retries === null ? undefined : decodeRetries(traffic.retries),
  };
}

/**
 * Reads untrusted bytes.
 *
 * @throws Error with one line that says what cannot be used.
 */
export function decodeRoute(name: string, body: Buffer): ServiceRoute {
  const { service, rules, traffic } = codec.decode(body);
  if (service !== name) throw new Error(`body is about \`${service.slice(0, 128)}\``);
  if (rules.length > MAX_ROUTE_RULES) throw new Error(`route has more than ${MAX_ROUTE_RULES} rules`);
  if (rules.length === 0 && traffic === null) throw new Error("route says nothing");
  return {
    service,
    rules: rules.map(decodeRule),
    traffic: traffic === null ? undefined : decodeTraffic(traffic),
  };
}
