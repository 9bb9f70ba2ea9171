// The README's quick start on Kubernetes, its very lines in their order, on a cluster where nothing was installed.
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { describeOnCluster } from "../gate.ts";
import { tryHelm } from "../kube.ts";
import { adminKubeconfig, programPath } from "../layout.ts";
import { begin, imageFlags, uninstall } from "../release.ts";

const root = join(import.meta.dirname, "../../..");

/** The commands of the block, without comments and empty lines. */
function quickStart(): readonly string[] {
  const readme = readFileSync(join(root, "README.md"), "utf8");
  const block = /<!-- quick-start:.*?-->\n```sh\n([\s\S]*?)```/.exec(readme)?.[1] ?? "";
  return block
    .split("\n")
    .map((line) => line.replace(/\s+# .*$/, "").trim())
    .filter((line) => line !== "");
}

/** What a line prints that its comment promises. */
const PROMISES: Readonly<Record<string, RegExp>> = {
  "call http://fraud-scorer.ml-serving:8080/ping": /"status":(403|200)/,
  "/invocations": /NO_MATCHING_ALLOW/,
  "kubectl get acp": /fraud-scorer-callers/,
  "helm test": /Succeeded/,
};

describeOnCluster("the README's quick start", { testMs: 300_000, suiteMs: 400_000 }, () => {
  beforeAll(async () => {
    await begin();
    await tryHelm(["uninstall", "countersign-crds", "--ignore-not-found"]);
  }, 2_000_000);
  afterAll(uninstall, 240_000);

  test("works line by line", () => {
    const lines = quickStart();
    expect(lines.length).toBeGreaterThan(12);
    // `helm` and `kubectl` by these names, and the images of the tests; the rest is as a user types it.
    const shell = [
      "set -u",
      `helm() { '${programPath("helm")}' "$@"; }`,
      `kubectl() { '${programPath("kubectl")}' "$@"; }`,
      `IMAGES='${imageFlags().join(" ").replaceAll("--set=", "--set ")}'`,
    ];
    const pings: string[] = [];
    for (const line of lines) {
      const adopts = line.startsWith("helm install countersign-crds") ? `${line} --take-ownership` : line;
      const { status, stdout, stderr } = spawnSync("bash", ["-c", [...shell, adopts].join("\n")], {
        cwd: root,
        env: {
          ...process.env,
          KUBECONFIG: adminKubeconfig(),
          PATH: `${dirname(process.execPath)}:${process.env["PATH"]}`,
        },
        encoding: "utf8",
        timeout: 150_000,
      });
      expect({ line, status, stderr: status === 0 ? "" : stderr }).toEqual({ line, status: 0, stderr: "" });
      for (const [part, promise] of Object.entries(PROMISES))
        if (line.includes(part)) expect(stdout).toMatch(promise);
      if (line.endsWith("/ping")) pings.push(/"status":(\d+)/.exec(stdout)?.[1] ?? "");
    }
    expect(pings).toEqual(["403", "200"]);
  });
});
