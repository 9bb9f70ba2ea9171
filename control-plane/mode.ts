// What differs between the two places a mesh can be configured in, a directory and a cluster: where the state comes
// from, where keys and history last, and what else is served. main.ts runs either.
import type { CertificateAuthority } from "./ca/root.ts";
import type { SourceReport } from "./sources/field-problem.ts";
import type { ClusterState } from "./sources/store.ts";

export type OnState = (state: ClusterState, report: SourceReport) => void;

export interface RunningSource {
  /** Rejects when the source failed for good. */
  readonly done: Promise<void>;
  /**
   * Whether this replica knows all that any replica knew `ms` ago. A directory has one control plane, which is never
   * behind.
   */
  isCurrent(ms: number): boolean;
}

export interface Mode {
  runSource(onState: OnState, signal: AbortSignal): RunningSource;
  /** Trust domain that the installation fixes; undefined: that of the first state. */
  readonly trustDomain: string | undefined;
  openAuthority(trustDomain: string): Promise<CertificateAuthority>;
  /** Whether revisions are numbered by the source (resource versions), or one after the other. */
  readonly numbersRevisions: boolean;
}
