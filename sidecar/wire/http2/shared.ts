// What the HTTP/2 connections of a process share: buffers for output, a bound on receive windows, and what waits to be sent.
import { SharedReads } from "../shared-reads.ts";
import type { SharedBySockets } from "../socket.ts";
import { TurnQueue } from "../turn-queue.ts";
import { BufferPool } from "./buffer-pool.ts";
import type { WindowBudget } from "./flow.ts";
import { HeldBytes } from "./held-bytes.ts";

/**
 * Windows of all streams with bodies under way grow up to so much together: what they can make a process hold. One stream
 * over 10 ms needs half a MiB for 50 MB/s.
 */
const GROW_UP_TO_BYTES = 24 * 1024 * 1024;
/** From here on (500 streams) they shrink. */
const TIGHT_FROM_BYTES = 32 * 1024 * 1024;
/** As if 64 streams waited, more or less. */
const MUCH_QUEUED_BYTES = 4 * 1024 * 1024;

export interface Http2Shared extends SharedBySockets {
  readonly windows: ProcessWindows;
  readonly connectionWindows: WindowBudget;
  /** Given to streams to be sent, and not yet written. */
  readonly queued: HeldBytes;
}

/** The receive windows of all streams of a process. */
export class ProcessWindows implements WindowBudget {
  #bytes = 0;

  /** Sum of their sizes: what is held, and what peers may still send. */
  get bytes(): number {
    return this.#bytes;
  }

  get isTight(): boolean {
    return this.#bytes > TIGHT_FROM_BYTES;
  }

  add(bytes: number): void {
    this.#bytes += bytes;
  }

  take(bytes: number): boolean {
    if (this.#bytes + bytes > GROW_UP_TO_BYTES) return false;
    this.#bytes += bytes;
    return true;
  }

  give(bytes: number): void {
    this.#bytes -= bytes;
  }
}

/** The windows of connections go with those of streams, which are what bounds and counts what comes. */
class ConnectionWindows implements WindowBudget {
  readonly #streams: ProcessWindows;

  constructor(streams: ProcessWindows) {
    this.#streams = streams;
  }

  get isTight(): boolean {
    return this.#streams.isTight;
  }

  take(): boolean {
    return this.#streams.bytes <= GROW_UP_TO_BYTES;
  }

  add(): void {}

  give(): void {}
}

export function createHttp2Shared(): Http2Shared {
  const windows = new ProcessWindows();
  return {
    buffers: new BufferPool(),
    reads: new SharedReads(),
    turns: new TurnQueue(),
    windows,
    connectionWindows: new ConnectionWindows(windows),
    queued: new HeldBytes(MUCH_QUEUED_BYTES),
  };
}
