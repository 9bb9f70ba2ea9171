// An HTTP/2 connection (RFC 9113) as a pure state machine over buffers, for both roles: bytes in, callbacks out, one
// write per turn of the event loop. This file is what owners use; frames are handled in `receiver.ts`.
import { createField, type Field, FieldFlag } from "../field.ts";
import type { FieldCache } from "../field-cache.ts";
import { Core } from "./core.ts";
import { FrameReader } from "./frame-reader.ts";
import { ErrorCode, FrameType } from "./frames.ts";
import { encodedBound } from "./hpack-encoder.ts";
import { Receiver } from "./receiver.ts";
import type { Http2Settings } from "./settings.ts";
import type { Http2Shared } from "./shared.ts";
import type { StreamState } from "./stream.ts";

const STATUS_INDEX: ReadonlyMap<number, number> = new Map([
  [200, 8],
  [204, 9],
  [206, 10],
  [304, 11],
  [400, 12],
  [404, 13],
  [500, 14],
]);
const PING_PAYLOAD = Buffer.alloc(8);
const LAST_STREAM = 0x7fff_ffff;

/** Why a connection ended. */
export interface Http2Error {
  /** RFC 9113 section 7. */
  readonly code: number;
  /** One line for a log; holds nothing that the peer sent. */
  readonly message: string;
}

/** One exchange. Everything but `context` is written by the connection. */
export interface Http2Stream<T> {
  /** 0 for a client's stream until its first `beginHeaders`. */
  readonly id: number;
  /** The owner's; on a server undefined until the owner sets it in `onHeaders`, so `T` includes undefined there. */
  context: T;
  /** END_STREAM is written, or the stream is over. */
  readonly localClosed: boolean;
  readonly remoteClosed: boolean;
  /** Bytes given to `sendData` that are not written yet. */
  readonly queuedBytes: number;
}

/**
 * What happens on a connection. Callbacks run inside `receive`, `eof` and `flush`, and may call any method of the
 * connection. Each stream ends once: closed on both sides, or `onReset`. Field lists are fresh arrays, to be kept at
 * will; split `cookie` fields are delivered as they came (RFC 9113 section 8.2.3).
 */
export interface Http2Handler<T> {
  /** A request (server) or a final response (client). Host beside :authority is delivered, the owner compares them. */
  onHeaders(stream: Http2Stream<T>, fields: readonly Field[], endStream: boolean): void;
  /** A 1xx response. */
  onInformational(stream: Http2Stream<T>, fields: readonly Field[]): void;
  /**
   * Body bytes; empty only with `endStream`. Must be answered with `consumed` once they are passed on.
   *
   * @param chunk a view that the connection never writes again: it may be kept as long as the buffer given to `receive`.
   */
  onData(stream: Http2Stream<T>, chunk: Buffer, endStream: boolean): void;
  /** Trailers, which end the message. */
  onTrailers(stream: Http2Stream<T>, fields: readonly Field[]): void;
  /**
   * The stream ended early: reset by the peer, by us because the peer broke a rule, or with the connection. After
   * REFUSED_STREAM the request was not processed and may be sent again; with NO_ERROR after a whole response the server
   * wants no more of the request's body. Not called for the owner's own `resetStream`, nor for a client's stream without
   * headers yet.
   */
  onReset(stream: Http2Stream<T>, code: number): void;
  /** There is room again after `sendData` answered false. */
  onWritable(stream: Http2Stream<T>): void;
  /** The peer takes no streams above `lastStreamId`; a client opens another connection. */
  onGoaway(lastStreamId: number, code: number): void;
  /** The connection is over; close the socket once what was written is sent. `undefined`: drained, or a clean end. */
  onClosed(error: Http2Error | undefined): void;
  /**
   * Server: a CONNECT, plain (RFC 9113 section 8.5) or extended (RFC 8441): a tunnel once it is answered with 2xx. No
   * trailers come on it. Absent: extended CONNECT is not announced, and CONNECT is not taken.
   */
  onConnect?(stream: Http2Stream<T>, fields: readonly Field[], endStream: boolean): void;
  /**
   * Server: a well-formed request that is not taken: its header list is too large (431, `fields` is its beginning) or it
   * is a CONNECT and there is no `onConnect` (501). The owner answers, and resets the stream with NO_ERROR unless
   * `endStream`. Absent: the connection does so with a bare answer.
   */
  onUnacceptable?(
    stream: Http2Stream<T>,
    status: 431 | 501,
    fields: readonly Field[],
    endStream: boolean,
  ): void;
  /** The answer to `ping`. */
  onPong?(): void;
}

export interface Http2Options<T> {
  readonly role: "client" | "server";
  readonly handler: Http2Handler<T>;
  /** Shared by all connections of the process: it makes repeated fields the same object. */
  readonly cache: FieldCache;
  /** Takes bytes for the socket; they are never changed again. */
  readonly write: (bytes: Buffer) => void;
  /**
   * In place of `write` where there are `shared` buffers.
   *
   * @returns true: the bytes are copied or sent, and their buffer may be written over.
   */
  readonly writeNow?: ((bytes: Buffer) => boolean) | undefined;
  /** Called at most once until `flush`; schedule it, for example `setImmediate(() => connection.flush())`. */
  readonly requestFlush: () => void;
  /** Monotonic milliseconds: flood budgets refill and windows grow by it. */
  readonly nowMs: () => number;
  readonly settings?: Partial<Http2Settings> | undefined;
  /** Of all connections of the process; absent: buffers of its own, windows bounded by its own maximum alone. */
  readonly shared?: Http2Shared | undefined;
}

/** One connection. Never throws on what a peer sends; after `onClosed` all methods do nothing. */
export class Http2Connection<T> {
  readonly #core: Core<T>;
  readonly #receiver: Receiver<T>;
  readonly #reader: FrameReader;
  /** The stream whose header block is being written; undefined also while one that is over is skipped. */
  #block: StreamState<T> | undefined;
  /** The stream whose trailers are being taken, to be written behind its queued bytes. */
  #laterBlock: StreamState<T> | undefined;

  constructor(options: Http2Options<T>) {
    this.#core = new Core(options);
    this.#receiver = new Receiver(this.#core);
    this.#reader = new FrameReader(this.#receiver, options.role === "server");
  }

  /** Streams that are not over. */
  get openStreams(): number {
    return this.#core.open;
  }

  get closed(): boolean {
    return this.#core.closed;
  }

  /** Either side has begun to leave: open new streams elsewhere. */
  get goingAway(): boolean {
    return this.#core.goingAway;
  }

  /** Client: the server takes extended CONNECT (RFC 8441 section 3); known once its SETTINGS have come. */
  get extendedConnect(): boolean {
    return this.#core.peer.enableConnectProtocol;
  }

  /** Number of the header block that has come in part, for `UnfinishedHead`; -1: there is none. */
  get unfinishedHead(): number {
    return this.#receiver.unfinishedHead(this.#reader.partialType);
  }

  /** Takes bytes from the socket, in any portions; they must not be changed while `onData` views are in use. */
  receive(chunk: Buffer): void {
    if (!this.#core.closed) this.#reader.push(chunk);
  }

  /** The socket has ended. Streams that are open are reset. */
  eof(): void {
    const clean = this.#core.open === 0 && !this.#reader.partial;
    const error = { code: ErrorCode.internalError, message: "the connection ended with streams open" };
    this.#core.end(clean ? undefined : error);
  }

  /** The socket is gone, and the owner has told whom it concerns: nothing more is called. */
  forget(): void {
    this.#core.forget();
  }

  /**
   * Client: a new stream; write its headers next.
   *
   * @returns undefined at the limit of concurrent streams, when going away, and when identifiers are used up.
   */
  openStream(context: T): Http2Stream<T> | undefined {
    return this.hasRoom ? this.#core.addStream(0, context) : undefined;
  }

  /** Client: whether `openStream` gives a stream now. */
  get hasRoom(): boolean {
    const core = this.#core;
    if (core.role !== "client" || core.closed || core.goingAway || core.lastStreamId >= LAST_STREAM - 1) {
      return false;
    }
    return core.open < Math.min(core.peer.maxConcurrentStreams, core.settings.maxConcurrentStreams);
  }

  /**
   * Begins a header block: request, response (also 1xx), or trailers. No other method may be called until `endHeaders`
   * but the `put` ones. On a stream that is over the block is skipped. Behind queued body bytes it can only be trailers:
   * it is kept and written, with END_STREAM, when they are.
   */
  beginHeaders(stream: Http2Stream<T>): void {
    const core = this.#core;
    const own = stateOf(stream);
    if (core.closed || !own.alive || own.localClosed || own.endQueued) return;
    if (own.id === 0) {
      core.lastStreamId += core.lastStreamId === 0 ? 1 : 2;
      own.id = core.lastStreamId;
      own.sendWindow = core.peer.initialWindowSize;
      core.streams.set(own.id, own);
    }
    if (own.queuedBytes > 0) {
      own.trailers = [];
      this.#laterBlock = own;
      return;
    }
    this.#block = own;
    const { output } = core;
    output.beginBlock();
    output.length = core.encoder.begin(output.buffer, output.length);
  }

  /** Writes a field; it enters the HPACK table unless it is flagged `neverIndex`. Pseudo-headers come first. */
  putField(field: Field): void {
    if (this.#block === undefined) {
      this.#laterBlock?.trailers?.push(field);
      return;
    }
    const { output, encoder } = this.#core;
    if ((field.flags & FieldFlag.pseudo) !== 0) this.#notePseudo(field.name, field.value);
    const bound = field.size; // what `encodedBound` gives, and a little more
    if (output.buffer.length - output.length < bound) output.reserve(bound);
    output.length = encoder.put(output.buffer, output.length, field);
  }

  /** Writes a name and value as a literal that enters no table: for values that differ each time. */
  putPair(name: string, value: string): void {
    if (this.#block === undefined) {
      this.#laterBlock?.trailers?.push(createField(name, value));
      return;
    }
    const { output, encoder } = this.#core;
    if (name === ":method") this.#notePseudo(name, value);
    output.reserve(encodedBound(name, value));
    output.length = encoder.putPair(output.buffer, output.length, name, value, false);
  }

  /** Writes `:status`. */
  putStatus(status: number): void {
    if (this.#block === undefined) return;
    const { output } = this.#core;
    const index = STATUS_INDEX.get(status);
    if (index === undefined) {
      this.putPair(":status", String(status));
      return;
    }
    output.reserve(1);
    output.buffer[output.length++] = 0x80 | index;
  }

  /** Ends the block. Trailers and answers without a body end the stream. */
  endHeaders(endStream: boolean): void {
    const stream = this.#block;
    if (stream === undefined) {
      if (this.#laterBlock !== undefined) this.#laterBlock.endQueued = true;
      this.#laterBlock = undefined;
      return;
    }
    this.#block = undefined;
    const core = this.#core;
    core.output.endBlock(stream.id, endStream, core.peer.maxFrameSize);
    if (endStream) core.localEnd(stream);
  }

  /**
   * Sends body bytes; an empty chunk may end the stream.
   *
   * @param chunk taken in any case: written, copied, or (4 KiB and more) kept until sent, so never change it afterwards.
   * @returns false: stop until `onWritable`.
   */
  sendData(stream: Http2Stream<T>, chunk: Buffer, endStream: boolean): boolean {
    return this.#core.closed || this.#core.sender.send(stateOf(stream), chunk, endStream);
  }

  /** The owner has passed on `bytes` of what `onData` gave it: the peer may send as much again. */
  consumed(stream: Http2Stream<T>, bytes: number): void {
    const own = stateOf(stream);
    const taken = Math.min(bytes, own.unconsumed);
    if (taken <= 0 || this.#core.closed) return;
    own.unconsumed -= taken;
    this.#core.releaseStream(own, taken);
    if (!this.#core.releasesAtOnce) this.#core.release(taken);
  }

  /**
   * Ends a stream at once; nothing more is called for it. With NO_ERROR after END_STREAM: as soon as that is sent, and
   * what still comes must be consumed until then.
   */
  resetStream(stream: Http2Stream<T>, code: number): void {
    if (!this.#core.closed) this.#core.reset(stateOf(stream), code);
  }

  /**
   * Leaves. With NO_ERROR gracefully: a server announces it, names its last stream a round trip later (at once when
   * called again) and ends when its streams have; a client opens no more streams. Any other code ends at once.
   */
  goaway(code: number): void {
    if (code === ErrorCode.noError) this.#core.drain();
    else this.#core.fail(code, "the connection was ended by its owner");
  }

  /** Asks for a sign of life; `onPong` is it. */
  ping(): void {
    if (!this.#core.closed) this.#core.output.bytesFrame(FrameType.ping, 0, PING_PAYLOAD);
  }

  /** Writes everything that may be written, as one buffer. */
  flush(): void {
    const core = this.#core;
    if (core.closed) return;
    core.sender.pump();
    core.output.flush();
    if (core.drained) core.end(undefined);
  }

  /** The socket holds enough unsent bytes: DATA waits in the streams' queues, everything else is still written. */
  pauseData(): void {
    this.#core.sender.pause(true);
  }

  resumeData(): void {
    if (!this.#core.closed) this.#core.sender.pause(false);
  }

  /** Call it about twice a second: for streams that wait, and whose windows the peer leaves as they are. */
  sweepWaiting(): void {
    const core = this.#core;
    for (const stream of core.streams.values()) core.sender.wake(stream);
  }

  /**
   * Looks for bodies that are complete but for what the peer does not read, and resets those that were seen like that
   * `withinMs` ago or earlier: nobody waits for them, so nothing else ends them.
   *
   * @returns the bytes that such bodies still hold.
   */
  sweepUnread(nowMs: number, withinMs: number): number {
    const core = this.#core;
    let bytes = 0;
    for (const stream of core.streams.values()) {
      if (!stream.endQueued || stream.queuedBytes === 0) continue;
      if (stream.unreadSinceMs < 0) stream.unreadSinceMs = nowMs;
      if (nowMs - stream.unreadSinceMs < withinMs) bytes += stream.queuedBytes;
      else if (stream.alive) {
        core.reset(stream, ErrorCode.cancel);
        core.handler.onReset(stream, ErrorCode.cancel);
      }
    }
    return bytes;
  }

  #notePseudo(name: string, value: string): void {
    if (this.#block === undefined || name !== ":method") return;
    if (value === "HEAD") this.#block.headRequest = true;
    else if (value === "CONNECT") this.#block.connect = true;
  }
}

/** INVARIANT: only `Core.addStream` makes what owners know as `Http2Stream`. */
function stateOf<T>(stream: Http2Stream<T>): StreamState<T> {
  return stream as StreamState<T>;
}
