// Packages from npm for an application of a suite, pinned by a lock file beside it; nothing of them is the product's.
import { copyFileSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { canTest } from "../left-out.ts";
import { installed, runInstaller } from "./installed.ts";

const MANIFESTS = ["package.json", "package-lock.json"];

/**
 * @param source folder with `package.json` and `package-lock.json`.
 * @returns the folder `node_modules`, for `NODE_PATH`; undefined where npm or the packages cannot be had, which is said at the end.
 */
export async function nodePackages(what: string, name: string, source: string): Promise<string | undefined> {
  if (!canTest(what, { npm: "Node.js", flock: "Debian's util-linux" })) return undefined;
  const manifest = MANIFESTS.map((file) => readFileSync(join(source, file), "utf8")).join("\n");
  const folder = await installed(`node-${name}`, manifest, async (target) => {
    for (const file of MANIFESTS) copyFileSync(join(source, file), join(target, file));
    await runInstaller("npm", ["ci", "--prefix", target, "--ignore-scripts", "--no-audit", "--no-fund"]);
  });
  return folder === undefined ? undefined : join(folder, "node_modules");
}
