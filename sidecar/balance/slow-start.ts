// PURE. An endpoint that has just come, or come back, gets its share of the calls little by little: caches are cold, code is
// not compiled, models are loading.

/** Share at the first moment. */
const FIRST_WEIGHT = 0.1;

/**
 * @param sinceMs milliseconds since it came or recovered.
 * @param windowMs time until it gets a full share; 0: at once.
 * @returns more than 0, up to 1.
 */
export function rampWeight(sinceMs: number, windowMs: number): number {
  if (sinceMs >= windowMs) return 1;
  return FIRST_WEIGHT + (1 - FIRST_WEIGHT) * Math.max(0, sinceMs / windowMs);
}
