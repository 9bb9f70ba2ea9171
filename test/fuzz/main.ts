// Runs every `*.fuzz.ts` below this folder for its share of the time: `npm run fuzz -- --seconds 60 --only http1 --seed 7`.
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";

interface Target {
  readonly run: (options: { seconds: number; seed: number }) => Promise<{ cases: number }>;
}

const USAGE = "usage: npm run fuzz -- [--seconds N] [--seed N] [--only SUBSTRING]";

interface Options {
  readonly seconds: number;
  readonly seed: number;
  readonly only: string;
}

function parseOptions(args: string[]): Options {
  const { values } = parseArgs({
    args,
    options: {
      seconds: { type: "string", default: "600" },
      seed: { type: "string", default: String(Date.now() % 1_000_000_000) },
      only: { type: "string", default: "" },
    },
  });
  const seconds = Number(values.seconds);
  const seed = Number(values.seed);
  if (!(seconds > 0) || !Number.isSafeInteger(seed)) throw new Error("--seconds and --seed need numbers");
  return { seconds, seed, only: values.only };
}

function targets(only: string): string[] {
  const files = readdirSync(import.meta.dirname, { recursive: true, encoding: "utf8" });
  return files.filter((file) => file.endsWith(".fuzz.ts") && file.includes(only)).sort();
}

/** Runs one target and prints its line; false after a finding. */
async function runTarget(name: string, options: { seconds: number; seed: number }): Promise<boolean> {
  const start = performance.now();
  const elapsed = (): string => ((performance.now() - start) / 1000).toFixed(1);
  try {
    const target = (await import(join(import.meta.dirname, name))) as Target; // each target exports `run`
    const { cases } = await target.run(options);
    console.log(`${name} ${cases} ${elapsed()}`);
    return true;
  } catch (error) {
    console.error(`${name} failed after ${elapsed()} s with seed ${options.seed}:`);
    console.error(error);
    console.error(
      `replay: npm run fuzz -- --only ${name} --seed ${options.seed} --seconds ${options.seconds}`,
    );
    return false;
  }
}

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
  let findings = 0;
  for (const name of names) {
    const fine = await runTarget(name, { seconds: options.seconds / names.length, seed: options.seed });
    if (!fine) findings++;
  }
  return findings === 0 ? 0 : 1;
}

process.exitCode = await main();
