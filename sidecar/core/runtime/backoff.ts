// Delays between attempts: exponential with full jitter, so that a thousand sidecars do not reconnect together.

export interface BackoffLimits {
  readonly firstMs: number;
  readonly maxMs: number;
}

/**
 * Delay before attempt `attempt` (0 for the first retry).
 *
 * @param random in [0, 1).
 * @returns milliseconds between half and all of `firstMs * 2^attempt`, at most `maxMs`.
 */
export function backoffMs(attempt: number, limits: BackoffLimits, random: number): number {
  const ceiling = Math.min(limits.maxMs, limits.firstMs * 2 ** Math.min(attempt, 30));
  return ceiling / 2 + (ceiling / 2) * random;
}
