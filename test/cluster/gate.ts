// Decides whether end-to-end tests run: only where a cluster is up. Otherwise says once what was left out and how to run it.
import { appendFileSync } from "node:fs";
import { beforeAll, beforeEach, describe, jest } from "@jest/globals";
import { isUp } from "./processes.ts";
import { forgetWaiting, PATIENCE, waitedMs } from "./waiting.ts";

const LEFT_OUT =
  "end-to-end tests on Kubernetes: no cluster is up; `npm run test:cluster` brings one up and runs them";

export interface Budget {
  /** What each test may take at most, on a quiet machine. */
  readonly testMs: number;
  /** What the suite may take: once it is spent, the tests that are left fail at once, so CI ends in a known time. */
  readonly suiteMs: number;
}

/** A `describe` that runs on the cluster. Without one its tests are skipped, and test/run.mjs prints one line for all. */
export function describeOnCluster(name: string, budget: Budget, tests: () => void): void {
  if (!isUp()) {
    const file = process.env["COUNTERSIGN_LEFT_OUT"];
    if (file !== undefined) appendFileSync(file, `${LEFT_OUT}\n`);
    describe.skip(name, tests);
    return;
  }
  describe(name, () => {
    jest.setTimeout(PATIENCE * budget.testMs);
    let startMs = 0;
    beforeAll(() => {
      forgetWaiting();
      startMs = performance.now();
    });
    beforeEach(() => {
      if (performance.now() - startMs - waitedMs() > budget.suiteMs)
        throw new Error(`the suite's budget of ${budget.suiteMs} ms is spent`);
    });
    tests();
  });
}
