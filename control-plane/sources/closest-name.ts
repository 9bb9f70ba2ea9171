// Finds the name that a misspelled one was probably meant to be; PURE.

/** Longer words are not compared: no name of ours is that long, and the cost is quadratic. */
const MAX_LENGTH = 64;

/** Optimal string alignment distance (insert, delete, replace, swap of neighbours), without regard to case. */
export function editDistance(left: string, right: string): number {
  const a = left.toLowerCase();
  const b = right.toLowerCase();
  let beforePrevious: number[] = [];
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a.charCodeAt(i - 1) === b.charCodeAt(j - 1);
      let best = Math.min(
        (previous[j] ?? 0) + 1,
        (row[j - 1] ?? 0) + 1,
        (previous[j - 1] ?? 0) + (same ? 0 : 1),
      );
      const swapped =
        i > 1 &&
        j > 1 &&
        a.charCodeAt(i - 1) === b.charCodeAt(j - 2) &&
        a.charCodeAt(i - 2) === b.charCodeAt(j - 1);
      if (swapped) best = Math.min(best, (beforePrevious[j - 2] ?? 0) + 1);
      row.push(best);
    }
    beforePrevious = previous;
    previous = row;
  }
  return previous[b.length] ?? 0;
}

/**
 * The candidate closest to `word`, if it is close enough to be meant: at most a third of the word is different (and at
 * least one letter may be), or one is the beginning of the other.
 *
 * @param word any text; beyond 64 characters there is no answer.
 * @returns undefined when nothing is close, so that no message guesses wildly.
 */
export function closestName(word: string, candidates: Iterable<string>): string | undefined {
  if (word.length === 0 || word.length > MAX_LENGTH) return undefined;
  let best: string | undefined;
  let bestDistance = Math.max(1, Math.floor(word.length / 3)) + 1;
  for (const candidate of candidates) {
    if (candidate.length === 0 || candidate.length > MAX_LENGTH) continue;
    let distance = editDistance(word, candidate);
    const [short, long] = word.length < candidate.length ? [word, candidate] : [candidate, word];
    // `role` for `roles`, `serving.infer` below `serving`: a shared beginning of three letters counts as near.
    if (distance > 1 && short.length >= 3 && long.toLowerCase().startsWith(short.toLowerCase()))
      distance = Math.min(distance, 1.5);
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}
