// How long this process waited for another one's turn on the cluster to end: no suite's own time.
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
