// Keeps the authority's own certificate and token keys fresh, and tells when the trust bundle changed by it.
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { messageOf } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import type { CertificateAuthority } from "./root.ts";

export interface MaintenanceDeps {
  readonly ca: Pick<CertificateAuthority, "maintain" | "sequence">;
  readonly clock: Clock;
  readonly log: Logger;
  /** The bundle has another sequence now and is to reach every sidecar. */
  readonly onBundle: () => void;
}

/** Keys are published a day and certificates renewed 30 days ahead: an hour is often enough, after a failure too. */
const INTERVAL_MS = 3_600_000;

/** Looks every hour until `signal` aborts; a failure is logged and tried again, what was in use stays in use. */
export async function runAuthorityMaintenance(deps: MaintenanceDeps, signal: AbortSignal): Promise<void> {
  const { ca, clock, log, onBundle } = deps;
  let { sequence } = ca;
  while (!signal.aborted) {
    try {
      if (await ca.maintain()) log.info("certificate authority renewed", { sequence: ca.sequence });
      if (ca.sequence !== sequence) onBundle();
      sequence = ca.sequence;
    } catch (error) {
      log.error("certificate authority not renewed", { error: messageOf(error) });
    }
    await clock.sleep(INTERVAL_MS, signal);
  }
}
