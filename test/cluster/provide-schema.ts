// One of our kinds for a test that needs it, whatever else is installed: made when it is missing, and only then taken away.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { kubectl, tryKubectl } from "./kube.ts";

/** @param plural such as `workloads`. Returns how to take it away again. */
export async function provideSchema(plural: string): Promise<() => Promise<void>> {
  const name = `${plural}.countersign.dev`;
  const crd = readFileSync(join(import.meta.dirname, "../../crds", `${plural}.yaml`), "utf8");
  const isThere = async () => (await tryKubectl(["get", "crd", name])).code === 0;
  if (await isThere()) return async () => {};
  await kubectl(["create", "--filename=-"], { stdin: crd });
  await kubectl(["wait", "crd", name, "--for=condition=Established", "--timeout=90s"]);
  return async () => {
    await tryKubectl(["delete", "crd", name, "--ignore-not-found", "--wait=false"]);
  };
}
