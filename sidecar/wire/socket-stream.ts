// The far side of a tunnel where that is a socket too: bytes read of it count as unread until the near side has taken
// them, so neither side is read faster than the other one reads.
import type { MeshSocket, SocketHandler } from "./socket.ts";
import type { Tunnel, TunnelStream } from "./tunnel.ts";

/** Bytes of the far side that wait for the near side; from here on it is not read. */
const MAX_UNREAD_BYTES = 262_144;
const EMPTY = Buffer.alloc(0);

export class SocketStream implements TunnelStream, SocketHandler {
  readonly #socket: MeshSocket;
  #tunnel: Tunnel | undefined;
  #unread = 0;
  #paused = false;

  /** @param socket connected and paused; made with `allowHalfOpen`. */
  constructor(socket: MeshSocket) {
    this.#socket = socket;
  }

  /** Begins to read. @param tunnel made with this stream. */
  join(tunnel: Tunnel): void {
    this.#tunnel = tunnel;
    this.#socket.attach(this);
    this.#socket.resume();
  }

  // --- from the tunnel ---------------------------------------------------------------------------------------------

  send(chunk: Buffer, end: boolean): boolean {
    this.#socket.write(chunk);
    if (end) this.#socket.end();
    return !this.#socket.congested;
  }

  consumed(bytes: number): void {
    this.#unread -= bytes;
    if (!this.#paused || this.#unread > MAX_UNREAD_BYTES / 2) return;
    this.#paused = false;
    this.#socket.resume();
  }

  reset(): void {
    this.#socket.reset();
  }

  // --- from the socket ---------------------------------------------------------------------------------------------

  onData(chunk: Buffer): void {
    this.#unread += chunk.length;
    this.#tunnel?.onStreamData(chunk, false);
    if (this.#unread < MAX_UNREAD_BYTES || this.#paused) return;
    this.#paused = true;
    this.#socket.pause();
  }

  onEnd(): void {
    this.#tunnel?.onStreamData(EMPTY, true);
  }

  onDrain(): void {
    this.#tunnel?.onStreamWritable();
  }

  onClose(error: Error | undefined): void {
    this.#tunnel?.onStreamGone(error?.message ?? "the host closed the connection before its end");
  }
}
