// What every request on the mesh port shares: the state in force and the parts of the process it uses.

import type { AuditTrail } from "../audit/trail.ts";
import type { ConcurrencyLimiter } from "../balance/concurrency.ts";
import type { Deadlines } from "../balance/deadlines.ts";
import type { RateLimiter } from "../balance/limits.ts";
import type { Limits, SocketAddress, Timeouts } from "../config.ts";
import type { HeldTxn } from "../core/identity/held-txn.ts";
import type { Clock } from "../core/runtime/clock.ts";
import type { SidecarMetrics } from "../metrics.ts";
import type { AccessLog } from "../telemetry/access-log.ts";
import type { Correlation } from "../telemetry/correlation.ts";
import type { HeldChains } from "../telemetry/held-chains.ts";
import type { RandomIds } from "../telemetry/random-ids.ts";
import type { FieldCache } from "../wire/field-cache.ts";
import type { Http2Shared } from "../wire/http2/shared.ts";
import type { AppSide } from "./app-side.ts";
import type { Enforcement } from "./authorize.ts";
import type { PeerLeaves } from "./peer-leaves.ts";
import type { ReplayMemory } from "./replay.ts";
import type { WaitingBytes } from "./waiting-body.ts";

/** What is in force; swapped by the data plane between requests. */
export interface InboundState {
  readonly enforcement: Enforcement | undefined;
  /** Own certificate, Unix milliseconds. */
  readonly identityUntilMs: number;
  /** Epoch of the bundle of a trust domain. */
  readonly bundleEpoch: string;
  /** Whether calls that the application makes continue the chain of the call with the same trace id. */
  readonly carriesTrace: boolean;
}

/** Who acts for the one user of this workload by itself (propagation mode `session`). */
export interface LoginWatch {
  /** @param nowMs control plane's time. */
  notice(txn: HeldTxn, nowMs: number): void;
}

export interface InboundServices {
  readonly state: InboundState;
  readonly cache: FieldCache;
  readonly http2: Http2Shared;
  readonly clock: Clock;
  /** Control plane's time, Unix milliseconds: what decisions are made on. */
  readonly meshNowMs: () => number;
  readonly metrics: SidecarMetrics;
  readonly trail: AuditTrail;
  readonly accessLog: AccessLog | undefined;
  readonly ids: RandomIds;
  /** undefined when the workload calls nobody or does not propagate by trace id. */
  readonly correlation: Correlation | undefined;
  /** Transaction tokens that the application got. */
  readonly held: HeldChains;
  /** Is told of people whose calls are served; undefined: this sidecar never acts for a user of its own. */
  readonly ownUser: LoginWatch | undefined;
  readonly limiter: RateLimiter;
  readonly concurrency: ConcurrencyLimiter;
  readonly replays: ReplayMemory;
  readonly timeouts: Timeouts;
  readonly limits: Limits;
  /** Of bodies that wait for a decision or for the application. */
  readonly waiting: WaitingBytes;
  /** The application behind a declared port. @param http2 whether it speaks HTTP/2. */
  readonly app: (port: number, http2: boolean) => AppSide;
  /** Tells gRPC calls when their time is over. */
  readonly deadlines: Deadlines;
  /** Connections to the application that are passed on unseen; they have a limit of their own, as large as the pools'. */
  readonly openTunnels: { count: number };
  readonly leaves: PeerLeaves;
  /** Where the application serves a declared port. */
  readonly appAddress: (port: number) => SocketAddress;
}
