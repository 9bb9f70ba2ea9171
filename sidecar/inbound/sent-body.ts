// PURE. The body of a request as far as it was written to the application: a short one, in few pieces, can be written once
// more to another connection.

/** Body bytes that are kept. */
export const MAX_REPLAY_BYTES = 65_536;
/** Each is an object, which costs many times the bytes of a tiny one. */
export const MAX_REPLAY_PIECES = 64;
const NOTHING: readonly Buffer[] = [];

export class SentBody {
  #pieces: Buffer[] | undefined = [];
  #bytes = 0;

  /** Whether all that was sent is kept. */
  get isWhole(): boolean {
    return this.#pieces !== undefined;
  }

  /** Everything, in order; nothing when it was too much. Not to be changed. */
  get pieces(): readonly Buffer[] {
    return this.#pieces ?? NOTHING;
  }

  /** @param chunk kept by reference. */
  add(chunk: Buffer): void {
    if (this.#pieces === undefined) return;
    this.#bytes += chunk.length;
    if (this.#bytes > MAX_REPLAY_BYTES || this.#pieces.length === MAX_REPLAY_PIECES) this.#pieces = undefined;
    else this.#pieces.push(chunk);
  }
}
