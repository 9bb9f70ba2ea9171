// Runs every `*.fuzz.ts` below this folder for its share of the time: `npm run fuzz -- --seconds 60 --only http1 --seed 7`; or
// round after round until there were so many inputs: `npm run fuzz -- --inputs 10000000 --only wire`.
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";

interface Target {
  readonly run: (options: { seconds: number; seed: number }) => Promise<{ cases: number }>;
}

const USAGE = "usage: npm run fuzz -- [--seconds N | --inputs N] [--seed N] [--only SUBSTRING]";

interface Options {
  readonly seconds: number;
  /** 0: as long as `seconds` say. */
  readonly inputs: number;
  readonly seed: number;
  readonly only: string;
}

function parseOptions(args: string[]): Options {
  const { values } = parseArgs({
    args,
    options: {
      seconds: { type: "string", default: "600" },
      inputs: { type: "string", default: "0" },
      seed: { type: "string", default: String(Date.now() % 1_000_000_000) },
      only: { type: "string", default: "" },
    },
  });
  const seconds = Number(values.seconds);
  const seed = Number(values.seed);
  const inputs = Number(values.inputs);
  if (!(seconds > 0 && inputs >= 0) || !Number.isSafeInteger(seed))
    throw new Error("--seconds, --inputs and --seed need numbers");
  return { seconds, inputs, seed, only: values.only };
}

function targets(only: string): string[] {
  const files = readdirSync(import.meta.dirname, { recursive: true, encoding: "utf8" });
  return files.filter((file) => file.endsWith(".fuzz.ts") && file.includes(only)).sort();
}

/** Runs one target and prints its line. @returns how many inputs it had; undefined after a finding. */
async function runTarget(
  name: string,
  options: { seconds: number; seed: number },
): Promise<number | undefined> {
  const start = performance.now();
  const elapsed = (): string => ((performance.now() - start) / 1000).toFixed(1);
  try {
    const target = (await import(join(import.meta.dirname, name))) as Target; // each target exports `run`
    const { cases } = await target.run(options);
    console.log(`${name} ${cases} ${elapsed()}`);
    return cases;
  } catch (error) {
    console.error(`${name} failed after ${elapsed()} s with seed ${options.seed}:`);
    console.error(error);
    console.error(
      `replay: npm run fuzz -- --only ${name} --seed ${options.seed} --seconds ${options.seconds}`,
    );
    return undefined;
  }
}

/** Rounds over all targets until there were so many inputs, each round with other seeds. */
async function runInputs(names: readonly string[], { inputs, seed }: Options): Promise<number> {
  let total = 0;
  let findings = 0;
  for (let round = 0; total < inputs && findings === 0; round++) {
    for (const name of names) {
      const cases = await runTarget(name, { seconds: ROUND_SECONDS, seed: seed + round });
      if (cases === undefined) findings++;
      else total += cases;
    }
    const { rss, heapUsed } = process.memoryUsage();
    console.log(
      `round ${round}: ${total} inputs, resident ${mebibytes(rss)} MiB, heap ${mebibytes(heapUsed)} MiB`,
    );
  }
  return findings;
}

const ROUND_SECONDS = 10;
const mebibytes = (bytes: number): number => Math.round(bytes / 1_048_576);

async function main(): Promise<number> {
  let options: Options;
  try {
    options = parseOptions(process.argv.slice(2));
  } catch (error) {
    console.error(`${error instanceof Error ? error.message : String(error)}\n${USAGE}`);
    return 2;
  }
  const names = targets(options.only);
  if (names.length === 0) {
    console.error(`no fuzz target contains \`${options.only}\``);
    return 2;
  }
  console.log(
    `seed ${options.seed}, ${options.seconds} s for ${names.length} targets (target, cases, seconds):`,
  );
  if (options.inputs > 0) return (await runInputs(names, options)) === 0 ? 0 : 1;
  let findings = 0;
  for (const name of names) {
    const fine = await runTarget(name, { seconds: options.seconds / names.length, seed: options.seed });
    if (fine === undefined) findings++;
  }
  return findings === 0 ? 0 : 1;
}

process.exitCode = await main();
