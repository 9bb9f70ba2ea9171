// What is generated in charts/ is up to date, and what stands twice is the same.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "@jest/globals";
import { parse } from "yaml";
import { SCHEMAS, staleFiles } from "./generated-files.ts";
import { chartFolder } from "./helm.ts";
import { leafPaths, valueRows, withValuesTable } from "./values-table.ts";

const root = join(import.meta.dirname, "../..");
const text = (path: string) => readFileSync(join(root, path), "utf8");
const valuesOf = (chart: string) => text(`charts/${chart}/values.yaml`);
const schemaOf = (chart: string) => JSON.parse(text(`charts/${chart}/values.schema.json`)) as SchemaNode;
const schema = schemaOf("countersign");

interface SchemaNode {
  readonly type?: string;
  readonly properties?: Readonly<Record<string, SchemaNode>>;
  readonly additionalProperties?: boolean | SchemaNode;
}

test("the copies of the schemas and the table of values are current: `node test/charts/main.ts`", () => {
  expect(staleFiles()).toEqual([]);
});

test.each(["countersign", "countersign-crds", "countersign-gateway"])(
  "%s has the version of the package",
  (chart) => {
    const { version, appVersion, kubeVersion } = parse(
      readFileSync(join(chartFolder(chart), "Chart.yaml"), "utf8"),
    ) as Record<string, string>;
    const { version: ours } = JSON.parse(text("package.json")) as { version: string };
    expect({ version, appVersion, kubeVersion }).toEqual({
      version: ours,
      appVersion: ours,
      kubeVersion: ">=1.30.0-0",
    });
  },
);

describe.each(["countersign", "countersign-gateway"])("values.yaml of %s", (chart) => {
  const schema = schemaOf(chart);
  const values: unknown = parse(valuesOf(chart));
  const rows = valueRows(valuesOf(chart)).map(({ path }) => path);

  test("has a comment on every value, or on the map it stands in", () => {
    expect(leafPaths(values).length).toBeGreaterThan(30);
    const bare = leafPaths(values).filter(
      (leaf) => !rows.some((row) => leaf === row || leaf.startsWith(`${row}.`)),
    );
    expect(bare).toEqual([]);
  });

  test("has every value that the schema knows, and no other", () => {
    const known = (node: SchemaNode, prefix: string): readonly string[] =>
      Object.entries(node.properties ?? {}).flatMap(([key, child]) => {
        const path = prefix === "" ? key : `${prefix}.${key}`;
        return rows.includes(path) || child.properties === undefined ? [path] : known(child, path);
      });
    // Helm hands `global` of a parent chart down.
    expect(
      known(schema, "")
        .filter((path) => path !== "global")
        .sort(),
    ).toEqual([...rows].sort());
  });

  test("the schema takes no unknown name anywhere", () => {
    const open = (node: SchemaNode, path: string): readonly string[] => [
      ...(node.properties !== undefined && node.additionalProperties !== false ? [path] : []),
      ...Object.entries(node.properties ?? {}).flatMap(([key, child]) => open(child, `${path}.${key}`)),
    ];
    expect(open(schema, "")).toEqual([]);
  });
});

test("`meshConfig` takes every field of MeshConfig but the trust domain", () => {
  const crd = parse(text("crds/meshconfigs.yaml")) as {
    spec: { versions: [{ schema: { openAPIV3Schema: { properties: { spec: SchemaNode } } } }] };
  };
  const fields = Object.keys(crd.spec.versions[0].schema.openAPIV3Schema.properties.spec.properties ?? {});
  expect(Object.keys(schema.properties?.["meshConfig"]?.properties ?? {}).sort()).toEqual(
    fields.filter((field) => field !== "trustDomain").sort(),
  );
});

test("the table escapes what would break it", () => {
  const begin = "<!-- values: written by `node test/charts/main.ts` from values.yaml -->";
  const readme = `${begin}\nold\n<!-- end of values -->\nrest`;
  const table = withValuesTable(readme, "# a | b\n# c\nkey:\n  # deep\n  inner: x|y\n\n# alone\n\nbare: 1\n");
  expect(table).toContain("| `key` | a \\| b c |");
  expect(table).toContain('| `key.inner` | deep | `"x\\|y"` |');
  expect(table).not.toContain("bare");
  expect(table).not.toContain("old");
  expect(table.endsWith("rest")).toBe(true);
  expect(() => withValuesTable("nothing", "")).toThrow("no lines");
});

test("the admission policies freeze every label that pods are recognised by", () => {
  const classify = text("control-plane/sources/kubernetes/classify.ts");
  const policies = `${text("charts/countersign/templates/_cel.tpl")}${text("charts/countersign/templates/admission-policies.yaml")}`;
  const recognise = /^function recognise[\s\S]*?^}/m.exec(classify)?.[0] ?? "";
  const labels = [...recognise.matchAll(/"([a-z0-9.-]+\/[a-z-]+|component|[a-z]+(?:[-_][a-z]+)+)"/g)]
    .map(([, label]) => label ?? "")
    .filter((label) => !["singleuser-server", "kserve-v1", "oip-v2"].includes(label));
  expect(labels).toEqual(
    expect.arrayContaining(["component", "notebook-name", "ray.io/serve", "dag_id", "job-name"]),
  );
  expect(labels.length).toBeGreaterThanOrEqual(12);
  expect(labels.filter((label) => !policies.includes(`'${label}'`))).toEqual([]);
});

test("every kind of ours is in the roles and, unless it is a record, checked by the webhook", () => {
  const plurals = (folder: string) =>
    readdirSync(join(root, folder))
      .filter((name) => name.endsWith(".yaml"))
      .map((name) => name.slice(0, -".yaml".length));
  const missing = (file: string, folder: string) => {
    const template = text(`charts/countersign/templates/${file}`);
    return plurals(folder).filter((plural) => !new RegExp(`\\b${plural}\\b`).test(template));
  };
  expect(SCHEMAS.flatMap((folder) => missing("rbac.yaml", folder))).toEqual([]);
  expect(missing("webhooks.yaml", "crds")).toEqual([]);
  expect(missing("rbac-people.yaml", "crds")).toEqual([]);
});
