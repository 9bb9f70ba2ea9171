// A peer that does not read its answers: no more body is written to it, and when heads alone pile up, nothing more is read
// from it either. Whether it reads at all then tells whether it is still there.
import type { KeepAlive } from "../keep-alive.ts";
import type { MeshSocket } from "../socket.ts";
import type { Http2Connection } from "./connection.ts";

/** Answers without body are not under flow control: with this much unread nothing more is taken from the peer. */
const MAX_UNREAD_BYTES = 4 * 1024 * 1024;

export class UnreadAnswers {
  readonly #h2: Pick<Http2Connection<unknown>, "pauseData" | "resumeData">;
  readonly #socket: Pick<MeshSocket, "congested" | "bufferedBytes" | "pause" | "resume">;
  readonly #keepAlive: Pick<KeepAlive, "heard">;
  #dataPaused = false;
  #readPaused = false;
  /** Bytes that waited for the peer at the last sweep. */
  #waitingBytes = 0;

  constructor(
    h2: Pick<Http2Connection<unknown>, "pauseData" | "resumeData">,
    socket: Pick<MeshSocket, "congested" | "bufferedBytes" | "pause" | "resume">,
    keepAlive: Pick<KeepAlive, "heard">,
  ) {
    this.#h2 = h2;
    this.#socket = socket;
    this.#keepAlive = keepAlive;
  }

  /** Something was written to the socket. */
  written(): void {
    if (!this.#socket.congested) return;
    if (!this.#dataPaused) {
      this.#dataPaused = true;
      this.#h2.pauseData();
    }
    if (!this.#readPaused && this.#socket.bufferedBytes >= MAX_UNREAD_BYTES) {
      this.#readPaused = true;
      this.#socket.pause();
    }
  }

  /** The socket takes bytes again. */
  drained(): void {
    if (!this.#dataPaused) return;
    this.#dataPaused = false;
    if (this.#readPaused) {
      this.#readPaused = false;
      this.#socket.resume();
    }
    this.#h2.resumeData();
  }

  /** @returns whether nothing is read from the peer: then what it reads is its only sign of life. */
  sweep(): boolean {
    if (!this.#readPaused) return false;
    const { bufferedBytes } = this.#socket;
    if (bufferedBytes < this.#waitingBytes) this.#keepAlive.heard();
    this.#waitingBytes = bufferedBytes;
    return true;
  }
}
