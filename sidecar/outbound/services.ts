// What every request of the application to the mesh shares: the state in force and the parts of the process it uses.
import type { AuditTrail } from "../audit/trail.ts";
import type { Deadlines } from "../balance/deadlines.ts";
import type { Limits, Timeouts } from "../config.ts";
import type { MessageRoom } from "../core/http/grpc-messages.ts";
import type { WorkloadIdentity } from "../core/identity/workload-identity.ts";
import type { Clock } from "../core/runtime/clock.ts";
import type { Resolution } from "../discovery/resolver.ts";
import type { SidecarMetrics } from "../metrics.ts";
import type { AccessLog } from "../telemetry/access-log.ts";
import type { CallChain, Correlation } from "../telemetry/correlation.ts";
import type { HeldChains } from "../telemetry/held-chains.ts";
import type { RandomIds } from "../telemetry/random-ids.ts";
import type { FieldCache } from "../wire/field-cache.ts";
import type { Http2Shared } from "../wire/http2/shared.ts";
import type { Externals } from "./external.ts";
import type { ExternalPools } from "./external-pools.ts";
import type { MirrorBudget } from "./mirror.ts";
import type { Directory } from "./resolve.ts";

export interface OutboundState {
  readonly directory: Directory | undefined;
  /** Hosts outside the mesh that may be called; undefined: none. */
  readonly externals: Externals | undefined;
  readonly identity: WorkloadIdentity | undefined;
  /** Own certificate, Unix milliseconds; 0 without an identity. */
  readonly identityUntilMs: number;
  /** See `InboundState.carriesTrace`. */
  readonly carriesTrace: boolean;
  /** Whether transaction tokens that the application sends go on (propagation mode `forward`). */
  readonly takesTxn: boolean;
}

/** The one user of a workload that has one (propagation mode `session`). */
export interface OwnUser {
  /** The chain of its calls now; `waiting`: its token must be asked for; undefined: there is no user. */
  chain(nowMs: number): CallChain | undefined | "waiting" | "unavailable";
  /** The same when it has been asked for; undefined: it could not be had, and calls go on as the workload's. Never rejects. */
  wait(): Promise<CallChain | undefined>;
}

export interface OutboundServices {
  readonly state: OutboundState;
  readonly cache: FieldCache;
  readonly http2: Http2Shared;
  readonly clock: Clock;
  readonly meshNowMs: () => number;
  readonly metrics: SidecarMetrics;
  readonly trail: AuditTrail;
  readonly accessLog: AccessLog | undefined;
  readonly ids: RandomIds;
  readonly correlation: Correlation | undefined;
  /** Transaction tokens that the application got. */
  readonly held: HeldChains;
  /** undefined: this sidecar never acts for a user of its own. */
  readonly ownUser: OwnUser | undefined;
  readonly timeouts: Timeouts;
  readonly limits: Limits;
  /** Tells requests with short limits when their time is over. */
  readonly deadlines: Deadlines;
  /** Room for messages that wait for the rest of them to be decided on. */
  readonly waiting: MessageRoom;
  /** Connections to hosts outside the mesh. */
  readonly externalPools: ExternalPools;
  /** Copies under way. */
  readonly mirrors: MirrorBudget;
  /** In [0, 1). */
  readonly random: () => number;
  /** Name of this pod or machine. */
  readonly node: string;
  /** Asks the control plane for a name that the table does not hold. */
  readonly resolve: (host: string, port: number) => Promise<Resolution>;
}
