// What the HTTP/2 connections of a process share: buffers for output, and a bound on how far receive windows grow.
import { BufferPool } from "./buffer-pool.ts";
import type { WindowBudget } from "./flow.ts";

/**
 * Growth of all windows together: what slow readers can make a process hold beyond the first 64 KiB of each stream. One
 * stream over 10 ms needs half a MiB for 50 MB/s.
 */
const WINDOW_GROWTH_BYTES = 32 * 1024 * 1024;

export interface Http2Shared {
  readonly buffers: BufferPool;
  readonly windows: WindowBudget;
}

export function createHttp2Shared(windowGrowthBytes: number = WINDOW_GROWTH_BYTES): Http2Shared {
  let left = windowGrowthBytes;
  return {
    buffers: new BufferPool(),
    windows: {
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
