// PURE. Deadlines of many requests without a timer for each: entries lie in the slot of their deadline, and one that moved
// its deadline on is put back when its old slot comes by. Moving on costs a store to a field of the entry.

export interface Timed {
  /** Monotonic milliseconds; may be moved on at any time, and is looked at again when the old one comes. */
  readonly deadlineMs: number;
  /** Place in the wheel; set by the wheel alone, -1 at first. */
  wheelSlot: number;
  wheelIndex: number;
  timeOut(nowMs: number): void;
}

const SLOTS = 512;

const OUTSIDE = -1;
/** Taken out of its slot, not looked at yet. */
const IN_HAND = -2;

/** A wheel of 512 slots; what lies further ahead goes round. */
export class DeadlineWheel {
  readonly tickMs: number;
  readonly #slots: Timed[][] = Array.from({ length: SLOTS }, () => []);
  #tick: number;
  #size = 0;

  /** @param tickMs how late an entry may be told, at most. */
  constructor(tickMs: number, nowMs: number) {
    this.tickMs = tickMs;
    this.#tick = Math.floor(nowMs / tickMs);
  }

  get size(): number {
    return this.#size;
  }

  /** Entries that are in already are left where they are: a later deadline is found then, an earlier one needs `remove`. */
  add(entry: Timed, nowMs: number): void {
    if (entry.wheelSlot !== OUTSIDE) return;
    if (this.#size === 0) this.#tick = Math.floor(nowMs / this.tickMs);
    this.#size++;
    this.#put(entry);
  }

  remove(entry: Timed): void {
    const { wheelSlot, wheelIndex } = entry;
    if (wheelSlot === OUTSIDE) return;
    entry.wheelSlot = OUTSIDE;
    this.#size--;
    const slot = this.#slots[wheelSlot];
    const last = slot?.pop();
    if (slot === undefined || last === undefined || last === entry) return;
    slot[wheelIndex] = last;
    last.wheelIndex = wheelIndex;
  }

  /** Tells every entry whose deadline has passed, once, after taking it out. */
  expire(nowMs: number): void {
    const until = Math.floor(nowMs / this.tickMs);
    // After a long pause every slot is visited once.
    if (until - this.#tick > SLOTS) this.#tick = until - SLOTS;
    while (this.#tick < until && this.#size > 0) {
      this.#tick++;
      this.#visit(this.#tick % SLOTS, nowMs);
    }
    this.#tick = until;
  }

  #visit(index: number, nowMs: number): void {
    const entries = this.#slots[index];
    if (entries === undefined || entries.length === 0) return;
    this.#slots[index] = [];
    for (const entry of entries) entry.wheelSlot = IN_HAND;
    for (const entry of entries) {
      // What one of them ended is in no hand any more.
      if (entry.wheelSlot !== IN_HAND) continue;
      if (entry.deadlineMs > nowMs) {
        this.#put(entry);
        continue;
      }
      entry.wheelSlot = OUTSIDE;
      this.#size--;
      entry.timeOut(nowMs);
    }
  }

  #put(entry: Timed): void {
    const due = Math.max(this.#tick + 1, Math.ceil(entry.deadlineMs / this.tickMs));
    const index = due % SLOTS;
    const slot = this.#slots[index];
    if (slot === undefined) return;
    entry.wheelSlot = index;
    entry.wheelIndex = slot.length;
    slot.push(entry);
  }
}
