// The sidecar's resources: applies deltas whole or not at all, decodes them into a SidecarTable, and keeps the last
// good ones on disk so that a restarted sidecar serves without a control plane.
import { MeshError, type Result } from "../core/runtime/errors.ts";
import type { Logger } from "../core/runtime/log.ts";
import type { MeshService, SidecarTable } from "./table.ts";

export interface ResourceStoreOptions {
  /** Directory (0700) for the last good resources; undefined: nothing is kept. */
  readonly stateDir: string | undefined;
  readonly log: Logger;
}

export interface ResourceStore {
  /** The table in force; undefined before the first configuration. */
  readonly table: SidecarTable | undefined;
}

/** Opens the store and loads the last good resources; what is damaged is ignored with a log line. */
export async function openResourceStore(options: ResourceStoreOptions): Promise<ResourceStore> {
  void options;
  throw new MeshError("unsupported", "resource store is not written yet");
}
export type { MeshService, Result };
