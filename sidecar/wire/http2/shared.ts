// What the HTTP/2 connections of a process share: buffers for output, a bound on how far receive windows grow, and what
// streams hold for peers that do not read.
import { BufferPool } from "./buffer-pool.ts";
import type { WindowBudget } from "./flow.ts";
import { HeldBytes } from "./held-bytes.ts";

/**
 * Growth of all windows together: what slow readers can make a process hold beyond the first 64 KiB of each stream. One
 * stream over 10 ms needs half a MiB for 50 MB/s.
 */
const WINDOW_GROWTH_BYTES = 32 * 1024 * 1024;

export interface Http2Shared {
  readonly buffers: BufferPool;
  readonly windows: WindowBudget;
  /** Received, and not yet passed on by their owners. */
  readonly received: HeldBytes;
  /** Given to streams to be sent, and not yet written. */
  readonly queued: HeldBytes;
}

export function createHttp2Shared(windowGrowthBytes: number = WINDOW_GROWTH_BYTES): Http2Shared {
  let left = windowGrowthBytes;
  const received = new HeldBytes();
  return {
    buffers: new BufferPool(),
    received,
    queued: new HeldBytes(),
    windows: {
      get isTight() {
        return received.isMuch;
      },
      take: (bytes) => {
        if (bytes > left) return false;
        left -= bytes;
        return true;
      },
      give: (bytes) => {
        left += bytes;
      },
    },
  };
}
