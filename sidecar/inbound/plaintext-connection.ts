// A plaintext connection to a port that takes requests, whatever version of HTTP is spoken on it: HTTP/1.1, or HTTP/2 with
// prior knowledge when it begins with that preface.
import type { Logger } from "../core/runtime/log.ts";
import { beginsHttp2 } from "../wire/sniff.ts";
import type { MeshSocket, SocketHandler } from "../wire/socket.ts";
import type { InboundStream } from "./caller-side.ts";
import type { CallerConnection, ConnectionPeer } from "./connection-peer.ts";
import { Http1Connection } from "./http1-connection.ts";
import { PeerConnection } from "./peer-connection.ts";
import type { InboundServices } from "./services.ts";

export interface PlaintextConnectionDeps {
  readonly services: InboundServices;
  readonly peer: ConnectionPeer;
  readonly log: Logger;
  readonly isDraining: () => boolean;
  readonly onClosed: (connection: PlaintextConnection) => void;
}

export class PlaintextConnection implements CallerConnection, SocketHandler {
  readonly #socket: MeshSocket;
  readonly #deps: PlaintextConnectionDeps;
  #inner: Http1Connection | PeerConnection | undefined;
  /** Less than tells. */
  #held: Buffer | undefined;
  /** Monotonic milliseconds, until the first bytes tell. */
  readonly #deadlineMs: number;

  constructor(socket: MeshSocket, deps: PlaintextConnectionDeps) {
    const { clock, timeouts } = deps.services;
    this.#socket = socket;
    this.#deps = deps;
    this.#deadlineMs = clock.monotonicMs() + timeouts.headerMs;
    socket.attach(this);
  }

  get openExchanges(): number {
    return this.#inner?.openExchanges ?? 0;
  }

  get unreadBytes(): number {
    return this.#inner?.unreadBytes ?? 0;
  }

  dropUnread(): void {
    this.#inner?.dropUnread();
  }

  collect(into: InboundStream[]): void {
    this.#inner?.collect(into);
  }

  onData(chunk: Buffer): void {
    const bytes = this.#held === undefined ? chunk : Buffer.concat([this.#held, chunk]);
    const isHttp2 = beginsHttp2(bytes);
    if (isHttp2 === undefined) {
      this.#held = Buffer.from(bytes);
      return;
    }
    this.#held = undefined;
    const deps = { ...this.#deps, onClosed: () => this.#deps.onClosed(this) };
    if (isHttp2) {
      const http2 = new PeerConnection(this.#socket, deps);
      this.#inner = http2;
      http2.onBytes(bytes);
    } else {
      const http1 = new Http1Connection(this.#socket, deps);
      this.#inner = http1;
      http1.onData(bytes);
    }
  }

  onEnd(): void {
    this.#socket.end();
  }

  onDrain(): void {}

  onClose(): void {
    this.#deps.onClosed(this);
  }

  sweep(nowMs: number): void {
    if (this.#inner !== undefined) this.#inner.sweep(nowMs);
    else if (nowMs >= this.#deadlineMs) this.#socket.destroy();
  }

  /** HTTP/1.1 asks by itself whether an answer is the last one. */
  drain(): void {
    if (this.#inner instanceof PeerConnection) this.#inner.drain();
  }

  endIdle(): void {
    if (this.#inner === undefined) this.#socket.end();
    else this.#inner.endIdle();
  }

  destroy(): void {
    if (this.#inner === undefined) this.#socket.destroy();
    else this.#inner.destroy();
  }
}
