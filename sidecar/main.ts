// The sidecar process: puts identity, discovery and the data path together, and ends them in order.
import type { SidecarConfig } from "./config.ts";
import type { Clock } from "./core/runtime/clock.ts";
import { MeshError } from "./core/runtime/errors.ts";
import type { Logger } from "./core/runtime/log.ts";

export interface SidecarDeps {
  readonly log: Logger;
  readonly clock: Clock;
}

/** Ports as bound (a configured 0 is replaced); undefined for Unix sockets and listeners that are off. */
export interface SidecarPorts {
  readonly mesh: number;
  readonly outbound: number | undefined;
  readonly metrics: number | undefined;
  /** In the order of `localServices`. */
  readonly local: readonly (number | undefined)[];
}

export interface SidecarHandle {
  readonly ports: SidecarPorts;
  /** Resolves with the first table in force; never rejects. */
  readonly ready: Promise<void>;
  /** Resolves after the drain that the signal's abort begins. */
  readonly done: Promise<void>;
}

/**
 * Starts a sidecar; resolves when its listeners are bound. Calls are denied (`NOT_READY`) until identity and table
 * are there.
 *
 * @throws MeshError `bad_config`, `join_rejected`, `io_failed` (a port is taken).
 */
export async function runSidecar(
  config: SidecarConfig,
  deps: SidecarDeps,
  signal: AbortSignal,
): Promise<SidecarHandle> {
  void config;
  void deps;
  void signal;
  throw new MeshError("unsupported", "sidecar is not written yet");
}
