import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { runVerb } from "../../../control-plane/cli/verbs.ts";

const POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: app}]}\n";
let folder: string;
let good: string;
let bad: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "countersign-inject-"));
  good = join(folder, "good.yaml");
  bad = join(folder, "bad.yaml");
  writeFileSync(good, POD);
  writeFileSync(bad, POD.replace("{containers", "{hostNetwork: true, containers"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function run(...args: string[]): Promise<{ status: number; text: string; errors: string }> {
  let text = "";
  let errors = "";
  const status = await runVerb(["inject", ...args], {
    out: (more) => {
      text += more;
    },
    err: (more) => {
      errors += more;
    },
  });
  return { status, text, errors };
}

describe("countersign inject", () => {
  test("prints the files with their sidecars", async () => {
    const { status, text, errors } = await run(
      ...[
        "-f",
        good,
        "--image",
        "example/sidecar:9",
        "--trust-domain",
        "corp.example",
        "--set",
        "cpu=7m",
        "log-level=warn",
      ],
    );
    expect({ status, errors }).toEqual({ status: 0, errors: "" });
    expect(text).toContain("image: example/sidecar:9");
    expect(text).toContain("audience: countersign.dev/corp.example");
    expect(text).toContain("cpu: 7m");
  });

  test("prints nothing when one of them cannot be meshed", async () => {
    const { status, text, errors } = await run("-f", good, bad);
    expect({ status, text }).toEqual({ status: 1, text: "" });
    expect(errors).toMatch(/^error: .*bad\.yaml: line 1: Pod p: the pod cannot be meshed: `hostNetwork`/);
  });

  test("tells programs the same", async () => {
    const { text } = await run("-f", good, "--json");
    expect(JSON.parse(text)).toMatchObject({ injected: 1, problems: [], warnings: [] });
  });

  test.each([
    [["-f", "no-such-file.yaml"], 3, "cannot read `no-such-file.yaml`"],
    [["-f", "x", "--set", "cpu"], 2, "--set: `cpu` is not `name=value`"],
    [["-f", "x", "--set", "cpus=1"], 2, "`--set` has `cpus`; did you mean `cpu`?"],
    [["-f", "x", "--image", "a b"], 2, "`--image`: `a b` is not an image"],
  ])("%j ends with %d", async (args, status, message) => {
    const result = await run(...args);
    expect(result.status).toBe(status);
    expect(result.errors).toContain(message);
  });
});
