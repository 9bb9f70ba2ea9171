// The control-plane process in directory mode: directory -> compile -> resources -> discovery, with its certificate
// authority, status, history and management API. Start-up and shutdown order are written here and nowhere else.
import type { Clock } from "../sidecar/core/runtime/clock.ts";
import { MeshError } from "../sidecar/core/runtime/errors.ts";
import type { Logger } from "../sidecar/core/runtime/log.ts";
import type { ControlPlaneConfig, ControlPlanePorts } from "./config.ts";

export interface ControlPlaneHandle {
  readonly ports: ControlPlanePorts;
  readonly managementSocket: string;
  /** Resolves when everything is closed after the signal aborted; rejects when a part failed for good. */
  readonly done: Promise<void>;
}

/**
 * Starts the control plane and returns once it serves.
 *
 * @throws MeshError `bad_config` (directory missing or unusable, state directory in use by another process, port taken).
 */
export async function runControlPlane(
  config: ControlPlaneConfig,
  deps: { readonly log: Logger; readonly clock: Clock },
  signal: AbortSignal,
): Promise<ControlPlaneHandle> {
  void config;
  void deps;
  void signal;
  throw new MeshError("unsupported", "control plane is not written yet");
}
