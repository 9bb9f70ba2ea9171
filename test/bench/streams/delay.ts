// A path with a constant delay each way and no other limit: a TCP proxy on loopback that hands on every chunk when it
// is due, in order.
import net from "node:net";
import { freePorts } from "../../demo/process.ts";

interface Held {
  readonly atMs: number;
  /** undefined: the sender has finished. */
  readonly chunk: Buffer | undefined;
}

/** Passes on what `from` sends, `delayMs` later. Everything is taken at once: the path itself holds nobody up. */
function pass(from: net.Socket, to: net.Socket, delayMs: number): void {
  const held: Held[] = [];
  let timer: NodeJS.Timeout | undefined;
  const due = (): void => {
    timer = undefined;
    const nowMs = performance.now();
    let count = 0;
    for (const one of held) {
      // Timers come up to a millisecond late, never early enough to matter.
      if (one.atMs > nowMs + 0.5) break;
      count++;
      if (one.chunk === undefined) to.end();
      else to.write(one.chunk);
    }
    held.splice(0, count);
    const next = held[0];
    if (next !== undefined) timer = setTimeout(due, Math.max(0, next.atMs - nowMs));
  };
  const take = (chunk: Buffer | undefined): void => {
    held.push({ atMs: performance.now() + delayMs, chunk });
    timer ??= setTimeout(due, delayMs);
  };
  from.on("data", take);
  from.on("end", () => take(undefined));
  from.on("close", () => {
    clearTimeout(timer);
    to.destroy();
  });
  from.on("error", () => {});
}

export interface DelayedPath {
  readonly port: number;
  close(): void;
}

/** @param delayMs each way, whole milliseconds; half of the round trip. */
export async function startDelayedPath(target: number, delayMs: number): Promise<DelayedPath> {
  const [port = 0] = await freePorts(1);
  const sockets = new Set<net.Socket>();
  const server = net.createServer({ allowHalfOpen: true }, (near) => {
    const far = net.connect({ port: target, host: "127.0.0.1", allowHalfOpen: true });
    for (const socket of [near, far]) {
      sockets.add(socket.setNoDelay(true));
      socket.on("close", () => sockets.delete(socket));
    }
    pass(near, far, delayMs);
    pass(far, near, delayMs);
  });
  await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve));
  return {
    port,
    close: () => {
      server.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}
