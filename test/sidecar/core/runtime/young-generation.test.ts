// In a process of its own: the size belongs to the whole process.
import { execFileSync } from "node:child_process";
import { expect, test } from "@jest/globals";

const MODULE = new URL("../../../../sidecar/core/runtime/young-generation.ts", import.meta.url).href;

function newSpaceBytes(options: string[]): number {
  const program = `
    import { getHeapSpaceStatistics } from "node:v8";
    import { boundYoungGeneration } from ${JSON.stringify(MODULE)};
    boundYoungGeneration(new AbortController().signal, ${JSON.stringify(options)});
    let kept = [];
    for (let i = 0; i < 300_000; i++) { kept.push({ i, text: "x" + i }); if (kept.length > 20_000) kept = []; }
    console.log(getHeapSpaceStatistics().find((space) => space.space_name === "new_space").space_size);`;
  const args = ["--disable-warning=ExperimentalWarning", "--input-type=module", "--eval", program];
  return Number(execFileSync(process.execPath, args, { encoding: "utf8" }));
}

test("load does not let the young generation grow", () => {
  expect(newSpaceBytes([])).toBeLessThanOrEqual(4.5 * 1024 * 1024);
});

test("a size given by the user is left alone", () => {
  expect(newSpaceBytes(["--max-semi-space-size=16"])).toBeGreaterThan(8 * 1024 * 1024);
});
