// A timer for waiting for a peer that does not count the time in which this process stood still: what the peer sent
// meanwhile waits in the kernel, and a plain timer would run out before it is read.

/** Each needs a turn of the event loop, which reads what has come: a standstill, however long, uses up one of them. */
const SLICES = 4;

/** Runs a function once, at least `ms` later and after several turns of the event loop. */
export class PatientTimer {
  #timer: NodeJS.Timeout;
  #left = SLICES;

  /**
   * @param ms to wait; a few percent more on a process that is busy.
   * @param run is not called after {@link cancel}.
   */
  constructor(ms: number, run: () => void) {
    const sliceMs = ms / SLICES;
    const onSlice = (): void => {
      if (--this.#left === 0) run();
      else this.#timer = setTimeout(onSlice, sliceMs);
    };
    this.#timer = setTimeout(onSlice, sliceMs);
  }

  cancel(): void {
    clearTimeout(this.#timer);
  }
}
