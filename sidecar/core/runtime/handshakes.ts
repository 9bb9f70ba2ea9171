// Connections of a TLS port before their handshake: bounded, so that silent clients cannot take every place.
import type { Socket } from "node:net";

/**
 * At a time; beyond, the one that has taken longest is given up. One takes milliseconds, so even a flood does not reach an
 * honest one before it is done.
 */
export const MAX_HANDSHAKES = 1_024;

/** Of the raw socket and of the TLS socket on it, which do not know each other. */
const endOf = (socket: Socket): string => `${socket.remoteAddress} ${socket.remotePort}`;

export class Handshakes {
  /** The oldest first. */
  readonly #sockets = new Map<string, Socket>();
  readonly #onRefused: (detail: string) => void;

  constructor(onRefused: (detail: string) => void) {
    this.#onRefused = onRefused;
  }

  /** @param socket as the server's `connection` event gives it. */
  begin(socket: Socket): void {
    const end = endOf(socket);
    this.#sockets.set(end, socket);
    socket.on("close", () => {
      if (this.#sockets.get(end) === socket) this.#sockets.delete(end);
    });
    if (this.#sockets.size <= MAX_HANDSHAKES) return;
    for (const [key, oldest] of this.#sockets) {
      this.#sockets.delete(key);
      this.#onRefused("too many handshakes at a time");
      oldest.destroy();
      return;
    }
  }

  /** @param socket as `secureConnection` gives it. */
  done(socket: Socket): void {
    this.#sockets.delete(endOf(socket));
  }

  destroy(): void {
    for (const socket of this.#sockets.values()) socket.destroy();
  }
}
