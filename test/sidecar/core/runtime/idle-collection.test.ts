// In a process of its own: the heap belongs to the whole process.
import { execFileSync } from "node:child_process";
import { expect, test } from "@jest/globals";

const IDLE = new URL("../../../../sidecar/core/runtime/idle-collection.ts", import.meta.url).href;
const TRIM = new URL("../../../../sidecar/core/runtime/malloc-trim.ts", import.meta.url).href;

/** What a program prints, as JSON; `heap()` in it is what V8 holds, MiB, and `load(MiB)` leaves so much garbage there. */
function run(program: string): unknown {
  const shared = `
    import { mock } from "node:test";
    import { getHeapStatistics, setFlagsFromString } from "node:v8";
    // V8 would collect by itself in the middle, or not, as it likes.
    setFlagsFromString("--no-memory-reducer");
    const heap = () => getHeapStatistics().total_heap_size / 2 ** 20;
    let kept = [];
    const load = (mib) => { while (heap() < mib) kept.push(Array.from({ length: 1_000 }, (_, i) => ({ i }))); kept = []; };`;
  // A heap that grows in small steps.
  const args = [
    "--max-semi-space-size=2",
    "--disable-warning=ExperimentalWarning",
    "--input-type=module",
    "--eval",
    shared + program,
  ];
  return JSON.parse(execFileSync(process.execPath, args, { encoding: "utf8" }));
}

test("what the heap holds for nothing is given back once, and again when it has grown again", () => {
  const said = run(`
    const { IdleCollection } = await import(${JSON.stringify(IDLE)});
    const collection = new IdleCollection();
    load(60);
    const [before, first, after, second] = [heap(), collection.collect(), heap(), collection.collect()];
    load(60);
    console.log(JSON.stringify({ first, second, third: collection.collect(), less: before - after > 20, gc: typeof gc }));`);
  expect(said).toEqual({ first: true, second: false, third: true, less: true, gc: "undefined" });
});

test("a heap that is large and in use is left alone", () => {
  const said = run(`
    const { IdleCollection } = await import(${JSON.stringify(IDLE)});
    const all = [];
    while (getHeapStatistics().used_heap_size < 120 * 2 ** 20) all.push(Array.from({ length: 1_000 }, (_, i) => ({ i })));
    console.log(JSON.stringify({ collected: new IdleCollection().collect(), kept: all.length > 0 }));`);
  expect(said).toEqual({ collected: false, kept: true });
});

test("a process that was busy collects when it is quiet, and not before", () => {
  const said = run(`
    mock.timers.enable({ apis: ["setInterval"] });
    const { trimWhileBusy } = await import(${JSON.stringify(TRIM)});
    trimWhileBusy(new AbortController().signal);
    load(60);
    const until = process.cpuUsage().user + 300_000;
    while (process.cpuUsage().user < until);
    const told = [heap()];
    for (let i = 0; i < 2; i++) { mock.timers.tick(5_000); told.push(heap()); }
    console.log(JSON.stringify(told));`) as readonly number[];
  const [before = 0, busy = 0, quiet = Number.NaN] = said;
  expect(busy).toBeGreaterThan(before - 5);
  expect(quiet).toBeLessThan(before - 20);
});
