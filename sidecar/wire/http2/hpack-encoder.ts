// HPACK encoding (RFC 7541): everything that repeats enters the dynamic table and becomes one or two bytes, found by the
// identity of its Field object first. Secrets and always-different values never enter (FieldFlag.neverIndex, `putPair`).
import { type Field, FieldFlag } from "../field.ts";
import { pairKey, STATIC_ENTRIES, STATIC_NAMES, STATIC_PAIRS } from "./hpack-static.ts";
import { latin1Write } from "./latin1.ts";

const ENTRY_OVERHEAD = 32;
/** Static hits are remembered by identity too; forgotten together at this many, as fields come and go. */
const MAX_STATIC_HITS = 128;
/** More than an integer and the prefixes of two strings can take. */
const MARGIN = 24;

interface Entry {
  field: Field;
  readonly key: string;
}

/** Room that one field needs in the buffer, at most. */
export function encodedBound(name: string, value: string): number {
  return name.length + value.length + MARGIN;
}

/** Encodes the header blocks of one direction of one connection, in order. */
export class HpackEncoder {
  readonly #ownLimit: number;
  /** Number of an entry by Field, or minus a static index. */
  readonly #byField = new Map<Field, number>();
  readonly #byKey = new Map<string, number>();
  /** Entry n lies at n & mask; [#inserted - #count, #inserted) are alive. */
  #ring: (Entry | undefined)[] = new Array(16).fill(undefined);
  #inserted = 0;
  #count = 0;
  #size = 0;
  #maxSize = 4096;
  #staticHits = 0;
  /** Table size to announce at the next block, with the least it was in between; -1: nothing to announce. */
  #announce = -1;
  #announceLeast = -1;

  /** @param ownLimit the most of table we use, whatever the peer allows. */
  constructor(ownLimit: number) {
    this.#ownLimit = ownLimit;
    if (ownLimit < this.#maxSize) this.setPeerLimit(this.#maxSize);
  }

  get tableBytes(): number {
    return this.#size;
  }

  /** The peer's SETTINGS_HEADER_TABLE_SIZE; the next block announces the new size (RFC 7541 section 4.2). */
  setPeerLimit(size: number): void {
    const limit = Math.min(size, this.#ownLimit);
    if (limit === this.#maxSize) return;
    if (limit < this.#maxSize) {
      this.#announceLeast = this.#announceLeast < 0 ? limit : Math.min(this.#announceLeast, limit);
    }
    this.#announce = limit;
    this.#maxSize = limit;
    this.#evict(limit);
  }

  /** Begins a block; needs 16 bytes of room. Returns the position after what it wrote. */
  begin(buffer: Buffer, at: number): number {
    if (this.#announce < 0) return at;
    let to = at;
    if (this.#announceLeast >= 0 && this.#announceLeast < this.#announce) {
      to = putInteger(buffer, to, 0x20, 0x1f, this.#announceLeast);
    }
    to = putInteger(buffer, to, 0x20, 0x1f, this.#announce);
    this.#announce = -1;
    this.#announceLeast = -1;
    return to;
  }

  /** Writes a field at `at`; needs `encodedBound` bytes of room. Returns the position after it. */
  put(buffer: Buffer, at: number, field: Field): number {
    if ((field.flags & FieldFlag.neverIndex) !== 0) {
      return putLiteral(buffer, at, 0x10, 0x0f, field.name, field.value);
    }
    const number = this.#byField.get(field);
    if (number === undefined) return this.#putUnknown(buffer, at, field);
    const index = number < 0 ? -number : STATIC_ENTRIES + this.#inserted - number;
    if (index < 127) {
      buffer[at] = 0x80 | index;
      return at + 1;
    }
    return putInteger(buffer, at, 0x80, 0x7f, index);
  }

  /** Writes a literal that neither we nor an intermediary put into a table when `secret`, else we do not (section 6.2.2). */
  putPair(buffer: Buffer, at: number, name: string, value: string, secret: boolean): number {
    return putLiteral(buffer, at, secret ? 0x10 : 0, 0x0f, name, value);
  }

  /** The field as an object is new; its text may be known. */
  #putUnknown(buffer: Buffer, at: number, field: Field): number {
    const key = pairKey(field.name, field.value);
    const fixed = STATIC_PAIRS.get(key);
    if (fixed !== undefined) {
      this.#rememberStatic(field, fixed);
      return putInteger(buffer, at, 0x80, 0x7f, fixed);
    }
    const number = this.#byKey.get(key);
    if (number !== undefined) {
      this.#adopt(number, field);
      return putInteger(buffer, at, 0x80, 0x7f, STATIC_ENTRIES + this.#inserted - number);
    }
    const size = field.name.length + field.value.length + ENTRY_OVERHEAD;
    // A field that would push out more than half of the table costs more than it saves.
    if (size * 2 > this.#maxSize) return putLiteral(buffer, at, 0, 0x0f, field.name, field.value);
    const to = putLiteral(buffer, at, 0x40, 0x3f, field.name, field.value);
    this.#insert(field, key, size);
    return to;
  }

  #rememberStatic(field: Field, index: number): void {
    if (this.#staticHits === MAX_STATIC_HITS) {
      for (const [known, number] of this.#byField) if (number < 0) this.#byField.delete(known);
      this.#staticHits = 0;
    }
    this.#byField.set(field, -index);
    this.#staticHits++;
  }

  /** Lets an entry be found by another object of the same text, instead of the one it had. */
  #adopt(number: number, field: Field): void {
    const entry = this.#ring[number & (this.#ring.length - 1)];
    if (entry === undefined) return;
    this.#byField.delete(entry.field);
    entry.field = field;
    this.#byField.set(field, number);
  }

  #insert(field: Field, key: string, size: number): void {
    this.#evict(this.#maxSize - size);
    if (this.#count === this.#ring.length) this.#grow();
    this.#ring[this.#inserted & (this.#ring.length - 1)] = { field, key };
    this.#byField.set(field, this.#inserted);
    this.#byKey.set(key, this.#inserted);
    this.#inserted++;
    this.#count++;
    this.#size += size;
  }

  #evict(size: number): void {
    while (this.#size > size && this.#count > 0) {
      const slot = (this.#inserted - this.#count) & (this.#ring.length - 1);
      const entry = this.#ring[slot];
      this.#count--;
      if (entry === undefined) continue;
      this.#ring[slot] = undefined;
      this.#byField.delete(entry.field);
      this.#byKey.delete(entry.key);
      this.#size -= entry.field.name.length + entry.field.value.length + ENTRY_OVERHEAD;
    }
  }

  #grow(): void {
    const mask = this.#ring.length - 1;
    const ring: (Entry | undefined)[] = new Array(this.#ring.length * 2).fill(undefined);
    for (let n = this.#inserted - this.#count; n < this.#inserted; n++) {
      ring[n & (ring.length - 1)] = this.#ring[n & mask];
    }
    this.#ring = ring;
  }
}

function putLiteral(
  buffer: Buffer,
  at: number,
  kind: number,
  mask: number,
  name: string,
  value: string,
): number {
  const nameIndex = STATIC_NAMES.get(name) ?? 0;
  const to = putInteger(buffer, at, kind, mask, nameIndex);
  return putString(buffer, nameIndex === 0 ? putString(buffer, to, name) : to, value);
}

function putString(buffer: Buffer, at: number, text: string): number {
  const to = putInteger(buffer, at, 0, 0x7f, text.length);
  latin1Write(buffer, text, to);
  return to + text.length;
}

/** An integer with a prefix (RFC 7541 section 5.1). */
function putInteger(buffer: Buffer, at: number, kind: number, mask: number, value: number): number {
  if (value < mask) {
    buffer[at] = kind | value;
    return at + 1;
  }
  buffer[at] = kind | mask;
  let rest = value - mask;
  let to = at + 1;
  while (rest >= 128) {
    buffer[to++] = (rest & 0x7f) | 0x80;
    rest >>>= 7;
  }
  buffer[to] = rest;
  return to + 1;
}
