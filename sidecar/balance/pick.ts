// PURE. Which endpoint gets the next request: the one with the fewest requests in flight, as this sidecar counts them.

export interface Candidate {
  /** Requests in flight and waiting. */
  readonly load: number;
  /** False while it is known to be unreachable. */
  readonly usable: boolean;
}

/**
 * Picks the usable candidate with the least load; among equals the next one after `offset`, so that equals take turns.
 *
 * @param skip candidates that this request has tried already.
 * @param offset any whole number, for example a counter.
 * @returns undefined when nothing is usable.
 */
export function pickLeastRequest<T extends Candidate>(
  candidates: readonly T[],
  skip: ReadonlySet<T> | undefined,
  offset: number,
): T | undefined {
  const { length } = candidates;
  if (length === 1) {
    const only = candidates[0];
    return only?.usable && !skip?.has(only) ? only : undefined;
  }
  let best: T | undefined;
  for (let i = 0; i < length; i++) {
    const candidate = candidates[(offset + i) % length];
    if (candidate === undefined || !candidate.usable || skip?.has(candidate)) continue;
    if (best === undefined || candidate.load < best.load) best = candidate;
  }
  return best;
}
