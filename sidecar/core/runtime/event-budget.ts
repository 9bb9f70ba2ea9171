// PURE. How much strangers can make a gateway write down: the first few events of a kind and place a minute one by one, the
// others as one event that says how many there were.

export interface HeldBack<T> {
  /** The last of them. */
  readonly event: T;
  readonly count: number;
}

const WINDOW_MS = 60_000;
/** Of one key in one window. */
const EACH = 10;

export interface EventLimits {
  /** Written one by one in a minute, of all keys. */
  readonly all: number;
  /** That are told apart in a minute. */
  readonly keys: number;
}

const OF_STRANGERS: EventLimits = { all: 3_000, keys: 1_000 };

export class EventBudget<T> {
  readonly #limits: EventLimits;
  readonly #seen = new Map<string, number>();
  readonly #held = new Map<string, HeldBack<T>>();
  #written = 0;
  #endsMs = Number.NEGATIVE_INFINITY;

  /** @param limits as for events that anybody can cause. */
  constructor(limits = OF_STRANGERS) {
    this.#limits = limits;
  }

  /**
   * @param key what makes events alike.
   * @param kind the same without whose they are, from a closed list: for who comes when there are too many keys.
   * @returns whether to write it now; otherwise it is held back for {@link due}.
   */
  admits(event: T, key: string, kind: string): boolean {
    const isKnown = this.#seen.has(key) || this.#seen.size < this.#limits.keys;
    const seen = this.#seen.get(key) ?? 0;
    if (isKnown && seen < EACH && this.#written < this.#limits.all) {
      this.#seen.set(key, seen + 1);
      this.#written++;
      return true;
    }
    const name = isKnown ? key : kind;
    if (isKnown) this.#seen.set(key, seen);
    this.#held.set(name, { event, count: (this.#held.get(name)?.count ?? 0) + 1 });
    return false;
  }

  /** What was held back in a window that is over, and begins the next; asked now and then. @param nowMs monotonic. */
  due(nowMs: number): readonly HeldBack<T>[] {
    if (nowMs < this.#endsMs) return [];
    this.#endsMs = nowMs + WINDOW_MS;
    const held = [...this.#held.values()];
    this.#held.clear();
    this.#seen.clear();
    this.#written = 0;
    return held;
  }
}
