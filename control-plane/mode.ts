// What differs between the two places a mesh can be configured in, a directory and a cluster: where the state comes
// from, where keys, history and status last, and what else is served. main.ts runs either.
import type { Clock } from "../sidecar/core/runtime/clock.ts";
import type { Logger } from "../sidecar/core/runtime/log.ts";
import type { ServiceAccountAttestor } from "./attestation/service-account.ts";
import type { JoinTokenStore } from "./ca/join-tokens.ts";
import type { CertificateAuthority } from "./ca/root.ts";
import type { ControlPlaneConfig } from "./config.ts";
import type { ProxyStatus } from "./discovery/server.ts";
import type { RevisionHistory } from "./management/history.ts";
import type { ManagementActions } from "./management/routes.ts";
import type { ControlPlaneMetrics } from "./metrics.ts";
import type { Publisher } from "./publisher.ts";
import type { RevocationList, RevocationStore } from "./revocations/store.ts";
import type { ServerCredentials } from "./server-credentials.ts";
import type { SourceReport } from "./sources/field-problem.ts";
import type { ClusterState } from "./sources/store.ts";
import type { StatusWorld, StatusWriter } from "./status/writer.ts";
import type { OpenedAudit } from "./tokens/audit.ts";
import type { ChangeActors } from "./tokens/change-actors.ts";
import type { LoginRecords } from "./tokens/live-logins.ts";
import type { OneTimeUses } from "./tokens/one-time-use.ts";

export interface Deps {
  readonly log: Logger;
  readonly clock: Clock;
}

/** Undoes one thing at shutdown. */
export type Closer = () => Promise<unknown>;

export interface RunningSource {
  /** Rejects when the source failed for good. */
  readonly done: Promise<void>;
  /**
   * Whether this replica knows all that any replica knew `ms` ago. A directory has one control plane, which is never
   * behind.
   */
  isCurrent(ms: number): boolean;
}

/** What runs in both modes, for what a mode serves besides. */
export interface Parts {
  readonly config: ControlPlaneConfig;
  readonly publisher: Publisher;
  readonly history: RevisionHistory;
  readonly ca: CertificateAuthority;
  readonly credentials: ServerCredentials;
  readonly metrics: ControlPlaneMetrics;
  readonly actions: ManagementActions;
  readonly revocations: RevocationStore;
  readonly status: StatusWriter;
  readonly world: StatusWorld;
  /** Who asked for changes that come into force. */
  readonly actors: ChangeActors;
  /** Calls the listener whenever a sidecar came, went, or stands differently. */
  onProxies(listener: () => void): void;
}

export interface Mode {
  /** Trust domain that the installation fixes; undefined: that of the first state. */
  readonly trustDomain: string | undefined;
  /** Whether revisions are numbered by the source (resource versions), or one after the other. */
  readonly numbersRevisions: boolean;
  /** Sidecars of all replicas. @param own those connected to this one. */
  allProxies(own: readonly ProxyStatus[]): readonly ProxyStatus[];
  /** Where statuses are written as files; undefined: they are written into the objects. */
  readonly statusDir: string | undefined;
  /** Whether this process is the one that writes what all replicas share. */
  isLeader(): boolean;
  runSource(onState: (state: ClusterState, report: SourceReport) => void, signal: AbortSignal): RunningSource;
  /** @param onPinned called when another replica pinned the mesh or released it. */
  openHistory(onPinned: () => void, signal: AbortSignal): Promise<RevisionHistory>;
  /** Fills the list, and keeps it as it is kept. @throws MeshError `bad_config` when what is kept cannot be read. */
  openRevocations(list: RevocationList, signal: AbortSignal): Promise<RevocationStore>;
  /** What counts once. */
  readonly oneTimeUses: OneTimeUses;
  openTokenAudit(): Promise<OpenedAudit>;
  /** Where replicas tell each other of logins; undefined: there is one control plane. */
  readonly loginRecords: LoginRecords | undefined;
  /** Where join tokens are kept. */
  readonly joinTokens: JoinTokenStore;
  openAuthority(trustDomain: string): Promise<CertificateAuthority>;
  /** Knows pods by their ServiceAccount tokens; undefined: there are none. */
  attestor(trustDomain: string, state: () => ClusterState): ServiceAccountAttestor | undefined;
  /** The rest of what is served. @returns what to undo at shutdown, last first. */
  serve(parts: Parts, signal: AbortSignal): Promise<readonly Closer[]>;
}
