// A bounded cache by exact request target, in two generations: when the young one is full it becomes the old one and
// the old one is dropped, so a flood of new targets costs memory once and no bookkeeping per entry.

/** Targets longer than this are not kept: they rarely repeat, and 2 x 1024 of them must stay small. */
const MAX_TARGET_CHARS = 512;

export class TargetCache<T> {
  readonly #limit: number;
  readonly #groups: number;
  #young: Map<string, T>[];
  #old: Map<string, T>[];
  #size = 0;
  readonly #scratch = Buffer.allocUnsafeSlow(MAX_TARGET_CHARS);

  /** @param groups number of separate key spaces; @param limit entries per generation over all of them. */
  constructor(groups: number, limit = 1024) {
    this.#groups = groups;
    this.#limit = limit;
    this.#young = this.#empty();
    this.#old = this.#empty();
  }

  #empty(): Map<string, T>[] {
    return Array.from({ length: this.#groups }, () => new Map<string, T>());
  }

  get(group: number, target: string): T | undefined {
    const young = this.#young[group]?.get(target);
    if (young !== undefined) return young;
    const old = this.#old[group]?.get(target);
    if (old !== undefined) this.set(group, target, old);
    return old;
  }

  set(group: number, target: string, value: T): void {
    if (target.length > MAX_TARGET_CHARS) return;
    if (this.#size >= this.#limit) {
      this.#old = this.#young;
      this.#young = this.#empty();
      this.#size = 0;
    }
    this.#size++;
    // A copy: the text given is a slice of a whole request head, which it would keep alive.
    const length = this.#scratch.write(target, 0, "latin1");
    this.#young[group]?.set(this.#scratch.toString("latin1", 0, length), value);
  }
}
