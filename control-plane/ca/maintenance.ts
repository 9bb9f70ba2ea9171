// Keeps the authority fresh: the replica that leads renews certificates and token keys, the others take up what it
// wrote; whoever changed the trust bundle, it is told.
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import type { AuthorityChange, CertificateAuthority } from "./root.ts";

export interface MaintenanceDeps {
  readonly ca: Pick<
    CertificateAuthority,
    "maintain" | "refresh" | "restore" | "subscribe" | "sequence" | "polled" | "isConstrained"
  >;
  readonly clock: Clock;
  readonly log: Logger;
  /** The bundle is another one now and is to reach every sidecar. */
  readonly onBundle: () => void;
  /** Whether this replica is the one that renews; asked each time. Always, unless given. */
  readonly isLeader?: (() => boolean) | undefined;
}

/** Keys are published a day and certificates renewed 30 days ahead: an hour is often enough, after a failure too. */
const INTERVAL_MS = 3_600_000;
/** How soon a replica has what the leader wrote. */
const POLL_MS = 5_000;

/**
 * Looks every hour, and every 5 s where others write too or files are mounted, until `signal` aborts. A failure is logged
 * and tried again; what was in use stays in use.
 */
export async function runAuthorityMaintenance(deps: MaintenanceDeps, signal: AbortSignal): Promise<void> {
  const { ca, clock, onBundle } = deps;
  const leads = deps.isLeader ?? (() => true);
  const unsubscribe = ca.subscribe((change: AuthorityChange) => {
    if (change.bundle) onBundle();
  });
  if (!ca.isConstrained)
    deps.log.warn("mounted issuer has no name constraints", {
      next: "limit its root or issuing certificate to URIs of the trust domain, and share the root with nothing else",
    });
  let dueMs = Number.NEGATIVE_INFINITY;
  let failure = "";
  while (!signal.aborted) {
    try {
      if (ca.polled) await takeUp(deps, leads());
      if (leads() && clock.monotonicMs() >= dueMs) {
        const changed = await ca.maintain();
        dueMs = clock.monotonicMs() + INTERVAL_MS;
        if (changed) deps.log.info("certificate authority renewed", { sequence: ca.sequence });
      }
      if (failure !== "") deps.log.info("certificate authority is read again");
      failure = "";
    } catch (error) {
      // Every 5 s the same line would hide the others.
      if (messageOf(error) !== failure)
        deps.log.error("certificate authority not renewed", { error: messageOf(error) });
      failure = messageOf(error);
    }
    // A new leader maintains as soon as it knows; the one that was does not.
    if (!leads()) dueMs = Number.NEGATIVE_INFINITY;
    await clock.sleep(ca.polled ? POLL_MS : INTERVAL_MS, signal);
  }
  unsubscribe();
}

/** Reads what others wrote; the leader puts back what somebody removed. */
async function takeUp({ ca, log }: MaintenanceDeps, leads: boolean): Promise<void> {
  try {
    const { bundle, issuing } = await ca.refresh();
    if (bundle || issuing)
      log.info("certificate authority taken up", { sequence: ca.sequence, bundle, issuing });
    // Mounted roots changed: the leader writes the sequence that goes with them.
    if (bundle && leads) await ca.maintain();
  } catch (error) {
    if (!(error instanceof MeshError) || error.code !== "not_found" || !leads) throw error;
    await ca.restore();
    log.warn("certificate authority was removed and is stored again", { sequence: ca.sequence });
  }
}
