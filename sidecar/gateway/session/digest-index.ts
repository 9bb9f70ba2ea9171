// Numbers for sessions by the digest of their id: open addressing in two typed arrays, since a map of strings takes four
// times as much of V8's heap, and as much again in garbage. PURE.

const DIGEST_WORDS = 8;
const WORD_BYTES = 4;
const FIRST_CAPACITY = 256;
/** Slots per number, so that runs of taken slots stay short. */
const SPREAD = 2;

/** Numbers are small, and used again after `delete`. Digests are evenly spread: their first word is the hash. */
export class DigestIndex {
  #capacity = FIRST_CAPACITY;
  #digests = new Uint32Array(FIRST_CAPACITY * DIGEST_WORDS);
  /** Number + 1; 0: empty. A power of two. */
  #slots = new Uint32Array(FIRST_CAPACITY * SPREAD);
  readonly #spare: number[] = [];
  #bound = 0;

  get size(): number {
    return this.#bound - this.#spare.length;
  }

  /** All numbers are below. */
  get bound(): number {
    return this.#bound;
  }

  /** @param digest 32 bytes. @returns undefined: it has none. */
  find(digest: Buffer): number | undefined {
    const mask = this.#slots.length - 1;
    for (let slot = digest.readUInt32LE(0) & mask; ; slot = (slot + 1) & mask) {
      const taken = this.#slots[slot] ?? 0;
      if (taken === 0) return undefined;
      if (this.#isAt(taken - 1, digest)) return taken - 1;
    }
  }

  /** @param digest 32 bytes that have no number yet. */
  add(digest: Buffer): number {
    let number = this.#spare.pop();
    if (number === undefined) {
      if (this.#bound === this.#capacity) this.#grow();
      number = this.#bound++;
    }
    for (let word = 0; word < DIGEST_WORDS; word++)
      this.#digests[number * DIGEST_WORDS + word] = digest.readUInt32LE(word * WORD_BYTES);
    this.#place(number);
    return number;
  }

  /** @param number that is in use. */
  delete(number: number): void {
    const mask = this.#slots.length - 1;
    let hole = this.#home(number);
    while (this.#slots[hole] !== number + 1) hole = (hole + 1) & mask;
    // What stands behind, and would not be found across a gap, moves up.
    for (let slot = (hole + 1) & mask; ; slot = (slot + 1) & mask) {
      const taken = this.#slots[slot] ?? 0;
      if (taken === 0) break;
      const steps = (slot - this.#home(taken - 1)) & mask;
      if (steps < ((slot - hole) & mask)) continue;
      this.#slots[hole] = taken;
      hole = slot;
    }
    this.#slots[hole] = 0;
    this.#spare.push(number);
  }

  #home(number: number): number {
    return (this.#digests[number * DIGEST_WORDS] ?? 0) & (this.#slots.length - 1);
  }

  #isAt(number: number, digest: Buffer): boolean {
    for (let word = 0; word < DIGEST_WORDS; word++)
      if (this.#digests[number * DIGEST_WORDS + word] !== digest.readUInt32LE(word * WORD_BYTES))
        return false;
    return true;
  }

  #place(number: number): void {
    const mask = this.#slots.length - 1;
    let slot = this.#home(number);
    while (this.#slots[slot] !== 0) slot = (slot + 1) & mask;
    this.#slots[slot] = number + 1;
  }

  /** Only when every number is in use. */
  #grow(): void {
    this.#capacity *= 2;
    const digests = new Uint32Array(this.#capacity * DIGEST_WORDS);
    digests.set(this.#digests);
    this.#digests = digests;
    this.#slots = new Uint32Array(this.#capacity * SPREAD);
    for (let number = 0; number < this.#bound; number++) this.#place(number);
  }
}
