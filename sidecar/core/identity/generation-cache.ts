// A bounded cache for the hot path: two generations instead of a linked list. A hit costs one map look-up; entries that
// were not used while half of the budget was filled fall out together.

interface Entry<V> {
  readonly value: V;
  readonly weight: number;
}

export class GenerationCache<V> {
  readonly #maxEntries: number;
  readonly #maxWeight: number;
  #young = new Map<string, Entry<V>>();
  #old = new Map<string, Entry<V>>();
  #weight = 0;

  /**
   * @param limits entries and weight (say, bytes) that both generations may hold together.
   */
  constructor(limits: { readonly maxEntries: number; readonly maxWeight: number }) {
    this.#maxEntries = Math.max(1, limits.maxEntries >> 1);
    this.#maxWeight = limits.maxWeight / 2;
  }

  get size(): number {
    return this.#young.size + this.#old.size;
  }

  get(key: string): V | undefined {
    const young = this.#young.get(key);
    if (young !== undefined) return young.value;
    if (this.#old.size === 0) return undefined;
    const old = this.#old.get(key);
    if (old === undefined) return undefined;
    this.set(key, old.value, old.weight);
    return old.value;
  }

  /** @param weight counted against `maxWeight`; an entry heavier than half of it is not kept. */
  set(key: string, value: V, weight: number): void {
    if (weight > this.#maxWeight) {
      this.#delete(key);
      return;
    }
    if (this.#young.size >= this.#maxEntries || this.#weight + weight > this.#maxWeight) this.rotate();
    this.#old.delete(key);
    const previous = this.#young.get(key);
    this.#weight += weight - (previous?.weight ?? 0);
    this.#young.set(key, { value, weight });
  }

  /** Begins a new generation: what is not used until the next one falls out. For entries that wear out by time. */
  rotate(): void {
    this.#old = this.#young;
    this.#young = new Map();
    this.#weight = 0;
  }

  #delete(key: string): void {
    this.#old.delete(key);
    this.#weight -= this.#young.get(key)?.weight ?? 0;
    this.#young.delete(key);
  }

  clear(): void {
    this.#young.clear();
    this.#old.clear();
    this.#weight = 0;
  }
}
