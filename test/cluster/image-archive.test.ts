// Layers are the same bytes for the same content, whoever packs them and when.
import { chmodSync, mkdirSync, mkdtempSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { run } from "./commands.ts";
import { packLayer } from "./image-archive.ts";

const before = process.env["COUNTERSIGN_CLUSTER_HOME"];
let folder = "";

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "countersign-layers-"));
  process.env["COUNTERSIGN_CLUSTER_HOME"] = folder;
});
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
  if (before === undefined) delete process.env["COUNTERSIGN_CLUSTER_HOME"];
  else process.env["COUNTERSIGN_CLUSTER_HOME"] = before;
});

function tree(name: string, files: readonly (readonly [string, string])[], time: number): string {
  const root = join(folder, name);
  mkdirSync(join(root, "bin"), { recursive: true });
  for (const [path, text] of files) {
    writeFileSync(join(root, path), text);
    utimesSync(join(root, path), time, time);
  }
  chmodSync(join(root, "bin/run"), 0o755);
  return root;
}
const FILES = [
  ["bin/run", "#!/bin/sh\n"],
  ["a", "1"],
] as const;

test("equal content has an equal digest, in whatever order and whenever it was written", async () => {
  const one = await packLayer("one", tree("first", FILES, 1_000_000));
  const two = await packLayer("two", tree("second", FILES.toReversed(), 2_000_000));
  expect(one.diffId).toMatch(/^sha256:[0-9a-f]{64}$/);
  expect(two.diffId).toBe(one.diffId);
  const other = await packLayer("other", tree("third", [...FILES, ["b", "2"]], 1_000_000));
  expect(other.diffId).not.toBe(one.diffId);
});

test("files belong to root, can be read by the image's user, and keep their right to be executed", async () => {
  const root = tree("fourth", FILES, 1_000_000);
  chmodSync(join(root, "a"), 0o600);
  const { tar } = await packLayer("modes", root);
  const listed = await run("tar", ["--list", "--verbose", "--numeric-owner", "--file", tar]);
  expect(listed).toMatch(/^-rwxr-xr-x 0\/0 .* \.\/bin\/run$/m);
  expect(listed).toMatch(/^-rw-r--r-- 0\/0 .* \.\/a$/m);
});
