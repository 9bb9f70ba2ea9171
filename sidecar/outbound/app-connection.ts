// A connection of the application, whatever is spoken on it: HTTP/1.1, or HTTP/2 when it begins with that preface.
import { beginsHttp2 } from "../wire/sniff.ts";
import type { MeshSocket, SocketHandler } from "../wire/socket.ts";
import { AppHttp2Connection } from "./app-http2-connection.ts";
import { AppSideConnection, type HandedOver } from "./app-side-connection.ts";
import type { AppConversation } from "./app-socket.ts";
import type { FixedDestination } from "./resolve.ts";
import type { OutboundServices } from "./services.ts";

const EMPTY = Buffer.alloc(0);
const HTTP1_LINE = /^[^\r\n]* HTTP\/1\.[01]$/;

/** Whether the first line, as far as it is there, is one of HTTP/1.x. */
function mayBeHttp1(bytes: Buffer): boolean {
  const end = bytes.indexOf("\r\n");
  return end < 0 || HTTP1_LINE.test(bytes.toString("latin1", 0, end));
}

/** `CONNECT` on the proxy port (RFC 9110 section 9.3.6). */
export interface ConnectRequest extends HandedOver {
  readonly services: OutboundServices;
  /** Paused; whoever takes the request has it from now on. */
  readonly socket: MeshSocket;
  readonly isDraining: () => boolean;
  /** The socket is closed. */
  readonly onClosed: () => void;
}

export interface AppConnectionDeps {
  readonly services: OutboundServices;
  /** What a local listener or the captured connection means; undefined on the proxy port. */
  readonly fixed: FixedDestination | undefined;
  /** The port is declared to speak HTTP/2: HTTP/1.x is taken too, anything else ends the connection without a word. */
  readonly isHttp2?: boolean | undefined;
  /** Takes CONNECT; absent: it is refused. */
  readonly connect?: ((request: ConnectRequest) => AppConversation) | undefined;
  readonly isDraining: () => boolean;
  readonly onClosed: (connection: AppConnection) => void;
}

export class AppConnection implements SocketHandler {
  readonly #socket: MeshSocket;
  readonly #deps: AppConnectionDeps;
  #inner: AppConversation | undefined;
  /** Less than tells. */
  #held: Buffer = EMPTY;
  /** Monotonic milliseconds. */
  #deadlineMs: number;

  constructor(socket: MeshSocket, deps: AppConnectionDeps) {
    this.#socket = socket;
    this.#deps = deps;
    const { clock, timeouts } = deps.services;
    this.#deadlineMs = clock.monotonicMs() + timeouts.idleMs;
    socket.attach(this);
  }

  get busy(): boolean {
    return this.#inner?.busy === true;
  }

  onData(chunk: Buffer): void {
    const bytes = this.#held.length === 0 ? chunk : Buffer.concat([this.#held, chunk]);
    const isHttp2 = beginsHttp2(bytes);
    if (isHttp2 === undefined) {
      const { clock, timeouts } = this.#deps.services;
      if (this.#held.length === 0) this.#deadlineMs = clock.monotonicMs() + timeouts.headerMs;
      this.#held = Buffer.from(bytes);
      return;
    }
    this.#held = EMPTY;
    if (this.#deps.isHttp2 === true && !isHttp2 && !mayBeHttp1(bytes)) {
      this.#socket.destroy();
      return;
    }
    const onClosed = (): void => this.#deps.onClosed(this);
    const deps = { ...this.#deps, onClosed };
    if (isHttp2) {
      const http2 = new AppHttp2Connection(this.#socket, deps);
      this.#inner = http2;
      http2.begin(bytes);
    } else {
      const { connect, services, isDraining } = this.#deps;
      const socket = this.#socket;
      const onConnect =
        connect === undefined
          ? undefined
          : (handed: HandedOver): void => {
              this.#inner = connect({ ...handed, services, socket, isDraining, onClosed });
            };
      const http1 = new AppSideConnection(this.#socket, { ...deps, onConnect });
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
    else if (nowMs >= this.#deadlineMs) this.destroy();
  }

  drain(): void {
    if (this.#inner === undefined) this.#socket.end();
    else this.#inner.drain();
  }

  destroy(): void {
    if (this.#inner === undefined) this.#socket.destroy();
    else this.#inner.destroy();
  }
}
