// A socket joined to one stream of the mesh: bytes both ways with back-pressure, each direction closed on its own. What
// breaks one side resets the other, so that nobody takes a broken stream for a complete one.
import type { MeshSocket, SocketHandler } from "./socket.ts";

/** A TCP connection was reset or failed (RFC 9113 section 8.5). */
const CONNECT_ERROR = 0xa;
const EMPTY = Buffer.alloc(0);

/** The stream's half of a tunnel: what `Http2Connection` does for one stream. */
export interface TunnelStream {
  /** @returns false: stop until `onStreamWritable`. */
  send(chunk: Buffer, end: boolean): boolean;
  /** `bytes` of what came were passed on. */
  consumed(bytes: number): void;
  /** Ends it at once; nothing more comes from it. */
  reset(code: number): void;
}

/** How a tunnel ended: undefined when both directions were closed in order, else why not, in words. */
export type TunnelEnd = string | undefined;

export interface TunnelOwner {
  /** Once: the stream is closed or reset; the socket may still have bytes to write. */
  onTunnelOver(end: TunnelEnd): void;
  /** Once, and last: the socket is closed. */
  onTunnelClosed(): void;
}

export class Tunnel implements SocketHandler {
  readonly #socket: MeshSocket;
  readonly #stream: TunnelStream;
  readonly #owner: TunnelOwner;
  /** Bytes from the socket, and to it. */
  received = 0;
  sent = 0;
  #held = 0;
  #socketEnded = false;
  #streamEnded = false;
  #over = false;

  /** @param socket made with `allowHalfOpen`. */
  constructor(socket: MeshSocket, stream: TunnelStream, owner: TunnelOwner) {
    this.#socket = socket;
    this.#stream = stream;
    this.#owner = owner;
  }

  get over(): boolean {
    return this.#over;
  }

  /** Begins to read the socket, which may have been paused. */
  start(): void {
    this.#socket.attach(this);
    this.#socket.resume();
  }

  // --- from the stream -------------------------------------------------------------------------------------------

  onStreamData(chunk: Buffer, end: boolean): void {
    if (this.#over) {
      this.#stream.consumed(chunk.length);
      return;
    }
    this.sent += chunk.length;
    this.#held += chunk.length;
    this.#socket.write(chunk);
    this.#giveCredit();
    if (!end) return;
    this.#streamEnded = true;
    this.#socket.end();
    this.#endIfDone();
  }

  onStreamWritable(): void {
    if (!this.#over) this.#socket.resume();
  }

  /** The stream is over before its end: the peer reset it, or its connection broke. */
  onStreamGone(detail: string): void {
    if (this.#over) return;
    this.#socket.reset();
    this.#finish(detail);
  }

  // --- from the socket -------------------------------------------------------------------------------------------

  onData(chunk: Buffer): void {
    if (this.#over || this.#socketEnded) return;
    this.received += chunk.length;
    if (!this.#stream.send(chunk, false)) this.#socket.pause();
  }

  onEnd(): void {
    if (this.#over || this.#socketEnded) return;
    this.#socketEnded = true;
    this.#stream.send(EMPTY, true);
    this.#endIfDone();
  }

  onDrain(): void {
    if (!this.#over) this.#giveCredit();
  }

  onClose(error: Error | undefined): void {
    if (!this.#over) {
      this.#stream.reset(CONNECT_ERROR);
      this.#finish(error?.message ?? "the connection was closed before its end");
    }
    this.#owner.onTunnelClosed();
  }

  // --- both ------------------------------------------------------------------------------------------------------

  /** Ends both sides at once, neither in order. */
  cut(detail: string, code: number = CONNECT_ERROR): void {
    if (this.#over) return;
    this.#stream.reset(code);
    this.#socket.reset();
    this.#finish(detail);
  }

  #giveCredit(): void {
    if (this.#held === 0 || this.#socket.congested) return;
    this.#stream.consumed(this.#held);
    this.#held = 0;
  }

  /** Both directions have ended: what is still to be written is, by the socket alone. */
  #endIfDone(): void {
    if (this.#socketEnded && this.#streamEnded) this.#finish(undefined);
  }

  #finish(end: TunnelEnd): void {
    this.#over = true;
    // The window of the connection gets back what the socket still has to write: at most one stream's window.
    if (this.#held > 0) this.#stream.consumed(this.#held);
    this.#held = 0;
    this.#owner.onTunnelOver(end);
  }
}
