// PURE. Takes a gRPC body apart into its messages as it arrives (length-prefixed messages of PROTOCOL-HTTP2.md), so that
// each can be looked at before its bytes go on.

/** Longest message that is looked at (DOMAIN M5). */
export const MAX_MESSAGE_BYTES = 65_536;
const PREFIX_BYTES = 5;
const EMPTY = Buffer.alloc(0);

/** What all messages that wait for the rest of them may take together. */
export interface MessageRoom {
  /** Whether there is room for `bytes` more; true takes it. */
  take(bytes: number): boolean;
  give(bytes: number): void;
}

/** What is done with a message. */
export interface MessageSink {
  /**
   * A whole message, before its bytes are passed on.
   *
   * @param message undefined: compressed, or longer than `MAX_MESSAGE_BYTES`.
   * @returns false: nothing more of the body goes on.
   */
  onMessage(message: Buffer | undefined): boolean;
  /** @param bytes may go on. */
  onBytes(bytes: Buffer): void;
  /** There is no room to wait for the rest of a message: nothing more of the body goes on. */
  onNoRoom(): void;
}

export class GrpcMessages {
  readonly #sink: MessageSink;
  readonly #room: MessageRoom;
  /** Grows with what arrives: a peer that announces much and sends little makes us hold little. */
  #held: Buffer = EMPTY;
  #heldBytes = 0;
  /** Bytes of the message that is collected, as far as is known: its prefix alone at first. */
  #wantedBytes = PREFIX_BYTES;
  /** Bytes of a long message that still go on unseen. */
  #passingBytes = 0;
  #isOver = false;

  constructor(sink: MessageSink, room: MessageRoom) {
    this.#sink = sink;
    this.#room = room;
  }

  /** Whether the body so far ends with a whole message. */
  get isWhole(): boolean {
    return this.#heldBytes === 0 && this.#passingBytes === 0;
  }

  /**
   * @param chunk body bytes in any portions; kept pieces are copied.
   * @returns false: the sink has refused a message, or there was no room for it; everything from now on is dropped.
   */
  push(chunk: Buffer): boolean {
    let at = 0;
    while (at < chunk.length && !this.#isOver) {
      if (this.#passingBytes > 0) at = this.#pass(chunk, at);
      else at = this.#collect(chunk, at);
    }
    return !this.#isOver;
  }

  /** What waits is dropped, and its room free again. */
  close(): void {
    this.#isOver = true;
    this.#room.give(this.#held.length);
    this.#held = EMPTY;
    this.#heldBytes = 0;
  }

  #pass(chunk: Buffer, at: number): number {
    const end = Math.min(chunk.length, at + this.#passingBytes);
    this.#passingBytes -= end - at;
    this.#sink.onBytes(chunk.subarray(at, end));
    return end;
  }

  #collect(chunk: Buffer, at: number): number {
    const end = Math.min(chunk.length, at + this.#wantedBytes - this.#heldBytes);
    if (!this.#hold(chunk, at, end)) {
      this.close();
      this.#sink.onNoRoom();
      return end;
    }
    if (this.#heldBytes < this.#wantedBytes) return end;
    const isPrefix = this.#wantedBytes === PREFIX_BYTES;
    const length = this.#held.readUInt32BE(1);
    if (isPrefix && length > MAX_MESSAGE_BYTES) {
      this.#deliver(undefined);
      this.#passingBytes = length;
    } else if (isPrefix && length > 0) this.#wantedBytes = PREFIX_BYTES + length;
    else this.#deliver(this.#held[0] === 0 ? this.#held.subarray(PREFIX_BYTES, this.#heldBytes) : undefined);
    return end;
  }

  #hold(chunk: Buffer, at: number, end: number): boolean {
    const needed = this.#heldBytes + end - at;
    if (needed > this.#held.length) {
      const size = Math.max(needed, this.#held.length * 2);
      if (!this.#room.take(size - this.#held.length)) return false;
      const grown = Buffer.allocUnsafe(size);
      this.#held.copy(grown, 0, 0, this.#heldBytes);
      this.#held = grown;
    }
    chunk.copy(this.#held, this.#heldBytes, at, end);
    this.#heldBytes = needed;
    return true;
  }

  #deliver(message: Buffer | undefined): void {
    const whole = this.#held.subarray(0, this.#heldBytes);
    this.#room.give(this.#held.length);
    this.#held = EMPTY;
    this.#heldBytes = 0;
    this.#wantedBytes = PREFIX_BYTES;
    if (this.#sink.onMessage(message)) this.#sink.onBytes(whole);
    else this.#isOver = true;
  }
}
