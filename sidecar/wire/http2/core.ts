// The state that all parts of an HTTP/2 connection share: its streams, its output, and how it ends. Streams end exactly
// once: closed on both sides, or reset; a connection ends exactly once, with every stream reset before.
import type { Http2Error, Http2Handler, Http2Options } from "./connection.ts";
import { FloodBudget } from "./flood-budget.ts";
import { ReceiveWindow, type WindowSizes } from "./flow.ts";
import { FrameOutput } from "./frame-output.ts";
import { ErrorCode, FrameType, PREFACE } from "./frames.ts";
import { HeldBytes } from "./held-bytes.ts";
import { HpackDecoder } from "./hpack-decoder.ts";
import { HpackEncoder } from "./hpack-encoder.ts";
import { SendScheduler } from "./send-scheduler.ts";
import { completeSettings, encodeSettings, type Http2Settings, initialPeerSettings } from "./settings.ts";
import { StreamState } from "./stream.ts";
import { StreamTable } from "./stream-table.ts";

const DEFAULT_CONNECTION_WINDOW = 65_535;
/** What the window of a stream shrinks to: two frames. */
const LEAST_STREAM_WINDOW = 32_768;
const LAST_STREAM = 0x7fff_ffff;
/** Streams that we reset and the peer had not ended: what was in flight for them is ignored, not an error. */
const MAX_REMEMBERED_RESETS = 256;
/** Payload of the PING whose answer shows that the peer has read our first GOAWAY. */
export const DRAIN_PING: Buffer = Buffer.from("csdrain\0", "latin1");

export class Core<T> {
  readonly role: "client" | "server";
  readonly handler: Http2Handler<T>;
  readonly settings: Http2Settings;
  readonly peer = initialPeerSettings();
  readonly output: FrameOutput;
  readonly encoder: HpackEncoder;
  readonly decoder: HpackDecoder;
  readonly sender: SendScheduler<T>;
  readonly budget: FloodBudget;
  readonly streams = new StreamTable<StreamState<T>>();
  readonly #options: Http2Options<T>;
  readonly #window: ReceiveWindow;
  readonly #streamSizes: WindowSizes;
  readonly #queued: HeldBytes;
  readonly #resetByUs = new Set<number>();
  /** Streams in use, those of a client that have no identifier yet included. */
  open = 0;
  closed = false;
  /** Highest stream that the other side opened (server) or that we opened (client). */
  lastStreamId = 0;
  /** GOAWAY was received, or sent. */
  goingAway = false;
  /** Streams above are refused. */
  acceptUpTo = LAST_STREAM;
  #leaving = false;

  constructor(options: Http2Options<T>) {
    this.#options = options;
    this.role = options.role;
    this.handler = options.handler;
    const settings = completeSettings(options.role, options.settings);
    this.settings = settings;
    this.output = new FrameOutput(options, options.requestFlush, options.shared?.buffers);
    this.budget = new FloodBudget(options.nowMs);
    this.encoder = new HpackEncoder(settings.headerTableSize);
    this.decoder = new HpackDecoder(options.cache, {
      tableSize: settings.headerTableSize,
      maxListSize: settings.maxHeaderListSize,
      maxFields: settings.maxFields,
    });
    const owner = {
      onLocalEnd: (stream: StreamState<T>) => this.localEnd(stream),
      onRoom: (stream: StreamState<T>) => this.handler.onWritable(stream),
      onTrailersDue: (stream: StreamState<T>) => this.#writeTrailers(stream),
    };
    this.#queued = options.shared?.queued ?? new HeldBytes(Number.POSITIVE_INFINITY);
    const queue = { streamBytes: settings.streamQueueBytes, all: this.#queued };
    this.sender = new SendScheduler<T>(this.output, owner, this.budget, queue);
    const window = Math.max(settings.connectionWindow, DEFAULT_CONNECTION_WINDOW);
    const sizes = { initial: window, least: window, most: settings.maxConnectionWindow };
    this.#window = new ReceiveWindow(sizes, options.nowMs(), options.shared?.connectionWindows);
    const { initialWindowSize: initial, maxStreamWindow: most } = settings;
    this.#streamSizes = { initial, least: Math.min(initial, LEAST_STREAM_WINDOW), most };
    this.#greet(window);
  }

  /**
   * Whether the connection's window is given back when DATA arrives instead of when it is passed on, so that only the
   * streams' windows hold a peer back. A client's: answers that a few slow readers do not take must not stop those of all
   * others on the connection. A server's connection window bounds what one caller can make it hold.
   */
  get releasesAtOnce(): boolean {
    return this.role === "client";
  }

  /** The connection window: DATA of `bytes` arrived; false: more than we allowed. */
  receiveBytes(bytes: number): boolean {
    this.#window.available -= bytes;
    return this.#window.available >= 0;
  }

  /** The stream's window, likewise. */
  receiveStreamBytes(stream: StreamState<T>, bytes: number): boolean {
    const { nowMs, shared } = this.#options;
    stream.receiveWindow ??= new ReceiveWindow(this.#streamSizes, nowMs(), shared?.windows);
    stream.receiveWindow.available -= bytes;
    return stream.receiveWindow.available >= 0;
  }

  /** Gives `bytes` back to the peer for the connection alone. */
  release(bytes: number): void {
    if (bytes <= 0 || this.closed) return;
    const increment = this.#window.consumed(bytes, this.#options.nowMs);
    if (increment > 0) this.output.numberFrame(FrameType.windowUpdate, 0, increment);
  }

  /** Gives `bytes` back to the peer for the stream, as far as it may still send on it. */
  releaseStream(stream: StreamState<T>, bytes: number): void {
    const window = stream.receiveWindow;
    if (window === undefined || !stream.alive || stream.remoteClosed) return;
    const increment = window.consumed(bytes, this.#options.nowMs);
    if (increment > 0) this.output.numberFrame(FrameType.windowUpdate, stream.id, increment);
  }

  addStream(id: number, context: T): StreamState<T> {
    const stream = new StreamState(id, context, this.peer.initialWindowSize);
    this.open++;
    if (id !== 0) this.streams.set(id, stream);
    return stream;
  }

  #writeTrailers(stream: StreamState<T>): void {
    const { output, encoder } = this;
    output.beginBlock();
    output.length = encoder.begin(output.buffer, output.length);
    for (const field of stream.trailers ?? []) {
      output.reserve(field.size);
      output.length = encoder.put(output.buffer, output.length, field);
    }
    output.endBlock(stream.id, true, this.peer.maxFrameSize);
    this.localEnd(stream);
  }

  localEnd(stream: StreamState<T>): void {
    stream.localClosed = true;
    if (stream.resetAfterEnd) this.reset(stream, ErrorCode.noError);
    else if (stream.remoteClosed) this.retire(stream);
  }

  remoteEnd(stream: StreamState<T>): void {
    stream.remoteClosed = true;
    if (stream.localClosed) this.retire(stream);
  }

  /** The stream is over; its identifier is not used again. */
  retire(stream: StreamState<T>): void {
    if (!stream.alive) return;
    stream.alive = false;
    stream.localClosed = true;
    this.#queued.remove(stream.queuedBytes);
    stream.queue?.clear();
    this.streams.delete(stream.id);
    this.open--;
    stream.receiveWindow?.end();
    if (this.#leaving && this.open === 0) this.output.requestFlush();
  }

  /**
   * Sends RST_STREAM and forgets the stream; the owner is not told. NO_ERROR waits for what is still to be sent: it says
   * that the answer is whole and the rest of the request is not wanted (RFC 9113 section 8.1).
   */
  reset(stream: StreamState<T>, code: number): void {
    if (!stream.alive) return;
    if (code === ErrorCode.noError && stream.endQueued && !stream.localClosed) {
      stream.resetAfterEnd = true;
      return;
    }
    if (stream.id !== 0) this.sendReset(stream.id, code);
    this.abandon(stream);
  }

  /** RST_STREAM for a stream of which later frames are to be ignored. */
  sendReset(streamId: number, code: number): void {
    this.#resetByUs.add(streamId);
    if (this.#resetByUs.size > MAX_REMEMBERED_RESETS) {
      for (const oldest of this.#resetByUs) {
        this.#resetByUs.delete(oldest);
        break;
      }
    }
    this.output.numberFrame(FrameType.rstStream, streamId, code);
  }

  wasReset(streamId: number): boolean {
    return this.#resetByUs.has(streamId);
  }

  /** Forgets a stream that was reset by either side; what its owner held counts as consumed. */
  abandon(stream: StreamState<T>): void {
    const { unconsumed } = stream;
    stream.unconsumed = 0;
    stream.remoteClosed = true;
    this.retire(stream);
    if (!this.releasesAtOnce) this.release(unconsumed);
  }

  /** The peer broke a rule of a stream (RFC 9113 section 5.4.2): it is reset and the owner told. */
  streamError(stream: StreamState<T>, code: number): void {
    if (!stream.alive || !this.mayReset(stream)) return;
    this.reset(stream, code);
    this.handler.onReset(stream, code);
  }

  /**
   * Counts a reset of what may be a stream. A server's resets of a client's streams are free: they are as many as our
   * requests at most, and a server that denies uploads answers early and resets each.
   */
  mayReset(stream: StreamState<T> | undefined): boolean {
    return (this.role === "client" && stream !== undefined) || this.spendReset();
  }

  /** Counts a reset that the peer caused; false: the connection has ended. */
  spendReset(): boolean {
    if (this.budget.spend("reset")) return true;
    this.fail(ErrorCode.enhanceYourCalm, "too many streams were reset");
    return false;
  }

  /** A connection error (RFC 9113 section 5.4.1): GOAWAY, then the end. */
  fail(code: number, message: string): void {
    if (this.closed) return;
    this.closed = true;
    if (!this.output.inBlock) this.output.goaway(this.#lastTaken, code);
    this.output.flush();
    this.#end({ code, message });
  }

  /** The end without a word: the transport has ended, or all is said. */
  end(error: Http2Error | undefined): void {
    if (this.closed) return;
    this.closed = true;
    this.#end(error);
  }

  /** The end of a transport that is gone already, of whose streams the owner knows: nobody is told. */
  forget(): void {
    if (this.closed) return;
    this.closed = true;
    this.#giveBack();
  }

  /** Begins or completes leaving without cutting streams (RFC 9113 section 6.8). */
  drain(): void {
    if (this.closed || this.#leaving) return;
    if (this.role === "client" || this.goingAway) {
      this.finishDrain();
      return;
    }
    this.goingAway = true;
    this.output.goaway(LAST_STREAM, ErrorCode.noError);
    this.output.bytesFrame(FrameType.ping, 0, DRAIN_PING);
  }

  /** Names the last stream that we take; the connection ends with its last stream. */
  finishDrain(): void {
    this.goingAway = true;
    this.#leaving = true;
    this.acceptUpTo = this.#lastTaken;
    this.output.goaway(this.#lastTaken, ErrorCode.noError);
  }

  /** The peer leaves: a client ends with its last stream. */
  peerLeaves(): void {
    this.goingAway = true;
    if (this.role === "client") this.#leaving = true;
    if (this.open === 0) this.output.requestFlush();
  }

  /** Whether nothing is left to do on a connection that is being left. */
  get drained(): boolean {
    return this.#leaving && this.open === 0;
  }

  /** The last stream of the peer's that we took or may have taken; a client takes none. */
  get #lastTaken(): number {
    return this.role === "server" ? Math.min(this.lastStreamId, this.acceptUpTo) : 0;
  }

  #end(error: Http2Error | undefined): void {
    const code = error?.code ?? ErrorCode.internalError;
    for (const stream of this.#giveBack()) this.handler.onReset(stream, code);
    this.handler.onClosed(error);
  }

  /** What the connection has of the process's. @returns the streams that were open. */
  #giveBack(): StreamState<T>[] {
    const streams = [...this.streams.values()];
    this.sender.clear();
    for (const stream of streams) {
      stream.remoteClosed = true;
      this.retire(stream);
    }
    return streams;
  }

  /** Preface and SETTINGS are written with the first flush (RFC 9113 section 3.4). */
  #greet(window: number): void {
    const { output } = this;
    if (this.role === "client") {
      output.reserve(PREFACE.length);
      PREFACE.copy(output.buffer, output.length);
      output.length += PREFACE.length;
    }
    const takesConnect = this.role === "server" && this.handler.onConnect !== undefined;
    output.bytesFrame(FrameType.settings, 0, encodeSettings(this.role, this.settings, takesConnect));
    const increment = window - DEFAULT_CONNECTION_WINDOW;
    if (increment > 0) output.numberFrame(FrameType.windowUpdate, 0, increment);
  }
}
