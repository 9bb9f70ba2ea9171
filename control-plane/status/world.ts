// What status is made of, and where it goes: the two borders of this folder.
import type { ProxyStatus } from "../discovery/server.ts";
import type { Compiled } from "../policy/compile.ts";
import type { PolicyStatus, Refusal } from "./conditions.ts";

/** An object whose present version was refused. */
export interface RefusedObject {
  /** `Kind/namespace/name` or `Kind/name`. */
  readonly object: string;
  readonly refusals: readonly Refusal[];
}

/** A refused Deny whose last accepted version stays in force. */
export interface LastAccepted {
  /** `Kind/namespace/name` or `Kind/name`. */
  readonly key: string;
  readonly generation: number;
  readonly spec: unknown;
}

/** What status is made of; read at each writing. */
export interface StatusWorld {
  readonly compiled: () => Compiled | undefined;
  /** Sidecars of all replicas, as far as this one knows. */
  readonly proxies: () => readonly ProxyStatus[];
  readonly refused: () => readonly RefusedObject[];
  /** All problems of the source, formatted. */
  readonly problems: () => readonly string[];
  readonly revision: () => number;
  readonly pinned: () => number | undefined;
  /** In a cluster: the generation of an object that the source has judged last; undefined where it has not seen it. */
  readonly generationOf?: (object: string) => number | undefined;
  /** In a cluster: what status has to keep for a restart. */
  readonly standIns?: () => readonly LastAccepted[];
}

/** Where statuses are written. */
export interface StatusSink {
  /** This object's status is another than before, or it is gone. Called with all objects once, then with what changed. */
  put(object: string, status: PolicyStatus | undefined): void;
  /**
   * Comes after a round of `put`s, at most every two seconds. Resolves when they are written, or are the sink's own
   * worry; rejects when the round shall be tried again.
   */
  flush(): Promise<void>;
}
