// How calls to one service are carried: what a TrafficPolicy says, as the callers' sidecars are told it. Types only.
import type { AccessClass } from "../policy/call.ts";

/** What requests are kept together by on one endpoint. */
export type HashKey =
  | { readonly by: "header"; readonly name: string }
  | { readonly by: "user" }
  | { readonly by: "workload" }
  | { readonly by: "sourceIp" };

export type LoadBalancing =
  | { readonly kind: "leastRequest" }
  | { readonly kind: "roundRobin" }
  | { readonly kind: "consistentHash"; readonly key: HashKey };

export type HealthProbe =
  /** An ordinary request of the caller, which policy must allow; 2xx is good. */
  | { readonly kind: "http"; readonly path: string }
  /** `grpc.health.v1.Health/Check` with this service name (empty: the whole server), which policy must allow. */
  | { readonly kind: "grpc"; readonly service: string }
  /** The endpoint's sidecar answers a ping. */
  | { readonly kind: "tcp" };

export interface HealthCheckSettings {
  readonly probe: HealthProbe;
  readonly intervalMs: number;
  readonly timeoutMs: number;
  /** Good results in a row until an endpoint is healthy again. */
  readonly healthyThreshold: number;
  readonly unhealthyThreshold: number;
}

export interface OutlierSettings {
  /** Failures in a row: answers of 500 and above, broken and refused connections, answers that did not come. */
  readonly consecutive5xx: number;
  /** Milliseconds of the first rest; the n-th takes n times as long, at most five minutes. */
  readonly ejectForMs: number;
  /** Of the endpoints; one may always be ejected where there are two. 0: none. */
  readonly maxEjectPercent: number;
  /** When less than this part is usable, health counts no more. 0: never. */
  readonly panicPercent: number;
}

/** Per endpoint and caller. */
export interface EndpointLimits {
  readonly connections: number | undefined;
  /** Requests that wait for a connection or a stream. */
  readonly pending: number | undefined;
  /** Requests under way. */
  readonly requests: number | undefined;
}

export interface TrafficTimeouts {
  /** TCP connect and handshakes towards the endpoint. */
  readonly connectMs: number | undefined;
  /** From the request's head to the end of the answer, all attempts together. */
  readonly requestMs: number | undefined;
  /** Without a byte either way. */
  readonly idleMs: number | undefined;
  /** Without a byte either way on an upgraded connection or a TCP connection. */
  readonly streamMs: number | undefined;
}

export const RETRY_CAUSES = [
  /** No connection stands: certainly not processed. Retried without being named, too. */
  "connect-failure",
  /** The connection or the stream broke before the answer. */
  "reset",
  /** 502, 503 or 504. */
  "gateway-error",
  "503",
  /** gRPC status UNAVAILABLE before any message. */
  "unavailable",
] as const;
export type RetryCause = (typeof RETRY_CAUSES)[number];

export interface RetrySettings {
  /** Times that a request is sent again, at most. */
  readonly attempts: number;
  readonly on: readonly RetryCause[];
  /** Access classes of operations that may be repeated; empty: `read`, and methods that are idempotent by RFC 9110. */
  readonly onlyAccess: readonly AccessClass[];
  /** Operations that the callee declares idempotent, whatever their class: `serving.invoke` covers `serving.invoke.chat`. */
  readonly idempotent: readonly string[];
  /** Retries per hundred requests of the last ten seconds; three a second are always there. */
  readonly budgetPercent: number;
  /** Until an attempt's answer begins. */
  readonly perTryTimeoutMs: number | undefined;
}

/** Every field undefined: as built in. */
export interface TrafficSettings {
  readonly lb: LoadBalancing | undefined;
  /** Endpoints in the caller's zone first. */
  readonly preferZone: boolean;
  readonly healthCheck: HealthCheckSettings | undefined;
  readonly outlier: OutlierSettings | undefined;
  /** Until an endpoint that came or recovered gets a full share. */
  readonly slowStartMs: number | undefined;
  readonly limits: EndpointLimits | undefined;
  readonly timeouts: TrafficTimeouts | undefined;
  readonly retries: RetrySettings | undefined;
}
