// In a process of its own: the heap of malloc belongs to the whole process.
import { execFileSync } from "node:child_process";
import { expect, test } from "@jest/globals";

const MODULE = new URL("../../../../sidecar/core/runtime/malloc-trim.ts", import.meta.url).href;

test("a busy process gives back what malloc holds for nothing, and ends by itself", () => {
  const program = `
    import { mock } from "node:test";
    import { readFileSync } from "node:fs";
    mock.timers.enable({ apis: ["setInterval"] });
    const { trimWhileBusy } = await import(${JSON.stringify(MODULE)});
    trimWhileBusy(new AbortController().signal);
    const residentKb = () => Number(/VmRSS:\\s+(\\d+)/.exec(readFileSync("/proc/self/status", "utf8"))[1]);
    // Blocks below malloc's limit for mmap, with small ones that stay in between.
    let large = [];
    const small = [];
    for (let i = 0; i < 1500; i++) { large.push(Buffer.allocUnsafeSlow(60_000).fill(1)); small.push(Buffer.allocUnsafeSlow(100)); }
    large = [];
    gc();
    const until = process.cpuUsage().user + 400_000;
    while (process.cpuUsage().user < until);
    const before = residentKb();
    mock.timers.tick(5_000);
    console.log(before - residentKb(), small.length);`;
  const args = [
    "--expose-gc",
    "--disable-warning=ExperimentalWarning",
    "--input-type=module",
    "--eval",
    program,
  ];
  const [given = 0] = execFileSync(process.execPath, args, {
    encoding: "utf8",
    env: { ...process.env, MALLOC_ARENA_MAX: "1" },
  })
    .split(" ")
    .map(Number);
  expect(given).toBeGreaterThan(20_000);
});
