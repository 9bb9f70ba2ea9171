// The engine against the reference evaluator on random worlds.
import { disagreement } from "../../../../conformance/agreement.ts";

const CALLS = 8;

/** A case is one decision on one random call. */
export async function run(options: { seconds: number; seed: number }): Promise<{ cases: number }> {
  const end = performance.now() + options.seconds * 1000;
  let cases = 0;
  for (let seed = options.seed; performance.now() < end; seed++) {
    const problem = disagreement(seed, CALLS);
    if (problem !== undefined) throw new Error(problem);
    cases += CALLS;
    if (seed % 64 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  return { cases };
}
