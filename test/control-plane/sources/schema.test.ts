// The CRDs themselves, and how they are read. Objects against schemas: test/control-plane/policy/typed-object.test.ts.
import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, test } from "@jest/globals";
import { parse as parseYaml } from "yaml";
import { compileCelRule, createCelEnvironment } from "../../../control-plane/sources/cel-rules.ts";
import { isDateTime, loadSchemas } from "../../../control-plane/sources/schema.ts";

const folder = new URL("../../../crds/", import.meta.url);
interface Node {
  readonly type?: string;
  readonly description?: string;
  readonly pattern?: string;
  readonly enum?: readonly unknown[];
  readonly properties?: Record<string, Node>;
  readonly items?: Node;
  readonly additionalProperties?: Node;
  readonly "x-kubernetes-validations"?: readonly { readonly rule: string; readonly message: string }[];
}
type Crd = {
  metadata: { name: string };
  spec: {
    group: string;
    names: Record<string, unknown>;
    versions: { name: string; subresources: object; schema: { openAPIV3Schema: Node } }[];
  };
};
const crds = readdirSync(folder)
  .filter((name) => name.endsWith(".yaml"))
  .map((name) => ({ name, crd: parseYaml(readFileSync(new URL(name, folder), "utf8")) as Crd }));
const rootOf = (kind: string): Node =>
  crds.find(({ crd }) => crd.spec.names["kind"] === kind)!.crd.spec.versions[0]!.schema.openAPIV3Schema;

function* walk(node: Node, path: string): Generator<[string, Node]> {
  yield [path, node];
  for (const [name, child] of Object.entries(node.properties ?? {})) yield* walk(child, `${path}.${name}`);
  if (node.items) yield* walk(node.items, `${path}[]`);
  if (node.additionalProperties) yield* walk(node.additionalProperties, `${path}{}`);
}

describe("crds", () => {
  test("define the thirteen kinds of this build, with status and category", () => {
    expect(crds.map(({ crd }) => crd.spec.names["kind"]).sort()).toEqual([
      "AccessGrant",
      "AccessPolicy",
      "ClusterAccessPolicy",
      "ExternalService",
      "IdentityProvider",
      "MeshConfig",
      "MeshGateway",
      "MeshRole",
      "MeshRoleBinding",
      "OperationCatalog",
      "RoutePolicy",
      "TrafficPolicy",
      "Workload",
    ]);
    for (const { name, crd } of crds) {
      expect(crd.metadata.name).toBe(`${name.replace(".yaml", "")}.countersign.dev`);
      expect(crd.spec.group).toBe("countersign.dev");
      expect(crd.spec.names["categories"]).toEqual(["countersign"]);
      expect(crd.spec.versions).toMatchObject([
        { name: "v1alpha1", served: true, storage: true, subresources: { status: {} } },
      ]);
    }
    expect(
      crds.find(({ crd }) => crd.spec.names["kind"] === "AccessPolicy")?.crd.spec.names["shortNames"],
    ).toEqual(["acp"]);
  });

  test.each(crds)(
    "$name bounds every list, map and string of its spec and has patterns for RE2 and JavaScript",
    ({ crd }) => {
      const root = crd.spec.versions[0]!.schema.openAPIV3Schema;
      for (const [path, node] of walk(root.properties!["spec"]!, "spec")) {
        const fields = node as Record<string, unknown>;
        if (node.type === "array") expect([path, fields["maxItems"]]).toEqual([path, expect.any(Number)]);
        if (node.additionalProperties)
          expect([path, fields["maxProperties"]]).toEqual([path, expect.any(Number)]);
        if (node.type === "string" && node.enum === undefined)
          expect([path, fields["maxLength"]]).toEqual([path, expect.any(Number)]);
        if (node.pattern !== undefined) {
          expect(() => new RegExp(node.pattern!, "u")).not.toThrow();
          // No look-around, back reference or class escape, which RE2 lacks or reads differently.
          expect(node.pattern).not.toMatch(/\(\?|\\[1-9wsdbB]/);
          expect([path, node.description]).toEqual([path, expect.any(String)]);
        }
      }
    },
  );

  test.each(crds)("$name has CEL rules that name only fields there are", ({ crd }) => {
    for (const [path, node] of walk(crd.spec.versions[0]!.schema.openAPIV3Schema, "")) {
      for (const { rule, message } of node["x-kubernetes-validations"] ?? []) {
        expect(() => compileCelRule(createCelEnvironment(), rule, message)).not.toThrow();
        for (const [, chain] of rule.matchAll(/\b(?:self|oldSelf|r)((?:\.\w+)+)(?!\w|\()/g)) {
          let at: Node | undefined =
            rule.includes(`r${chain}`) && !rule.includes(`elf${chain}`)
              ? node.properties?.["rules"]?.items
              : node;
          for (const name of chain!.slice(1).split(".")) {
            if (name === "metadata" || at?.properties?.[name]?.type === undefined) {
              expect([path, rule, name]).toEqual([
                path,
                rule,
                expect.stringMatching(/^(metadata|all|size|filter)$/),
              ]);
              break;
            }
            at = at.properties[name];
          }
        }
      }
    }
  });

  test("AccessPolicy and ClusterAccessPolicy differ in namespaces and namespaceSelector only", () => {
    const spec = (kind: string): Node => structuredClone(rootOf(kind).properties!["spec"]!);
    const namespaced = spec("AccessPolicy");
    const cluster = spec("ClusterAccessPolicy");
    const target = cluster.properties!["targets"]!.items!;
    expect(Object.keys(target.properties!)).toEqual([
      "kinds",
      "names",
      "selector",
      "namespaces",
      "namespaceSelector",
      "ports",
      "external",
    ]);
    delete target.properties!["namespaces"];
    delete target.properties!["namespaceSelector"];
    const alone = target["x-kubernetes-validations"]![0] as { rule: string };
    alone.rule = alone.rule.replace(" && !has(self.namespaces) && !has(self.namespaceSelector)", "");
    expect(cluster).toEqual(namespaced);
    expect(rootOf("ClusterAccessPolicy").properties!["status"]).toEqual(
      rootOf("AccessPolicy").properties!["status"],
    );
  });
});

describe("validate", () => {
  const schemas = loadSchemas();
  const grant = (duration: string, phase?: string): unknown => ({
    apiVersion: "countersign.dev/v1alpha1",
    kind: "AccessGrant",
    metadata: { name: "g", namespace: "lab" },
    spec: { subject: { user: "u" }, operations: [{ any: true }], duration, reason: "r" },
    ...(phase ? { status: { phase } } : {}),
  });

  test("runs rules on transitions on updates only", () => {
    const pending = schemas.validate(grant("1h"));
    const approved = schemas.validate(grant("1h", "Approved"));
    if (!pending.ok || !approved.ok) throw new Error("both are valid");
    expect(schemas.validate(grant("2h")).ok).toBe(true);
    expect(schemas.validate(grant("2h"), pending.value).ok).toBe(true);
    expect(schemas.validate(grant("1h", "Active"), approved.value).ok).toBe(true);
    expect(schemas.validate(grant("2h", "Approved"), approved.value)).toMatchObject({
      ok: false,
      error: [{ message: expect.stringContaining("make a new grant") }],
    });
  });

  test("reports at most 20 problems, and takes hostile keys for unknown fields", () => {
    const fields = Object.fromEntries(Array.from({ length: 50 }, (_, i) => [`f${i}`, 1]));
    const many = schemas.validate({ ...(grant("1h") as object), spec: fields });
    expect(many.ok ? 0 : many.error.length).toBe(20);
    const hostile = schemas.validate(
      JSON.parse(
        '{"apiVersion":"countersign.dev/v1alpha1","kind":"MeshConfig","metadata":{"name":"default"},"spec":{"__proto__":{"x":1},"constructor":1}}',
      ),
    );
    expect(hostile.ok ? [] : hostile.error.map((problem) => problem.path)).toEqual([
      "spec.__proto__",
      "spec.constructor",
    ]);
    expect(({} as { x?: number }).x).toBeUndefined();
    let deep: unknown = 1;
    for (let i = 0; i < 100_000; i++) deep = [deep];
    expect(schemas.validate({ ...(grant("1h") as object), spec: deep })).toMatchObject({
      ok: false,
      error: [{ message: expect.stringContaining("nested too deeply") }],
    });
  });

  test("matches in CRD rules runs on RE2 in linear time", () => {
    const rule = compileCelRule(createCelEnvironment(), "self.matches('^(a+)+$')", "m");
    expect(rule.holds("aaa")).toBe(true);
    expect(rule.holds(`${"a".repeat(5000)}b`)).toBe(false);
    expect(() => compileCelRule(createCelEnvironment(), "self.matches(self)", "m")).toThrow("literal");
    expect(() => compileCelRule(createCelEnvironment(), "self +", "m")).toThrow("does not compile");
  });

  test.each([
    ["2026-01-01T00:00:00Z", true],
    ["2026-01-01t00:00:00.123z", true],
    ["2026-01-01T00:00:00+14:00", true],
    ["2024-02-29T00:00:00Z", true],
    ["2026-02-29T00:00:00Z", false],
    ["2026-13-01T00:00:00Z", false],
    ["2026-01-01T24:00:00Z", false],
    ["2026-01-01T00:00:60Z", false],
    ["2026-01-01", false],
    ["2026-01-01T00:00:00", false],
    ["2026-01-01 00:00:00Z", false],
  ])("date-time %s: %s", (text, valid) => {
    expect(isDateTime(text)).toBe(valid);
  });
});
