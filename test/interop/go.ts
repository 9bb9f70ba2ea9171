// Go programs of the suites: sources of ours and tools of others, built once into the user's cache.
import { readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { canTest } from "../left-out.ts";
import { installed, runInstaller } from "./installed.ts";

const NEEDS = { go: "go.dev", flock: "Debian's util-linux" };

/** Path of the program built from one file that needs nothing but Go's own library; undefined if it is left out. */
export async function goProgram(what: string, source: string): Promise<string | undefined> {
  if (!canTest(what, NEEDS)) return undefined;
  const name = basename(source, ".go");
  const folder = await installed(`go-${name}`, readFileSync(source, "utf8"), (target) =>
    runInstaller("go", ["build", "-trimpath", "-o", join(target, name), source]),
  );
  return folder === undefined ? undefined : join(folder, name);
}

/** Folder of the programs that `go install` makes of these packages of one module; undefined if they are left out. */
export async function goTools(
  name: string,
  what: string,
  packages: readonly string[],
): Promise<string | undefined> {
  if (!canTest(what, NEEDS)) return undefined;
  return installed(`go-${name}`, packages.join("\n"), (target) =>
    runInstaller("go", ["install", "-trimpath", "-ldflags=-s -w", ...packages], { GOBIN: target }),
  );
}
