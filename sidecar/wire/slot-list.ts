// PURE. A set of things that come and go all the time, in one array: each member knows its place. A Set of that much
// turnover is rehashed again and again, and keeps dead members alive (see http2/stream-table.ts).

/** A member; `slot` belongs to the list, -1 outside of one. */
export interface Slotted {
  slot: number;
}

export class SlotList<T extends Slotted> {
  readonly #members: T[] = [];

  get size(): number {
    return this.#members.length;
  }

  add(member: T): void {
    this.place(member, this.#members.length);
    this.#members.push(member);
  }

  /** Whether it was a member. */
  delete(member: T): boolean {
    const slot = this.slotOf(member);
    if (slot < 0 || this.#members[slot] !== member) return false;
    const last = this.#members.pop();
    if (last !== undefined && last !== member) {
      this.#members[slot] = last;
      this.place(last, slot);
    }
    this.place(member, -1);
    return true;
  }

  /** A copy: members may leave while it is gone through. */
  all(): readonly T[] {
    return [...this.#members];
  }

  /** Empties the list and gives what was in it. */
  take(): T[] {
    const members = this.#members.splice(0);
    for (const member of members) this.place(member, -1);
    return members;
  }

  /** Where a member keeps its place; one that may be in two lists has two places. */
  protected slotOf(member: T): number {
    return member.slot;
  }

  protected place(member: T, slot: number): void {
    member.slot = slot;
  }
}
