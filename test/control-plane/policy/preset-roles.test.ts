// The roles that are shipped: for each permission level of the platform, no more than it.
import { readFileSync } from "node:fs";
import { describe, expect, test } from "@jest/globals";
import { createAdmitter } from "../../../control-plane/policy/admit.ts";
import { loadBuiltInPacks } from "../../../control-plane/policy/packs.ts";
import { parsePack } from "../../../sidecar/core/policy/catalog.ts";
import { objectsOfYaml } from "../../fakes/yaml-state.ts";

const text = readFileSync(new URL("../../../crds/examples/preset-roles.yaml", import.meta.url), "utf8");
const objects = objectsOfYaml(text);
const packs = loadBuiltInPacks();
const roles = new Map(
  objects.flatMap(({ typed }) =>
    typed.kind === "MeshRole"
      ? [[typed.value.name, typed.value.rules.flatMap((rule) => rule.operations.map(({ op }) => op ?? ""))]]
      : [],
  ),
);
const rows = [...packs].flatMap(([name, pack]) => {
  const parsed = parsePack(name, pack);
  return parsed.ok ? parsed.value.rows : [];
});
const covers = (op: string, operation: string) => operation === op || operation.startsWith(`${op}.`);
const accessOf = (role: string) =>
  new Set(
    rows
      .filter(({ operation }) => roles.get(role)?.some((op) => covers(op, operation)))
      .map(({ access }) => access),
  );

describe("preset roles", () => {
  test("name operations that packs define", () => {
    const admit = createAdmitter(packs).against([]);
    expect(objects.flatMap(({ typed, valid }) => admit(typed, valid))).toEqual([]);
    expect([...roles.keys()]).toHaveLength(20);
  });

  test.each([
    ["serving-viewer", "serving-querier", "serving-manager"],
    ["job-viewer", "job-runner", "job-manager"],
    ["notebook-reader", "notebook-runner", "notebook-editor"],
    ["cluster-user", "cluster-operator"],
    ["sql-user", "sql-manager"],
    ["experiment-reader", "experiment-writer"],
    ["model-reader", "model-promoter"],
  ])("%s is part of %s", (...names) => {
    for (const [i, name] of names.entries()) {
      const stronger = roles.get(names[i + 1] ?? name) ?? [];
      expect(stronger).toEqual(expect.arrayContaining([...(roles.get(name) ?? ["none"])]));
    }
  });

  test.each(["serving-viewer", "job-viewer", "notebook-reader", "experiment-reader", "model-reader"])(
    "%s only reads",
    (name) => expect([...accessOf(name)]).toEqual(["read"]),
  );

  test("only those who manage or promote get what is of class admin", () => {
    const admins = [...roles.keys()].filter((name) => accessOf(name).has("admin"));
    expect(admins.sort()).toEqual(["job-manager", "model-promoter", "serving-manager"]);
  });
});
