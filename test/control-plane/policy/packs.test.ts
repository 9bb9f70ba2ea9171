import { describe, expect, test } from "@jest/globals";
import { loadBuiltInPacks, packsOfCustomCatalog } from "../../../control-plane/policy/packs.ts";
import { parsePack } from "../../../sidecar/core/policy/catalog.ts";

describe("built-in packs", () => {
  const packs = loadBuiltInPacks();

  test("are these, and all parse", () => {
    expect([...packs.keys()]).toEqual([
      "databricks",
      "jupyter",
      "kserve-v1",
      "mcp",
      "mlflow",
      "mlflow-scoring",
      "oip-v2",
      "openai",
      "ray",
      "spark-connect",
    ]);
    for (const [name, text] of packs) expect(parsePack(name, text)).toMatchObject({ ok: true });
  });
});

describe("packsOfCustomCatalog", () => {
  const text = "feature.read GET /features/{name} feature<path:name read -";
  test("parses packs of an object", () => {
    expect(packsOfCustomCatalog({ packs: [{ name: "features", text }] }, loadBuiltInPacks())).toMatchObject({
      ok: true,
      value: [{ name: "features" }],
    });
  });

  test.each([
    [[{ name: "openai", text }], "built in"],
    [
      [
        { name: "f", text },
        { name: "f", text },
      ],
      "defined twice",
    ],
    [[{ name: "f", text: "x" }], "line 1"],
  ])("%j is refused", (packs, message) => {
    const parsed = packsOfCustomCatalog({ packs }, loadBuiltInPacks());
    expect(parsed.ok ? "" : parsed.error).toContain(message);
  });
});
