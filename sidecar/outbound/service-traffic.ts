// PURE. How calls to one service are carried, with every default filled in: what its TrafficPolicy says, else the settings of
// this sidecar.
import type {
  HealthCheckSettings,
  LoadBalancing,
  OutlierSettings,
  RetrySettings,
  TrafficSettings,
} from "../core/traffic/traffic.ts";

/** Of one endpoint. */
export interface EndpointBounds {
  readonly connections: number;
  readonly pending: number;
  /** Infinity: as many as streams allow. */
  readonly requests: number;
  readonly connectMs: number;
}

/** Of one request; Infinity: without limit. */
export interface RequestTiming {
  readonly requestMs: number;
  readonly idleMs: number;
  /** Of gRPC calls, which may be silent for long: only what a policy says. */
  readonly grpcIdleMs: number;
  /** Of tunnels and upgraded streams. */
  readonly streamMs: number;
  readonly perTryMs: number;
  /** A limit that the sweep of connections, twice a second, would tell too late. */
  readonly isPrecise: boolean;
}

export interface ServiceTraffic {
  readonly lb: LoadBalancing;
  readonly preferZone: boolean;
  readonly bounds: EndpointBounds;
  readonly timing: RequestTiming;
  readonly healthCheck: HealthCheckSettings | undefined;
  readonly outlier: OutlierSettings | undefined;
  readonly retries: RetrySettings | undefined;
  /** 0: new endpoints get a full share at once. */
  readonly slowStartMs: number;
  /** Whether it matters how a request was answered. */
  readonly watchesAnswers: boolean;
}

/** What holds where no policy says otherwise. */
export interface TrafficDefaults {
  readonly connectMs: number;
  /** Without a byte either way, before and in the answer. */
  readonly idleMs: number;
  readonly pending: number;
}

/** At 256 streams each; a second one is opened when the first has no stream left. */
const MAX_CONNECTIONS = 8;

const LEAST_REQUEST: LoadBalancing = { kind: "leastRequest" };

/** Fills in what `settings` leaves open. */
export function resolveTraffic(
  settings: TrafficSettings | undefined,
  defaults: TrafficDefaults,
): ServiceTraffic {
  const { limits, timeouts, retries } = settings ?? {};
  return {
    lb: settings?.lb ?? LEAST_REQUEST,
    preferZone: settings?.preferZone ?? false,
    bounds: {
      connections: limits?.connections ?? MAX_CONNECTIONS,
      pending: limits?.pending ?? defaults.pending,
      requests: limits?.requests ?? Number.POSITIVE_INFINITY,
      connectMs: timeouts?.connectMs ?? defaults.connectMs,
    },
    timing: {
      requestMs: timeouts?.requestMs ?? Number.POSITIVE_INFINITY,
      idleMs: timeouts?.idleMs ?? defaults.idleMs,
      grpcIdleMs: timeouts?.idleMs ?? Number.POSITIVE_INFINITY,
      streamMs: timeouts?.streamMs ?? Number.POSITIVE_INFINITY,
      perTryMs: retries?.perTryTimeoutMs ?? Number.POSITIVE_INFINITY,
      isPrecise:
        timeouts?.requestMs !== undefined ||
        timeouts?.idleMs !== undefined ||
        retries?.perTryTimeoutMs !== undefined,
    },
    healthCheck: settings?.healthCheck,
    outlier: settings?.outlier,
    retries,
    slowStartMs: settings?.slowStartMs ?? 0,
    watchesAnswers: retries !== undefined || settings?.outlier !== undefined,
  };
}
