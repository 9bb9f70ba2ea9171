// A TCP or TLS socket behind one small interface. Writes gather and leave together, once per turn of the event loop, so
// everything answered in one poll shares a system call and a TLS record.
import type { Socket } from "node:net";
import type { BufferPool } from "./http2/buffer-pool.ts";
import { ownCopy } from "./own-memory.ts";
import type { SharedReads } from "./shared-reads.ts";
import type { TurnQueue } from "./turn-queue.ts";

/** Larger buffers are passed on as they are: copying them costs more than a further entry of the gathered write. */
const COPY_LIMIT_BYTES = 4_096;
/** Small parts are merged into buffers of at most this size. */
const MERGE_BYTES = 65_536;
/** From here on the owner should stop producing: `onDrain` follows once less is buffered. */
export const HIGH_WATER_BYTES = 65_536;
/**
 * The same where the producer sends on credit that is given when bytes leave: with more in the socket and the credit given
 * all the same, each connection that is not read would cost its window twice.
 */
export const CREDIT_HIGH_WATER_BYTES = 8_192;

/** What the sockets of a process share. */
export interface SharedBySockets {
  readonly buffers: BufferPool;
  readonly reads: SharedReads;
  readonly turns: TurnQueue;
}

/** What the owner of a socket is told. Nothing comes after `onClose`. */
export interface SocketHandler {
  /** The chunk is never written to again, so it may be kept, but it keeps its whole allocation alive. */
  onData(chunk: Buffer): void;
  /** The peer has finished sending. Writing may go on where the socket was made with `allowHalfOpen`. */
  onEnd(): void;
  /** It was `congested` and is no more. Never called from inside `write`. */
  onDrain(): void;
  /** Once, and last. @param error why it broke; undefined for an orderly end and for `destroy()` without a reason. */
  onClose(error: Error | undefined): void;
}

/** One connection. An error of the connection never throws; it arrives as `onClose`. */
export class MeshSocket {
  readonly #socket: Socket;
  readonly #remoteAddress: string | undefined;
  readonly #localPort: number | undefined;
  readonly #encrypted: boolean;
  readonly #highWaterBytes: number;
  readonly #shared: SharedBySockets | undefined;
  #handler: SocketHandler | undefined;
  #parts: (string | Buffer)[] = [];
  #gatheredBytes = 0;
  #scheduled = false;
  #owesDrain = false;
  #ended = false;
  #destroyed = false;
  #closed = false;
  #error: Error | undefined;
  readonly #onTurn = (): void => {
    this.#scheduled = false;
    this.flush();
    if (this.#owesDrain) this.#drained();
  };
  /** Told of the last write of a turn where somebody waits for it: Node's own `drain` follows its own mark. */
  readonly #onTaken = (): void => {
    if (this.#owesDrain) this.#drained();
  };

  /**
   * @param socket a `net.Socket` or `tls.TLSSocket`; belongs to this object from now on.
   * @param highWaterBytes from which on it is `congested`.
   * @param shared of the process, for sockets with many small messages: where buffers come from that small parts are merged
   *   in, what an accepted TCP socket is read through, and one end of the turn for all of them.
   */
  constructor(socket: Socket, highWaterBytes: number = HIGH_WATER_BYTES, shared?: SharedBySockets) {
    this.#socket = socket;
    this.#highWaterBytes = highWaterBytes;
    this.#shared = shared;
    this.#remoteAddress = socket.remoteAddress;
    this.#localPort = socket.localPort;
    this.#encrypted = "encrypted" in socket;
    socket.setNoDelay(true);
    socket.on("error", (error: Error) => {
      this.#error ??= error;
    });
    socket.on("close", () => {
      this.#closed = true;
      this.#forget();
      const handler = this.#handler;
      this.#handler = undefined;
      handler?.onClose(this.#error);
    });
  }

  /** Starts reading into `handler`. A second call replaces the handler, as when a protocol has been recognised. */
  attach(handler: SocketHandler): void {
    const first = this.#handler === undefined;
    this.#handler = handler;
    if (!first) return;
    if (this.#closed) {
      this.#handler = undefined;
      setImmediate(() => handler.onClose(this.#error));
      return;
    }
    const deliver = (chunk: Buffer): void => this.receive(chunk);
    if (this.#shared?.reads.adopt(this.#socket, deliver) !== true) this.#socket.on("data", deliver);
    this.#socket.on("end", () => {
      if (!this.#destroyed) this.#handler?.onEnd();
    });
  }

  /** For a socket without `data` events, see `SharedReads`: what came. */
  receive(chunk: Buffer): void {
    if (!this.#destroyed) this.#handler?.onData(chunk);
  }

  /**
   * Gathers data for the one write of this turn. Ignored after `end` and `destroy`.
   *
   * @param data strings hold Latin-1 characters; a buffer must not be changed afterwards.
   */
  write(data: string | Buffer): void {
    if (data.length === 0 || this.#ended || this.#destroyed) return;
    this.#parts.push(this.bufferedBytes >= this.#highWaterBytes / 2 ? unpinned(data) : data);
    this.#gatheredBytes += data.length;
    if (this.congested) this.#owesDrain = true;
    if (!this.#scheduled) {
      this.#scheduled = true;
      if (this.#shared === undefined) setImmediate(this.#onTurn);
      else this.#shared.turns.add(this.#onTurn);
    }
  }

  /**
   * Sends at once, behind what was gathered.
   *
   * @returns true: `data` is encrypted or in the kernel, and may be written over.
   */
  writeNow(data: Buffer): boolean {
    if (this.#ended || this.#destroyed) return true;
    this.flush();
    const socket = this.#socket;
    const taken = this.#takesAtOnce;
    if (socket.writableLength + data.length >= this.#highWaterBytes) this.#owesDrain = true;
    socket.write(data, this.#owesDrain ? this.#onTaken : undefined);
    return taken || socket.writableLength === 0;
  }

  /**
   * Whether a buffer that is written now may be written over afterwards. INVARIANT: TLS copies or encrypts what it is given
   * within the call, unless earlier writes wait in the stream.
   */
  get #takesAtOnce(): boolean {
    return this.#encrypted && this.#socket.writableLength === 0 && this.#socket.writableCorked === 0;
  }

  /** Hands what was gathered to the kernel now instead of at the end of the turn. */
  flush(): void {
    const parts = this.#parts;
    if (parts.length === 0 || this.#destroyed) return;
    this.#parts = [];
    this.#gatheredBytes = 0;
    const only = parts[0];
    if (parts.length === 1 && only !== undefined) {
      this.#send(only, true);
      return;
    }
    // Head and small body, nearly every answer, are one run, which needs no corking (1 us less per answer).
    let to = runEnd(parts, 0);
    const cork = to < parts.length;
    if (cork) this.#socket.cork();
    for (let from = 0; from < parts.length; from = to, to = runEnd(parts, from))
      this.#sendRun(parts, from, to);
    if (cork) this.#socket.uncork();
  }

  /** Bytes not yet taken by the kernel: gathered here and queued in the socket. */
  get bufferedBytes(): number {
    return this.#gatheredBytes + this.#socket.writableLength;
  }

  /** The owner should stop producing until `onDrain`. */
  get congested(): boolean {
    return this.bufferedBytes >= this.#highWaterBytes;
  }

  get remoteAddress(): string | undefined {
    return this.#remoteAddress;
  }

  get localPort(): number | undefined {
    return this.#localPort;
  }

  /** Whether the connection is over or about to be: nothing written now arrives. */
  get closed(): boolean {
    return this.#destroyed || this.#closed;
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    if (!this.#destroyed) this.#socket.resume();
  }

  /** Sends what was gathered, then closes the own direction. Reading goes on. */
  end(): void {
    if (this.#ended || this.#destroyed) return;
    this.flush();
    this.#ended = true;
    this.#socket.end();
  }

  /** Closes both directions at once and drops what was gathered. `onClose` follows. Doing it twice changes nothing. */
  destroy(error?: Error): void {
    if (this.#destroyed) return;
    this.#destroyed = true;
    this.#error ??= error;
    this.#forget();
    this.#socket.destroy();
  }

  /** What is left of it is only to be written: it is destroyed when nothing moves for so long. */
  linger(ms: number): void {
    if (!this.#destroyed) this.#socket.setTimeout(ms, () => this.destroy());
  }

  /** Like `destroy`, but the peer gets an RST (over TCP): what it has is not all there is. */
  reset(): void {
    if (this.#destroyed) return;
    this.#destroyed = true;
    this.#forget();
    // Node throws for what is not TCP itself: sockets without an address, and TLS, where the missing close_notify says it.
    if (this.#socket.remoteAddress === undefined || "encrypted" in this.#socket) this.#socket.destroy();
    else this.#socket.resetAndDestroy();
  }

  #drained(): void {
    if (this.#destroyed || this.#closed || this.congested) return;
    this.#owesDrain = false;
    this.#handler?.onDrain();
  }

  #forget(): void {
    this.#parts = [];
    this.#gatheredBytes = 0;
    this.#owesDrain = false;
  }

  #send(part: string | Buffer, isLast: boolean): void {
    const onTaken = isLast && this.#owesDrain ? this.#onTaken : undefined;
    if (typeof part === "string") this.#socket.write(part, "latin1", onTaken);
    else this.#socket.write(part, onTaken);
  }

  /** Writes one large part, or merges the small parts [from, to) into one. */
  #sendRun(parts: readonly (string | Buffer)[], from: number, to: number): void {
    const first = parts[from];
    if (to - from === 1) {
      if (first !== undefined) this.#send(first, to === parts.length);
      return;
    }
    let bytes = 0;
    for (let i = from; i < to; i++) bytes += parts[i]?.length ?? 0;
    const pool = this.#shared?.buffers;
    const buffer = pool === undefined ? Buffer.allocUnsafe(bytes) : pool.take(sizeFor(bytes));
    const merged = pool === undefined ? buffer : buffer.subarray(0, bytes);
    let at = 0;
    for (let i = from; i < to; i++) {
      const part = parts[i];
      if (part === undefined) continue;
      if (typeof part === "string") merged.write(part, at, "latin1");
      else part.copy(merged, at);
      at += part.length;
    }
    const taken = this.#takesAtOnce;
    this.#send(merged, to === parts.length);
    if (taken || this.#socket.writableLength === 0) pool?.give(buffer);
  }
}

/** The least power of two that holds so many bytes. */
function sizeFor(bytes: number): number {
  return bytes <= 1024 ? 1024 : 2 ** (32 - Math.clz32(bytes - 1));
}

/** What has to wait must not keep the rest of a received buffer alive, of which it may be a small part. */
function unpinned(data: string | Buffer): string | Buffer {
  return typeof data === "string" || data.length * 2 > data.buffer.byteLength ? data : ownCopy(data);
}

/** End of the run that begins at `from`: one large part, or the small ones that fit into one buffer. */
function runEnd(parts: readonly (string | Buffer)[], from: number): number {
  let bytes = 0;
  let to = from;
  for (; to < parts.length; to++) {
    const length = parts[to]?.length ?? 0;
    if (length > COPY_LIMIT_BYTES || bytes + length > MERGE_BYTES) break;
    bytes += length;
  }
  return Math.max(to, from + 1);
}
