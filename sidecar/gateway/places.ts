// PURE. How many connections one address has at a time: nobody may take them all.

export class Places {
  readonly #most: number;
  readonly #taken = new Map<string, number>();

  /** @param most connections of one address. */
  constructor(most: number) {
    this.#most = most;
  }

  /** @returns whether there was room. */
  take(address: string): boolean {
    const taken = this.#taken.get(address) ?? 0;
    if (taken >= this.#most) return false;
    this.#taken.set(address, taken + 1);
    return true;
  }

  leave(address: string): void {
    const left = (this.#taken.get(address) ?? 1) - 1;
    if (left <= 0) this.#taken.delete(address);
    else this.#taken.set(address, left);
  }
}
