// PURE. A map with a bound on entries and bytes that forgets by generations: two maps, where the old one is dropped when
// the young one is full. A hit costs one or two look-ups and no bookkeeping, unlike a list of recent use.

/** Bounds of a cache; both hold at any time. */
export interface CacheLimits {
  readonly maxEntries: number;
  /** In bytes as told to `set`. */
  readonly maxBytes: number;
}

/** A bounded map from strings; what was used since the last but one change of generation is still there. */
export class GenerationCache<V> {
  readonly #entriesPerGeneration: number;
  readonly #bytesPerGeneration: number;
  #young = new Map<string, V>();
  #old = new Map<string, V>();
  #youngBytes = 0;
  #oldBytes = 0;

  constructor(limits: CacheLimits) {
    this.#entriesPerGeneration = Math.max(1, Math.floor(limits.maxEntries / 2));
    this.#bytesPerGeneration = Math.max(1, Math.floor(limits.maxBytes / 2));
  }

  /** Entries in both generations; an entry that was promoted counts twice until the old one goes. */
  get entries(): number {
    return this.#young.size + this.#old.size;
  }

  get bytes(): number {
    return this.#youngBytes + this.#oldBytes;
  }

  /** @param bytes what the entry costs, needed again because a hit in the old generation moves it to the young one. */
  get(key: string, bytesOf: (value: V) => number): V | undefined {
    const young = this.#young.get(key);
    if (young !== undefined) return young;
    const old = this.#old.get(key);
    if (old !== undefined) this.set(key, old, bytesOf(old));
    return old;
  }

  /** Stores a value; one that is larger than a generation is not kept. The key must not be a slice of a larger string. */
  set(key: string, value: V, bytes: number): void {
    if (bytes > this.#bytesPerGeneration) return;
    if (
      this.#young.size >= this.#entriesPerGeneration ||
      this.#youngBytes + bytes > this.#bytesPerGeneration
    ) {
      this.#old = this.#young;
      this.#oldBytes = this.#youngBytes;
      this.#young = new Map();
      this.#youngBytes = 0;
    }
    this.#young.set(key, value);
    this.#youngBytes += bytes;
  }
}
