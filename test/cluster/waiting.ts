// How long this process waited for another one's turn on the cluster to end: no suite's own time. And how patient suites are.

/** Limits of waits and tests say what a quiet machine may take; on a busy one each takes longer, and nothing is wrong. */
export const PATIENCE = 3;

let waited = 0;

/** Milliseconds since the last `forgetWaiting`. */
export const waitedMs = (): number => waited;

export function forgetWaiting(): void {
  waited = 0;
}

/** Takes waiting for another process out of the suite's budget. */
export async function outsideBudget(wait: () => Promise<void>): Promise<void> {
  const startMs = performance.now();
  await wait();
  waited += performance.now() - startMs;
}
