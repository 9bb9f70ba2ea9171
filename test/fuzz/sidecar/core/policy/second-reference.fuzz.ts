// The engine, the wire form and the explanations against the second reference on dense random worlds.
import { secondDisagreement } from "../../../../conformance/second-agreement.ts";
import { wrongExplanation } from "../../../../conformance/second-explanation.ts";

const CALLS = 8;

/** A case is one decision on one random call; every eighth world is explained too. */
export async function run(options: { seconds: number; seed: number }): Promise<{ cases: number }> {
  const end = performance.now() + options.seconds * 1000;
  let cases = 0;
  for (let seed = options.seed; performance.now() < end; seed++) {
    const problem =
      secondDisagreement(seed, CALLS) ?? (seed % 8 === 0 ? wrongExplanation(seed, 2) : undefined);
    if (problem !== undefined) throw new Error(problem);
    cases += CALLS;
    if (seed % 64 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  return { cases };
}
