// Keeps the identity of this process fresh: renews at half of its lifetime, retries with back-off, and never lets go of
// the old identity before the new one is in use.
import { renewAtMs } from "../core/identity/renewal.ts";
import type { WorkloadIdentity } from "../core/identity/workload-identity.ts";
import { backoffMs } from "../core/runtime/backoff.ts";
import type { Clock } from "../core/runtime/clock.ts";
import { messageOf } from "../core/runtime/errors.ts";
import type { Logger } from "../core/runtime/log.ts";

export interface RotatorDeps {
  readonly clock: Clock;
  readonly random: () => number;
  readonly log: Logger;
  /** The identity in use; undefined before the first. */
  readonly current: () => WorkloadIdentity | undefined;
  /** Makes keys, has them certified and puts the identity together (`createWorkloadIdentity` checks it). */
  readonly issue: (signal: AbortSignal) => Promise<WorkloadIdentity>;
  /** Puts it into use (TLS contexts, store); when this throws the old one stays and the renewal is tried again. */
  readonly onIdentity: (identity: WorkloadIdentity) => void | Promise<void>;
  /** Asked before each wait for the next renewal: aborts when one is wanted before it is due. */
  readonly early?: () => AbortSignal;
  /** One attempt may take this long. */
  readonly timeoutMs?: number | undefined;
}

const RETRY = { firstMs: 1_000, maxMs: 60_000 };
/** Without a valid certificate every call fails: the control plane's return must be noticed soon. */
const RETRY_EXPIRED = { firstMs: 1_000, maxMs: 10_000 };
/** A pause is at most this part of the certificate's remaining life. */
const LEFT_SHARE = 10;
const ATTEMPT_TIMEOUT_MS = 15_000;
// However short a lifetime is configured, renewals never turn into a busy loop.
const SHORTEST_WAIT_MS = 250;

/** Runs one attempt with its own time limit; the late answer of an abandoned attempt is dropped. */
async function attempt(deps: RotatorDeps, signal: AbortSignal): Promise<WorkloadIdentity> {
  const limit = new AbortController();
  const either = AbortSignal.any([signal, limit.signal]);
  const timeoutMs = deps.timeoutMs ?? ATTEMPT_TIMEOUT_MS;
  const late = deps.clock.sleep(timeoutMs, either).then((): never => {
    throw new Error(`no certificate within ${timeoutMs} ms`);
  });
  try {
    return await Promise.race([deps.issue(either), late]);
  } finally {
    // Ends the sleep; its rejection has no reader any more.
    late.catch(() => undefined);
    limit.abort();
  }
}

/** Keeps one identity fresh until `signal` aborts; begins at once when there is none. */
export async function runRotator(deps: RotatorDeps, signal: AbortSignal): Promise<void> {
  const { clock, random, log } = deps;
  let failures = 0;
  while (!signal.aborted) {
    const held = deps.current();
    if (failures === 0 && held !== undefined) {
      const dueMs = renewAtMs(held.notBeforeMs, held.notAfterMs, random());
      const wake = deps.early === undefined ? signal : AbortSignal.any([signal, deps.early()]);
      await clock.sleep(Math.max(SHORTEST_WAIT_MS, dueMs - clock.nowMs()), wake);
      if (signal.aborted) return;
    }
    try {
      const identity = await attempt(deps, signal);
      await deps.onIdentity(identity);
      failures = 0;
      log.info("identity renewed", { spiffeId: identity.spiffeId, notAfterMs: identity.notAfterMs });
      if (deps.current() !== identity) await clock.sleep(SHORTEST_WAIT_MS, signal);
    } catch (error) {
      if (signal.aborted) return;
      const leftMs = held === undefined ? 0 : Math.max(0, held.notAfterMs - clock.nowMs());
      log.warn("identity not renewed", { error: messageOf(error), failures, leftMs });
      const pauseMs = backoffMs(failures++, leftMs > 0 ? RETRY : RETRY_EXPIRED, random());
      // The less time is left, the more often it is tried.
      const mostMs = leftMs > 0 ? Math.max(RETRY.firstMs, leftMs / LEFT_SHARE) : pauseMs;
      await clock.sleep(Math.min(pauseMs, mostMs), signal);
    }
  }
}
