// PURE. Which endpoint gets the next request. Each algorithm sees candidates alone: who is usable, and how much of a full
// share one takes at the moment, is known to the caller.

export interface Candidate {
  /** Requests in flight and waiting, as this sidecar counts them. */
  readonly load: number;
  /** May be chosen now: reachable, with room, and healthy where that counts. */
  readonly usable: boolean;
  /** More than 0, up to 1: the part of a full share that it gets (slow start). */
  readonly weight: number;
}

/** A candidate of the consistent hash. */
export interface HashedCandidate extends Candidate {
  /** Unsigned 32 bits of its name: the same in every sidecar. */
  readonly hash: number;
}

/** Pairs that are drawn before all are looked at. */
const DRAWS = 3;

/** Load that a key's endpoint may always have, however little the others have. */
const FREE_LOAD = 8;
const LOAD_FACTOR = 1.5;

/**
 * Least requests of two that are drawn (power of two choices): callers that do not know of each other do not all run to
 * the same endpoint, and the longest queue still stays short.
 *
 * @param tried candidates that this request has been sent to already.
 * @param random in [0, 1).
 * @returns undefined when nothing is usable.
 */
export function pickLeastRequest<T extends Candidate>(
  candidates: readonly T[],
  tried: ReadonlySet<T> | undefined,
  random: () => number,
): T | undefined {
  const { length } = candidates;
  if (length <= 1) return open(candidates[0], tried);
  if (length > 2) {
    for (let draw = 0; draw < DRAWS; draw++) {
      const first = Math.floor(random() * length);
      const second = (first + 1 + Math.floor(random() * (length - 1))) % length;
      const a = open(candidates[first], tried);
      const b = open(candidates[second], tried);
      if (a !== undefined) return b !== undefined && costOf(b) < costOf(a) ? b : a;
      if (b !== undefined) return b;
    }
  }
  // Two, or nearly all are unusable.
  const offset = Math.floor(random() * length);
  let best: T | undefined;
  for (let i = 0; i < length; i++) {
    const candidate = open(candidates[(offset + i) % length], tried);
    if (candidate !== undefined && (best === undefined || costOf(candidate) < costOf(best))) best = candidate;
  }
  return best;
}

/**
 * Each in turn; one that ramps up is passed over as often as its weight says.
 *
 * @param turn number of this pick; the caller counts.
 */
export function pickRoundRobin<T extends Candidate>(
  candidates: readonly T[],
  tried: ReadonlySet<T> | undefined,
  turn: number,
  random: () => number,
): T | undefined {
  const { length } = candidates;
  let second: T | undefined;
  for (let i = 0; i < length; i++) {
    const candidate = open(candidates[(turn + i) % length], tried);
    if (candidate === undefined) continue;
    if (candidate.weight >= 1 || random() < candidate.weight) return candidate;
    second ??= candidate;
  }
  return second;
}

/**
 * Consistent hash by rendezvous (highest random weight) with bounded load: when one of n endpoints comes or goes only the
 * keys that it gets or had move, 1/n of them; a key whose endpoint has more than 1.5 times its share goes to the next.
 *
 * @param key `hash32` of what requests are kept together by.
 */
export function pickByHash<T extends HashedCandidate>(
  candidates: readonly T[],
  tried: ReadonlySet<T> | undefined,
  key: number,
): T | undefined {
  const first = highest(candidates, tried, key, Number.POSITIVE_INFINITY);
  // Nearly always: what all have together matters only when this one has much.
  if (first === undefined || first.load < FREE_LOAD * first.weight) return first;
  let total = 1;
  let shares = 0;
  for (const candidate of candidates) {
    if (!candidate.usable) continue;
    total += candidate.load;
    shares += candidate.weight;
  }
  const bound = Math.max(FREE_LOAD, Math.ceil((LOAD_FACTOR * total) / shares));
  return highest(candidates, tried, key, bound) ?? first;
}

/** The candidate with the highest score for `key` of those with less load than their part of `bound`. */
function highest<T extends HashedCandidate>(
  candidates: readonly T[],
  tried: ReadonlySet<T> | undefined,
  key: number,
  bound: number,
): T | undefined {
  let best: T | undefined;
  let bestScore = -1;
  for (let i = 0; i < candidates.length; i++) {
    const candidate = candidates[i];
    if (candidate === undefined) continue;
    const score = mix32(key ^ candidate.hash);
    if (score <= bestScore || open(candidate, tried) === undefined) continue;
    if (bound !== Number.POSITIVE_INFINITY && candidate.load >= bound * candidate.weight) continue;
    best = candidate;
    bestScore = score;
  }
  return best;
}

/** Unsigned 32-bit hash of a text (FNV-1a over UTF-16 units, finished by `mix32`); the same in every process. */
export function hash32(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return mix32(hash);
}

/** Finisher of MurmurHash3: every bit of the input changes half of the output's. */
export function mix32(value: number): number {
  let mixed = value ^ (value >>> 16);
  mixed = Math.imul(mixed, 0x85ebca6b);
  mixed ^= mixed >>> 13;
  mixed = Math.imul(mixed, 0xc2b2ae35);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}

/** A new endpoint with one request is as full as its weight makes one request count. */
function costOf(candidate: Candidate): number {
  return (candidate.load + 1) / candidate.weight;
}

function open<T extends Candidate>(
  candidate: T | undefined,
  tried: ReadonlySet<T> | undefined,
): T | undefined {
  return candidate?.usable && tried?.has(candidate) !== true ? candidate : undefined;
}
