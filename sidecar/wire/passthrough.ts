// A captured connection that is passed on as it is: bytes both ways, each direction closed on its own, nothing looked at.
import { connect, type Socket } from "node:net";

export interface PassthroughOptions {
  readonly to: { readonly host: string; readonly port: number } | { readonly path: string };
  readonly connectTimeoutMs: number;
  /** What was read of `inner` before, and could not be put back. */
  readonly early?: Buffer | undefined;
  /** The connection stands. */
  readonly onConnected: (outward: Socket) => void;
  /** Once, when both sides are closed. */
  readonly onClosed: () => void;
}

export interface Passthrough {
  /** Ends both sides at once, so that neither takes what it got for all there is. */
  cut(): void;
  /** Bytes from `inner`, and to it. */
  readonly received: number;
  readonly sent: number;
}

const KEEP_ALIVE_MS = 60_000;

/**
 * Joins `inner` to a new connection to the address. Whatever breaks one side resets the other, so that neither takes a
 * broken stream for a complete one.
 *
 * @param inner paused, made with `allowHalfOpen`.
 */
export function passThrough(inner: Socket, options: PassthroughOptions): Passthrough {
  const outward = connect({ ...options.to, allowHalfOpen: true, noDelay: true });
  const timer = setTimeout(() => outward.destroy(), options.connectTimeoutMs);
  let open = 2;
  const closed = (other: Socket, broken: boolean): void => {
    clearTimeout(timer);
    if (broken && !other.destroyed) other.resetAndDestroy();
    else other.destroySoon();
    open--;
    if (open === 0) options.onClosed();
  };
  let connected = false;
  outward.once("connect", () => {
    connected = true;
    clearTimeout(timer);
    outward.setKeepAlive(true, KEEP_ALIVE_MS);
    inner.setKeepAlive(true, KEEP_ALIVE_MS);
    options.onConnected(outward);
    if (options.early !== undefined) outward.write(options.early);
    inner.pipe(outward);
    outward.pipe(inner);
  });
  for (const [socket, other] of [
    [inner, outward],
    [outward, inner],
  ] as const) {
    socket.on("error", () => {});
    socket.on("close", (hadError) => closed(other, hadError || !connected));
  }
  return {
    cut: () => {
      for (const socket of [inner, outward]) if (!socket.destroyed) socket.resetAndDestroy();
    },
    get received() {
      return inner.bytesRead;
    },
    get sent() {
      return outward.bytesRead;
    },
  };
}
