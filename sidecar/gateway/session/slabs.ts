// Many small records in few large pieces of memory, outside V8's heap: what lies in the heap comes with as much garbage, and
// a small buffer with more overhead than record. PURE.

const SLAB_BYTES = 1024 * 1024;
/** A slab of which less is alive is to be moved out of. */
const SPARSE = 0.75;

interface Slab {
  readonly bytes: Buffer;
  used: number;
  live: number;
}

/** Where a record lies: in which slab, from which byte on. */
export interface Place {
  readonly slab: number;
  readonly at: number;
  readonly length: number;
}

/** Slabs are filled from front to back and given back as a whole, when nothing in them is alive. */
export class Slabs {
  readonly #slabs: (Slab | undefined)[] = [];
  #open = -1;

  /** Of all slabs. */
  get bytes(): number {
    return this.#slabs.reduce((sum, slab) => sum + (slab?.bytes.length ?? 0), 0);
  }

  put(record: Buffer): Place {
    const { length } = record;
    let slab = this.#slabs[this.#open];
    if (slab === undefined || slab.used + length > slab.bytes.length) {
      slab = slabOf(Math.max(SLAB_BYTES, length));
      this.#begin(slab);
    }
    const place = { slab: this.#open, at: slab.used, length };
    record.copy(slab.bytes, slab.used);
    slab.used += length;
    slab.live += length;
    return place;
  }

  /** Valid until the place is freed or moved. */
  read({ slab, at, length }: Place): Buffer {
    return this.#at(slab).bytes.subarray(at, at + length);
  }

  free({ slab: number, at, length }: Place): void {
    const slab = this.#at(number);
    slab.live -= length;
    // Tokens of somebody who has signed out.
    slab.bytes.fill(0, at, at + length);
    if (slab.live === 0 && number !== this.#open) this.#slabs[number] = undefined;
  }

  /** Whether what lies there is to be moved, so that the slab can be given back. */
  isSparse(number: number): boolean {
    const { live, used } = this.#at(number);
    return number !== this.#open && live < used * SPARSE;
  }

  /** The same record in a new place. */
  move(place: Place): Place {
    const next = this.put(this.read(place));
    this.free(place);
    return next;
  }

  #at(number: number): Slab {
    const slab = this.#slabs[number];
    if (slab === undefined) throw new RangeError(`slab ${number} was given back`);
    return slab;
  }

  #begin(slab: Slab): void {
    const before = this.#open;
    const unused = this.#slabs.indexOf(undefined);
    this.#open = unused < 0 ? this.#slabs.length : unused;
    this.#slabs[this.#open] = slab;
    if (this.#slabs[before]?.live === 0) this.#slabs[before] = undefined;
  }
}

function slabOf(bytes: number): Slab {
  return { bytes: Buffer.allocUnsafeSlow(bytes), used: 0, live: 0 };
}
