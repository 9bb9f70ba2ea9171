// Gives memory that malloc holds for nothing back to the system. Under load two thirds of glibc's heap is free space
// between a few small blocks: 18 MB of a busy sidecar's 57, which `malloc_trim` returns in less than a millisecond.
import { createRequire } from "node:module";
import { IdleCollection } from "./idle-collection.ts";

const EVERY_MS = 5_000;
/** Below this share of a core there was nothing to fragment. */
const BUSY = 0.05;
/** Below this a pause of some 20 ms meets nobody. */
const QUIET = 0.01;

function cpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1_000;
}

/** @returns undefined where the C library has no such call (musl) or koffi no build. */
function loadTrim(): (() => void) | undefined {
  try {
    const koffi: typeof import("koffi") = createRequire(import.meta.url)("koffi");
    const trim = koffi.load(null).func("int malloc_trim(size_t)");
    return () => {
      trim(0);
    };
  } catch {
    return undefined; // only memory is lost
  }
}

function none(): void {}

/**
 * Trims every 5 s while the process is busy, and once after, until the signal aborts. After 5 quiet ones V8's heap is
 * collected first, if it has grown. koffi is loaded with the first trim.
 */
export function trimWhileBusy(signal: AbortSignal): void {
  let trim: (() => void) | undefined;
  let before = cpuMs();
  let wasBusy = false;
  const heap = new IdleCollection();
  const timer = setInterval(() => {
    const now = cpuMs();
    const share = (now - before) / EVERY_MS;
    const isBusy = share > BUSY;
    before = now;
    const isCollected = share < QUIET && heap.collect();
    if (isBusy || wasBusy || isCollected) {
      trim ??= loadTrim() ?? none;
      trim();
    }
    wasBusy = isBusy;
  }, EVERY_MS).unref();
  signal.addEventListener("abort", () => clearInterval(timer), { once: true });
}
