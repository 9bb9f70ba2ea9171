// TrafficPolicy: how the calls to some workloads are carried, typed; PURE.
import { ACCESS_CLASSES } from "../../sidecar/core/policy/call.ts";
import type { Result } from "../../sidecar/core/runtime/errors.ts";
import {
  type EndpointLimits,
  type HealthCheckSettings,
  type HealthProbe,
  type LoadBalancing,
  type OutlierSettings,
  RETRY_CAUSES,
  type RetrySettings,
  type TrafficTimeouts,
} from "../../sidecar/core/traffic/traffic.ts";
import type { FieldProblem } from "../sources/field-problem.ts";
import type { ValidObject } from "../sources/schema.ts";
import type { TrafficPolicy } from "../sources/store.ts";
import { FieldReader } from "./field-reader.ts";
import { isRoutePath, parseStickyKey } from "./route-policy.ts";
import { readTarget } from "./rule-fields.ts";

function readBalancing(fields: FieldReader): LoadBalancing | undefined {
  const kind = fields.oneOf("lb", ["leastRequest", "roundRobin", "consistentHash"] as const);
  const text = fields.text("hashBy");
  if ((text !== undefined) !== (kind === "consistentHash"))
    fields.report("`hashBy` belongs to `lb: consistentHash`, which needs it", "hashBy");
  if (kind !== "consistentHash") return kind && { kind };
  const key = parseStickyKey(text ?? "workload");
  if (key !== undefined && key.by !== "cookie") return { kind, key };
  fields.report("must be `user`, `workload`, `sourceIp` or `header:name`", "hashBy");
  return undefined;
}

function readProbe(fields: FieldReader): HealthProbe {
  fields.require("type");
  const kind = fields.oneOf("type", ["http", "grpc", "tcp"] as const) ?? "tcp";
  const path = fields.text("path");
  const service = fields.text("service");
  if ((path !== undefined) !== (kind === "http"))
    fields.report("`path` belongs to type `http`, which needs it", "path");
  if (path !== undefined && !isRoutePath(path))
    fields.report("must begin with `/` and have no query, escape, space or fragment", "path");
  if (service !== undefined && kind !== "grpc") fields.report("`service` belongs to type `grpc`", "service");
  if (kind === "http") return { kind, path: path ?? "/" };
  return kind === "grpc" ? { kind, service: service ?? "" } : { kind };
}

function readHealthCheck(fields: FieldReader): HealthCheckSettings {
  return {
    probe: readProbe(fields),
    intervalMs: fields.fineDurationMs("interval") ?? 10_000,
    timeoutMs: fields.fineDurationMs("timeout") ?? 1_000,
    healthyThreshold: fields.integer("healthyThreshold", 1, 100) ?? 1,
    unhealthyThreshold: fields.integer("unhealthyThreshold", 1, 100) ?? 3,
  };
}

function readOutlier(fields: FieldReader): OutlierSettings {
  return {
    consecutive5xx: fields.integer("consecutive5xx", 1, 1000) ?? 5,
    ejectForMs: fields.fineDurationMs("ejectFor") ?? 30_000,
    maxEjectPercent: fields.integer("maxEjectPercent", 0, 100) ?? 50,
    panicPercent: fields.integer("panicPercent", 0, 100) ?? 50,
  };
}

function readLimits(fields: FieldReader): EndpointLimits {
  return {
    connections: fields.integer("connections", 1, 1_000_000),
    pending: fields.integer("pending", 1, 1_000_000),
    requests: fields.integer("requests", 1, 1_000_000),
  };
}

function readTimeouts(fields: FieldReader): TrafficTimeouts {
  return {
    connectMs: fields.fineDurationMs("connect"),
    requestMs: fields.fineDurationMs("request"),
    idleMs: fields.fineDurationMs("idle"),
    streamMs: fields.fineDurationMs("stream"),
  };
}

function readRetries(fields: FieldReader): RetrySettings {
  return {
    attempts: fields.integer("attempts", 1, 10) ?? 2,
    on: fields.choices("retryOn", RETRY_CAUSES) ?? ["connect-failure", "503"],
    onlyAccess: fields.choices("onlyAccess", ACCESS_CLASSES) ?? [],
    idempotent:
      fields.texts("idempotent", (operation) =>
        operation.includes("*")
          ? "takes no wildcard: an operation covers everything below it at a dot"
          : undefined,
      ) ?? [],
    budgetPercent: fields.integer("budgetPercent", 0, 100) ?? 20,
    perTryTimeoutMs: fields.fineDurationMs("perTryTimeout"),
  };
}

/** The typed form of a policy. */
export function parseTrafficPolicy(object: ValidObject): Result<TrafficPolicy, readonly FieldProblem[]> {
  const problems: FieldProblem[] = [];
  const fields = new FieldReader(object.spec, "spec", problems);
  const policy: TrafficPolicy = {
    kind: "TrafficPolicy",
    name: object.name,
    namespace: object.namespace ?? "",
    generation: object.generation,
    targets: fields.objects("targets", (target) => {
      const match = readTarget(target, false);
      if (match.ports !== undefined || match.external !== undefined)
        target.report("targets of a TrafficPolicy are workloads: state `kinds`, `names` or `selector`");
      return match;
    }),
    settings: {
      lb: readBalancing(fields),
      preferZone: fields.flag("preferZone"),
      healthCheck: fields.object("healthCheck", readHealthCheck),
      outlier: fields.object("outlier", readOutlier),
      slowStartMs: fields.fineDurationMs("slowStart"),
      limits: fields.object("limits", readLimits),
      timeouts: fields.object("timeouts", readTimeouts),
      retries: fields.object("retries", readRetries),
    },
  };
  if (Object.values(policy.settings).every((one) => one === undefined))
    fields.report("state something beside `targets`");
  fields.end();
  return problems.length > 0 ? { ok: false, error: problems } : { ok: true, value: policy };
}
