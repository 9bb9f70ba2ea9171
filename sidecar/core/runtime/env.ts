// Settings from the environment, and the closest valid name for a mistyped one; used by the config.ts of every process.

/** Name of the environment variable of a flag: `--mesh-listen` is `COUNTERSIGN_MESH_LISTEN`. */
export function environmentName(flag: string): string {
  return `COUNTERSIGN_${flag.replace(/^--/, "").replaceAll("-", "_").toUpperCase()}`;
}

/**
 * The candidate that differs from `name` in the fewest single-character edits (Levenshtein), if it is close enough to
 * be what was meant: at most a third of the longer name.
 *
 * @param name at most 200 characters are looked at.
 */
export function closestName(name: string, candidates: Iterable<string>): string | undefined {
  const asked = name.slice(0, 200).toLowerCase();
  let best: string | undefined;
  let bestDistance = Number.POSITIVE_INFINITY;
  for (const candidate of candidates) {
    const distance = editDistance(asked, candidate.slice(0, 200).toLowerCase());
    if (distance < bestDistance && distance <= Math.max(asked.length, candidate.length) / 3) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

function editDistance(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, index) => index);
  for (let i = 1; i <= from.length; i++) {
    const next = [i];
    for (let j = 1; j <= to.length; j++) {
      const substitute = (row[j - 1] ?? 0) + (from[i - 1] === to[j - 1] ? 0 : 1);
      next.push(Math.min(substitute, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[to.length] ?? Number.POSITIVE_INFINITY;
}
