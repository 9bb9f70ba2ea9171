// HPACK decoding (RFC 7541): a header block to fields. Entries of the dynamic table are Field objects, so a repeated
// field is the same object with what was learnt about it, and its characters are checked once.
import { createField, type Field } from "../field.ts";
import type { FieldCache } from "../field-cache.ts";
import { isTokenByte } from "../field-syntax.ts";
import { STATIC_ENTRIES, STATIC_TABLE } from "./hpack-static.ts";
import { huffmanBound, huffmanDecode } from "./huffman.ts";
import { latin1Slice } from "./latin1.ts";

const ENTRY_OVERHEAD = 32;
const KEPT_SCRATCH_BYTES = 4096;
const EMPTY = Buffer.alloc(0);
/** Larger integers than any length or index we could use. */
const MAX_INTEGER = 0x0fff_ffff;

interface HpackLimits {
  /** SETTINGS_HEADER_TABLE_SIZE that we announced. */
  readonly tableSize: number;
  readonly maxListSize: number;
  readonly maxFields: number;
}

/** Long literals that are in no table and come again: access tokens, which clients never index. Bytes as encoded. */
const REPEATED = { leastBytes: 128, mostBytes: 4_096 };

/** A literal as it was received last, and what it means. */
interface Literal {
  readonly encoded: Buffer;
  readonly field: Field;
}

/** Decodes the header blocks of one direction of one connection, in order. */
export class HpackDecoder {
  /** The fields of the last block, a fresh array for each; incomplete when `oversized`. */
  fields: Field[] = [];
  /** The last block held a name or value with a forbidden character (RFC 9113 section 8.2.1). */
  malformed = false;
  /** The last block was larger than the limits; it was decoded to the end, so that later blocks still are. */
  oversized = false;

  readonly #cache: FieldCache;
  readonly #limits: HpackLimits;
  readonly #static: (Field | undefined)[] = new Array(STATIC_ENTRIES + 1).fill(undefined);
  /** Ring of the dynamic table; entry number n lies at n & mask, entries [#inserted - #count, #inserted) are alive. */
  #ring: (Field | undefined)[] = new Array(16).fill(undefined);
  /** Parallel to the ring: 1 where the field's characters are forbidden. */
  #bad = new Uint8Array(16);
  #inserted = 0;
  #count = 0;
  #size = 0;
  #maxSize = 4096;
  #updateDue = false;
  #listSize = 0;
  #at = 0;
  #scratch: Buffer = EMPTY;
  #repeated: Literal | undefined;
  // The string that was read last: #source[#from, #to).
  #source: Buffer = EMPTY;
  #from = 0;
  #to = 0;

  constructor(cache: FieldCache, limits: HpackLimits) {
    this.#cache = cache;
    this.#limits = limits;
  }

  /** Bytes of the dynamic table as RFC 7541 section 4.1 counts them. */
  get tableBytes(): number {
    return this.#size;
  }

  /** Our SETTINGS were acknowledged: a peer with a larger table must shrink it at its next block (section 4.2). */
  settingsAcknowledged(): void {
    if (this.#maxSize > this.#limits.tableSize) this.#updateDue = true;
  }

  /**
   * Decodes one whole header block, buffer[start, end).
   *
   * @returns false for a COMPRESSION_ERROR, after which the connection cannot go on.
   */
  decode(buffer: Buffer, start: number, end: number): boolean {
    this.fields = [];
    this.malformed = false;
    this.oversized = false;
    this.#listSize = 0;
    this.#at = start;
    if (!this.#sizeUpdates(buffer, end)) return false;
    while (this.#at < end) {
      const first = buffer[this.#at] ?? 0;
      if (first >= 0x80) {
        const index = this.#integer(buffer, end, 0x7f);
        const field = this.#entry(index);
        if (field === undefined) return false;
        this.#emit(field);
      } else if (first >= 0x40) {
        if (!this.#literal(buffer, end, 0x3f, true)) return false;
      } else if (first >= 0x20) {
        return false; // a size update after a field (section 4.2)
      } else if (!this.#literal(buffer, end, 0x0f, false)) return false;
    }
    return this.#at === end;
  }

  #sizeUpdates(buffer: Buffer, end: number): boolean {
    let updates = 0;
    while (this.#at < end && ((buffer[this.#at] ?? 0) & 0xe0) === 0x20) {
      const size = this.#integer(buffer, end, 0x1f);
      if (size < 0 || size > this.#limits.tableSize || ++updates > 2) return false;
      this.#maxSize = size;
      this.#updateDue = false;
      this.#evict(size);
    }
    return !this.#updateDue;
  }

  #emit(field: Field): void {
    this.#listSize += field.size;
    if (this.#listSize > this.#limits.maxListSize || this.fields.length >= this.#limits.maxFields) {
      this.oversized = true;
    } else this.fields.push(field);
  }

  /** The field of an index; undefined when there is none. */
  #entry(index: number): Field | undefined {
    if (index <= 0) return undefined;
    if (index > STATIC_ENTRIES) {
      const age = index - STATIC_ENTRIES;
      if (age > this.#count) return undefined;
      const slot = (this.#inserted - age) & (this.#ring.length - 1);
      if (this.#bad[slot] === 1) this.malformed = true;
      return this.#ring[slot];
    }
    const known = this.#static[index];
    if (known !== undefined) return known;
    const pair = STATIC_TABLE[index - 1];
    if (pair === undefined) return undefined;
    const field = this.#cache.get(pair[0], pair[1]);
    this.#static[index] = field;
    return field;
  }

  /** A literal field (section 6.2); with `index` it enters the table and comes from the shared cache. */
  #literal(buffer: Buffer, end: number, mask: number, index: boolean): boolean {
    const nameIndex = this.#integer(buffer, end, mask);
    if (nameIndex < 0) return false;
    let bad = false;
    let name: string;
    if (nameIndex === 0) {
      if (!this.#string(buffer, end)) return false;
      bad = !isName(this.#source, this.#from, this.#to);
      name = latin1Slice(this.#source, this.#from, this.#to);
    } else {
      const before = this.malformed;
      const named = this.#entry(nameIndex);
      if (named === undefined) return false;
      // A bad entry may be bad by its value alone, but a peer that sends one gets no second look.
      bad = this.malformed && !before;
      name = named.name;
    }
    const at = this.#at;
    if (!index && this.#repeats(buffer, end, name)) return true;
    if (!this.#string(buffer, end)) return false;
    if (!isValue(this.#source, this.#from, this.#to)) bad = true;
    const value = latin1Slice(this.#source, this.#from, this.#to);
    if (bad) this.malformed = true;
    // Beyond the limits nothing is looked up: a key of 4 KiB a field, thousands of times, would be for a list nobody reads.
    const field = index && !bad && !this.oversized ? this.#cache.get(name, value) : createField(name, value);
    if (index) this.#insert(field, bad);
    else if (!bad) this.#keep(buffer, at, field);
    this.#emit(field);
    return true;
  }

  /** The value has the very bytes that it had last: reading a token of 1 KB anew takes 10 us. */
  #repeats(buffer: Buffer, end: number, name: string): boolean {
    const known = this.#repeated;
    if (known === undefined || known.field.name !== name) return false;
    const to = this.#at + known.encoded.length;
    if (to > end || buffer.compare(known.encoded, 0, known.encoded.length, this.#at, to) !== 0) return false;
    this.#at = to;
    this.#emit(known.field);
    return true;
  }

  #keep(buffer: Buffer, at: number, field: Field): void {
    const bytes = this.#at - at;
    if (bytes < REPEATED.leastBytes || bytes > REPEATED.mostBytes) return;
    const encoded = Buffer.allocUnsafeSlow(bytes);
    buffer.copy(encoded, 0, at, this.#at);
    this.#repeated = { encoded, field };
  }

  #insert(field: Field, bad: boolean): void {
    const size = field.name.length + field.value.length + ENTRY_OVERHEAD;
    this.#evict(this.#maxSize - size);
    if (size > this.#maxSize) return; // section 4.4: empties the table, not an error
    if (this.#count === this.#ring.length) this.#grow();
    const slot = this.#inserted & (this.#ring.length - 1);
    this.#ring[slot] = field;
    this.#bad[slot] = bad ? 1 : 0;
    this.#inserted++;
    this.#count++;
    this.#size += size;
  }

  /** Drops the oldest entries until the table holds at most `size` bytes. */
  #evict(size: number): void {
    while (this.#size > size && this.#count > 0) {
      const slot = (this.#inserted - this.#count) & (this.#ring.length - 1);
      const field = this.#ring[slot];
      if (field !== undefined) this.#size -= field.name.length + field.value.length + ENTRY_OVERHEAD;
      this.#ring[slot] = undefined;
      this.#count--;
    }
  }

  #grow(): void {
    const mask = this.#ring.length - 1;
    const ring: (Field | undefined)[] = new Array(this.#ring.length * 2).fill(undefined);
    const bad = new Uint8Array(ring.length);
    for (let n = this.#inserted - this.#count; n < this.#inserted; n++) {
      ring[n & (ring.length - 1)] = this.#ring[n & mask];
      bad[n & (ring.length - 1)] = this.#bad[n & mask] ?? 0;
    }
    this.#ring = ring;
    this.#bad = bad;
  }

  /** An integer with a prefix of `mask` (section 5.1); -1 when truncated or absurdly large or long. */
  #integer(buffer: Buffer, end: number, mask: number): number {
    let value = (buffer[this.#at++] ?? 0) & mask;
    if (value < mask) return value;
    for (let shift = 0; shift <= 28; shift += 7) {
      if (this.#at >= end) return -1;
      const byte = buffer[this.#at++] ?? 0;
      value += (byte & 0x7f) * 2 ** shift;
      if (value > MAX_INTEGER) return -1;
      if (byte < 0x80) return value;
    }
    return -1;
  }

  /** A string (section 5.2) into #source, #from, #to; false when truncated or badly coded. */
  #string(buffer: Buffer, end: number): boolean {
    if (this.#at >= end) return false;
    const huffman = (buffer[this.#at] ?? 0) >= 0x80;
    const length = this.#integer(buffer, end, 0x7f);
    const from = this.#at;
    if (length < 0 || from + length > end) return false;
    this.#at = from + length;
    if (!huffman) {
      this.#source = buffer;
      this.#from = from;
      this.#to = from + length;
      return true;
    }
    const bound = huffmanBound(length);
    let scratch = this.#scratch;
    if (scratch.length < bound) {
      scratch = Buffer.allocUnsafeSlow(Math.max(bound, 256));
      if (scratch.length <= KEPT_SCRATCH_BYTES) this.#scratch = scratch;
    }
    this.#source = scratch;
    this.#from = 0;
    this.#to = huffmanDecode(buffer, from, from + length, scratch);
    return this.#to >= 0;
  }
}

/** A lower-case token, with one leading colon allowed (RFC 9113 section 8.2.1). */
function isName(bytes: Uint8Array, from: number, to: number): boolean {
  const first = bytes[from] === 0x3a ? from + 1 : from;
  if (first >= to) return false;
  for (let at = first; at < to; at++) {
    const byte = bytes[at] ?? 0;
    if (!isTokenByte(byte) || (byte >= 0x41 && byte <= 0x5a)) return false;
  }
  return true;
}

/** No control character but tab, no white space at either end (RFC 9113 section 8.2.1, RFC 9110 section 5.5). */
function isValue(bytes: Uint8Array, from: number, to: number): boolean {
  for (let at = from; at < to; at++) {
    const byte = bytes[at] ?? 0;
    if (byte < 0x20 ? byte !== 9 : byte === 0x7f) return false;
  }
  return from === to || (!isBlank(bytes[from]) && !isBlank(bytes[to - 1]));
}

function isBlank(byte: number | undefined): boolean {
  return byte === 0x20 || byte === 9;
}
