// Keeps V8's young generation at two semi-spaces of 2 MiB. By default it grows to 16 MiB each with the first load and
// stays: 30 MB more private memory for no measurable gain (CPU per request at 9 000/s: 1 MiB +13 %, 2 MiB and 4 MiB as 16).
// A flag of the executable would do, but people type `countersign sidecar`, and starting Node twice costs 40 ms.
//
// Also lets the buffers that bodies pass through end with young collections. V8 13 makes one for their sake when 64 MiB of
// them are new, but new buffers count against the limit of the old generation, so that each 16 to 64 MiB of body brought on
// a full collection first: two thirds of the CPU of bulk transfers.
import { getHeapSpaceStatistics, setFlagsFromString } from "node:v8";

/** Both semi-spaces. */
const TARGET_BYTES = 4 * 1024 * 1024;
const LOOK_MS = 5_000;
/** Above this share of a core the process is busy enough for a shrunken young generation to cost something. */
const BUSY = 0.1;
const FILL_ELEMENTS = 4_096;
const MAX_FILLS = 400;

function committedBytes(): number {
  return (
    getHeapSpaceStatistics().find((space) => space.space_name === "new_space")?.space_size ?? TARGET_BYTES
  );
}

/**
 * Four times as many MiB of new buffers bring on a young collection. With 2 and 3 full ones come first in some processes
 * (3 s of CPU per GB against 1), and letting the old generation double as well costs 10 MB of private memory.
 */
const BUFFER_FLAG = "--scavenger-max-new-space-capacity-mb=1";

/** The flag came with V8 13, and an unknown one is complained about on standard error. */
function boundYoungBuffers(): void {
  if (Number.parseInt(process.versions.v8, 10) >= 13) setFlagsFromString(BUFFER_FLAG);
}

/** Grows it by keeping garbage alive over a collection (4 ms at start), then forbids to grow further. */
function resize(): void {
  if (committedBytes() < TARGET_BYTES) {
    setFlagsFromString("--semi-space-growth-factor=2");
    const kept: unknown[][] = [];
    for (let fills = 0; fills < MAX_FILLS && committedBytes() < TARGET_BYTES; fills++) {
      if (kept.length === 64) kept.length = 0;
      kept.push(new Array(FILL_ELEMENTS));
    }
  }
  setFlagsFromString("--semi-space-growth-factor=1");
}

function cpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1_000;
}

/**
 * Resizes it now, and again when V8 has shrunk it in a quiet time and the process is busy again; until the signal aborts.
 *
 * @param options of the executable: with a size given there (`--max-semi-space-size`) nothing is done.
 */
export function boundYoungGeneration(signal: AbortSignal, options: readonly string[]): void {
  if (options.some((option) => option.includes("semi-space"))) return;
  boundYoungBuffers();
  resize();
  let before = cpuMs();
  const timer = setInterval(() => {
    const now = cpuMs();
    if (now - before > BUSY * LOOK_MS && committedBytes() < TARGET_BYTES) resize();
    before = now;
  }, LOOK_MS).unref();
  signal.addEventListener("abort", () => clearInterval(timer), { once: true });
}
