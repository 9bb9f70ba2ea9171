// ExternalServices from YAML to the tables of those who may call them: policies, packs and hosts follow every edit.
import { afterAll, beforeAll, expect, test } from "@jest/globals";
import { MESH_YAML, TestMesh } from "../../fakes/mesh.ts";
import { plainAuthority } from "../../fakes/plain-authority.ts";

const service = (packs: string, port = 443, more = ""): string => `
apiVersion: countersign.dev/v1alpha1
kind: ExternalService
metadata: {name: databricks, namespace: lab}
spec: {hosts: [adb-1.azuredatabricks.net], port: ${port}, packs: [${packs}]${more}}
`;
const policy = (operation: string): string => `
apiVersion: countersign.dev/v1alpha1
kind: AccessPolicy
metadata: {name: out, namespace: lab}
spec:
  action: Allow
  targets: [{external: databricks}]
  rules: [{name: only, from: [{workload: {kinds: [notebook]}}], operations: [{op: ${operation}}]}]
`;

let mesh: TestMesh;
beforeAll(async () => {
  mesh = new TestMesh();
  mesh.write("mesh.yaml", MESH_YAML);
  await mesh.start();
});
afterAll(() => mesh.close());

test("workloads of the namespace alone get them, and every edit", async () => {
  const notebook = await mesh.sidecar("lab/notebook");
  const scorer = await mesh.sidecar("serving/scorer");
  await notebook.until(({ tables }) => tables.length > 0);
  await scorer.until(({ tables }) => tables.length > 0);
  expect(notebook.table.externals).toBeUndefined();

  const external = () => notebook.table.externals?.get("lab/databricks");
  mesh.write("service.yaml", service("databricks"));
  await notebook.until(() => external() !== undefined);
  expect(external()).toMatchObject({
    hosts: ["adb-1.azuredatabricks.net"],
    program: {
      kind: "external",
      defaultAction: "Deny",
      ports: [{ port: 443, packs: ["databricks"] }],
      policies: [],
    },
  });
  expect(notebook.table.packs.has("databricks")).toBe(true);

  mesh.write("policy.yaml", policy("sql"));
  await notebook.until(() => external()?.program.policies.length === 1);
  mesh.write("policy.yaml", policy("jobs"));
  await notebook.until(() => external()?.program.policies[0]?.rules[0]?.operations?.[0]?.op === "jobs");

  mesh.write("service.yaml", service("databricks, mlflow", 8443));
  await notebook.until(() => external()?.program.ports[0]?.port === 8443);
  expect(notebook.table.packs.has("mlflow")).toBe(true);

  expect(external()?.plaintext).toBeUndefined();
  for (const [spoken, meant] of [
    ["grpc", "h2c"],
    ["http", "http"],
  ]) {
    mesh.write("service.yaml", service("mlflow", 8443, `, plaintext: ${spoken}`));
    await notebook.until(() => external()?.plaintext === meant);
  }

  mesh.remove("policy.yaml");
  mesh.remove("service.yaml");
  await notebook.until(() => external() === undefined);
  expect(scorer.tables.every(({ externals }) => externals === undefined)).toBe(true);
});

test("everybody gets the authorities for them that MeshConfig names, while they are good", async () => {
  const scorer = await mesh.sidecar("serving/scorer");
  await scorer.until(({ tables }) => tables.length > 0);
  const pem = async (name: string): Promise<string> =>
    (await plainAuthority(name, undefined, Date.now())).certificate.toString();
  const [one, two] = [await pem("one"), await pem("two")];
  const named = (text: string): string =>
    MESH_YAML.replace(
      "{trustDomain: test.example}",
      JSON.stringify({ trustDomain: "test.example", externalRoots: text }),
    );
  const roots = () => scorer.table.settings.externalRoots?.length ?? 0;
  mesh.write("mesh.yaml", named(one));
  await scorer.until(() => roots() === 1);
  const before = scorer.tables.length;
  // Refused whole; what held before holds on, and what comes after counts.
  mesh.write("mesh.yaml", named(`${two}-----BEGIN PRIVATE KEY-----`));
  mesh.write("mesh.yaml", named(`${one}\n${two}`));
  await scorer.until(() => roots() === 2);
  expect(scorer.tables.slice(before).every(({ settings }) => settings.externalRoots?.length === 2)).toBe(
    true,
  );
  mesh.write("mesh.yaml", MESH_YAML);
  await scorer.until(() => roots() === 0);
});
