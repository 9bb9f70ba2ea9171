// The schemas on a real API server: accepted as they are, and of the table of good and bad objects it refuses what our
// own reading of the same schemas refuses, and nothing else.
import { readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { OBJECT_CASES } from "../../fixtures/objects/table.ts";
import { describeOnCluster } from "../gate.ts";
import { apply, createNamespace, kubectl, type TestNamespace, tryKubectl } from "../kube.ts";

const crds = fileURLToPath(new URL("../../../crds/", import.meta.url));
const examples = fileURLToPath(new URL("../../../crds/examples/", import.meta.url));

/** Here kubectl puts a namespace in, or takes it out, before it sends. */
const CORRECTED = new Set(["no namespace", "namespace on a cluster kind"]);

/** All but what kubectl cannot send as it stands: no kind, no name, another API group. */
const sendable = OBJECT_CASES.filter(({ name, object }) => {
  if (CORRECTED.has(name)) return false;
  if (typeof object !== "object" || object === null) return false;
  const { apiVersion, kind, metadata } = object as Record<string, unknown>;
  return (
    apiVersion === "countersign.dev/v1alpha1" &&
    typeof kind === "string" &&
    typeof metadata === "object" &&
    metadata !== null &&
    "name" in metadata
  );
});

describeOnCluster("the CRDs on a real API server", { testMs: 120_000, suiteMs: 300_000 }, () => {
  let namespace: TestNamespace;

  beforeAll(async () => {
    for (const file of readdirSync(crds).filter((name) => name.endsWith(".yaml")))
      await kubectl(["apply", "--server-side", "--validate=strict", "--filename", `${crds}${file}`]);
    await kubectl(["wait", "crd", "--all", "--for=condition=Established", "--timeout=90s"]);
    // The one name that a MeshConfig may have: what another suite left would be in the way.
    await kubectl(["delete", "meshconfig", "default", "--ignore-not-found"]);
    namespace = await createNamespace("crds");
    // The namespace that the objects of the table are in.
    await apply([{ apiVersion: "v1", kind: "Namespace", metadata: { name: "lab" } }]);
  });
  afterAll(() => namespace?.delete());

  test("none is served with a schema that is not structural", async () => {
    const conditions = await kubectl([
      "get",
      "crd",
      "--output",
      'jsonpath={range .items[*]}{.metadata.name} {.status.conditions[?(@.type=="NonStructuralSchema")].status}{"\\n"}{end}',
    ]);
    expect(conditions.split("\n").filter((line) => line.endsWith(" True"))).toEqual([]);
    expect(conditions).toContain("accesspolicies.countersign.dev");
  });

  test("it refuses what the schema refuses, and nothing else", async () => {
    const differ: string[] = [];
    const check = async ({ name, object, refusedBy }: (typeof sendable)[number]): Promise<void> => {
      const { metadata } = object as { readonly metadata: { readonly namespace?: string } };
      const result = await tryKubectl(
        [
          "create",
          "--dry-run=server",
          "--validate=strict",
          ...(metadata.namespace === undefined ? [] : ["--namespace", metadata.namespace]),
          "--filename",
          "-",
        ],
        { stdin: JSON.stringify(object) },
      );
      const wanted = refusedBy === "schema" || refusedBy === "both" ? "refused" : "accepted";
      const found = result.code === 0 ? "accepted" : "refused";
      if (found !== wanted)
        differ.push(`${name}: ${found}, wanted ${wanted}: ${result.stderr.slice(0, 300)}`);
    };
    const waiting = [...sendable];
    const worker = async (): Promise<void> => {
      for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) await check(next);
    };
    await Promise.all(Array.from({ length: 4 }, worker));
    expect(differ).toEqual([]);
    expect(sendable.length).toBeGreaterThan(100);
  });

  test("it takes the examples, and shows a policy in a line", async () => {
    await kubectl(["create", "namespace", "ml-serving"]).catch(() => undefined);
    await kubectl([
      "create",
      "--dry-run=server",
      "--validate=strict",
      "--filename",
      `${examples}fraud-scorer.yaml`,
    ]);
    await namespace.apply([
      {
        apiVersion: "countersign.dev/v1alpha1",
        kind: "AccessPolicy",
        metadata: { name: "readers" },
        spec: { action: "Deny", rules: [{ name: "r" }] },
      },
    ]);
    const line = await kubectl(["get", "acp", "--namespace", namespace.name]);
    expect(line).toMatch(/NAME\s+ACTION\s+MODE/);
    expect(line).toMatch(/readers\s+Deny\s+Enforce/);
  });
});
