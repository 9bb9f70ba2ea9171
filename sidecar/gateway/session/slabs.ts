// Many small records in few large pieces of memory, outside V8's heap: what lies in the heap comes with as much garbage, and
// a small buffer with more overhead than record. PURE.

const SLAB_BYTES = 1024 * 1024;
/** A slab of which less is alive is to be moved out of. */
const SPARSE = 0.5;

interface Slab {
  readonly bytes: Buffer;
  used: number;
  live: number;
}

/** Where a record lies. */
export interface Place {
  readonly slab: Slab;
  readonly at: number;
  readonly length: number;
}

/** Slabs are filled from front to back and given back as a whole, when no place names them any more. */
export class Slabs {
  #open: Slab = slabOf(SLAB_BYTES);

  put(record: Buffer): Place {
    const { length } = record;
    if (this.#open.used + length > this.#open.bytes.length) this.#open = slabOf(Math.max(SLAB_BYTES, length));
    const slab = this.#open;
    const place = { slab, at: slab.used, length };
    record.copy(slab.bytes, slab.used);
    slab.used += length;
    slab.live += length;
    return place;
  }

  /** Valid until the place is freed or moved. */
  read({ slab, at, length }: Place): Buffer {
    return slab.bytes.subarray(at, at + length);
  }

  free({ slab, at, length }: Place): void {
    slab.live -= length;
    // Tokens of somebody who has signed out.
    slab.bytes.fill(0, at, at + length);
  }

  /** The same place, or a new one where the slab is to be given back. */
  moved(place: Place): Place {
    const { slab } = place;
    if (slab === this.#open || slab.live >= slab.used * SPARSE) return place;
    const next = this.put(this.read(place));
    this.free(place);
    return next;
  }
}

function slabOf(bytes: number): Slab {
  return { bytes: Buffer.allocUnsafeSlow(bytes), used: 0, live: 0 };
}
