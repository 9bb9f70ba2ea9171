// Sending DATA under flow control (RFC 9113 section 5.2): small bodies go straight into the gathered output, the rest
// waits in its stream's queue and is sent in turns, one frame per stream and round, so no stream starves another.
import type { ChunkQueue } from "./chunk-queue.ts";
import type { FloodBudget } from "./flood-budget.ts";
import type { FrameOutput } from "./frame-output.ts";
import { DATA_BYTES, FrameFlag, FrameType, MAX_WINDOW } from "./frames.ts";
import type { HeldBytes } from "./held-bytes.ts";
import type { StreamState } from "./stream.ts";

interface SendOwner<T> {
  /** The stream's END_STREAM was written. */
  onLocalEnd(stream: StreamState<T>): void;
  /** The stream that was told to wait has room again. */
  onRoom(stream: StreamState<T>): void;
  /** The queued bytes are written, and trailers wait behind them. */
  onTrailersDue(stream: StreamState<T>): void;
}

/** Less than our own windows are ever left with once everything is read (half of 32 KiB). */
const LITTLE_WINDOW = 8_192;

/** How much may wait. */
interface QueueLimits {
  /** From which on a stream is told to wait. */
  readonly streamBytes: number;
  /** Of all streams of the process: when that is much, a stream is told to wait for any byte of its own. */
  readonly all: HeldBytes;
}

export class SendScheduler<T> {
  readonly #output: FrameOutput;
  readonly #owner: SendOwner<T>;
  readonly #budget: FloodBudget;
  readonly #queueBytes: number;
  readonly #queued: HeldBytes;
  /** Streams with something to send and window of their own, in turn; #ring[#head] is next. */
  #ring: StreamState<T>[] = [];
  #head = 0;
  #window = 65_535;
  #paused = false;

  constructor(output: FrameOutput, owner: SendOwner<T>, budget: FloodBudget, queue: QueueLimits) {
    this.#output = output;
    this.#owner = owner;
    this.#budget = budget;
    this.#queueBytes = queue.streamBytes;
    this.#queued = queue.all;
  }

  /** Takes a chunk, which is written, copied or kept; false: the stream's queue is full. */
  send(stream: StreamState<T>, chunk: Buffer, endStream: boolean): boolean {
    if (!stream.alive || stream.localClosed || stream.endQueued) return true;
    const bytes = chunk.length;
    if (bytes === 0 && !endStream) return true;
    const direct =
      stream.queuedBytes === 0 &&
      (bytes === 0 ||
        (bytes <= DATA_BYTES && bytes <= stream.sendWindow && bytes <= this.#window && this.#idle));
    if (direct) {
      const at = this.#output.frame(FrameType.data, endStream ? FrameFlag.endStream : 0, stream.id, bytes);
      chunk.copy(this.#output.buffer, at);
      this.#sent(stream, bytes, endStream);
      return endStream || !this.#mustWait(stream);
    }
    if (bytes > 0) {
      stream.enqueue(chunk);
      this.#queued.add(bytes);
    }
    stream.endQueued = endStream;
    this.#makeReady(stream);
    if (stream.queuedBytes >= this.#queueBytes) stream.wantsWritable = true;
    else if (!this.#mustWait(stream)) return true;
    return false;
  }

  /** While much is queued: what is read for a stream with little window would wait, and is better left where it is. */
  #mustWait(stream: StreamState<T>): boolean {
    if (!this.#queued.isMuch || (stream.queuedBytes === 0 && stream.sendWindow >= LITTLE_WINDOW))
      return false;
    stream.wantsWritable = true;
    return true;
  }

  /**
   * A peer need not open a window that is not used up: who waits for more of it goes on with what there is. What waits for
   * long while much is queued keeps nothing else alive.
   */
  wake(stream: StreamState<T>): void {
    if (stream.queuedBytes > 0) {
      if (this.#queued.isMuch && stream.sendWindow <= 0) stream.queue?.unpin();
      return;
    }
    if (!stream.wantsWritable || stream.sendWindow <= 0) return;
    stream.wantsWritable = false;
    if (stream.alive && !stream.localClosed) this.#owner.onRoom(stream);
  }

  /** WINDOW_UPDATE of the connection; false: overflow. */
  grow(increment: number): boolean {
    this.#window += increment;
    if (this.#window > MAX_WINDOW) return false;
    if (this.#head < this.#ring.length) this.#output.requestFlush();
    return true;
  }

  /** WINDOW_UPDATE of a stream, or a changed initial window (negative at times); false: overflow. */
  growStream(stream: StreamState<T>, increment: number): boolean {
    stream.sendWindow += increment;
    if (stream.sendWindow > MAX_WINDOW) return false;
    if (stream.queuedBytes > 0) this.#makeReady(stream);
    else this.#tellRoom(stream);
    return true;
  }

  /** While paused no DATA is written; it gathers in the queues until they are full. */
  pause(paused: boolean): void {
    this.#paused = paused;
    if (!paused && this.#head < this.#ring.length) this.#output.requestFlush();
  }

  /** Writes what the windows allow. */
  pump(): void {
    while (this.#head < this.#ring.length && !this.#paused && this.#window > 0) {
      const stream = this.#ring[this.#head++];
      if (stream !== undefined) this.#turn(stream);
      if (this.#head === this.#ring.length) {
        this.#ring.length = 0;
        this.#head = 0;
      } else if (this.#head > 1024) {
        this.#ring = this.#ring.slice(this.#head);
        this.#head = 0;
      }
    }
  }

  clear(): void {
    this.#ring = [];
    this.#head = 0;
  }

  get #idle(): boolean {
    return !this.#paused && this.#head === this.#ring.length;
  }

  #turn(stream: StreamState<T>): void {
    stream.ready = false;
    const queue = stream.queue;
    if (!stream.alive || queue === undefined) return;
    const bytes = Math.min(queue.bytes, stream.sendWindow, this.#window, DATA_BYTES);
    if (bytes <= 0) return;
    const isLast = stream.endQueued && bytes === queue.bytes;
    const ends = isLast && stream.trailers === undefined;
    const at = this.#output.frame(FrameType.data, ends ? FrameFlag.endStream : 0, stream.id, bytes);
    queue.take(this.#output.buffer, at, bytes);
    this.#queued.remove(bytes);
    this.#sent(stream, bytes, ends);
    if (queue.bytes > 0) this.#goOn(stream, queue);
    if (isLast && !ends) this.#owner.onTrailersDue(stream);
    this.#tellRoom(stream);
  }

  #tellRoom(stream: StreamState<T>): void {
    if (!stream.wantsWritable || !stream.alive || stream.localClosed) return;
    if (stream.queuedBytes * 4 > this.#queueBytes || this.#mustWait(stream)) return;
    stream.wantsWritable = false;
    if (!stream.endQueued) this.#owner.onRoom(stream);
  }

  #goOn(stream: StreamState<T>, queue: ChunkQueue): void {
    if (stream.sendWindow > 0) this.#makeReady(stream);
    else if (this.#queued.isMuch) queue.unpin();
  }

  #makeReady(stream: StreamState<T>): void {
    if (stream.ready || stream.sendWindow <= 0) return;
    stream.ready = true;
    this.#ring.push(stream);
    this.#output.requestFlush();
  }

  #sent(stream: StreamState<T>, bytes: number, ends: boolean): void {
    stream.sendWindow -= bytes;
    this.#window -= bytes;
    this.#budget.creditWindowUpdates();
    if (ends) this.#owner.onLocalEnd(stream);
  }
}
