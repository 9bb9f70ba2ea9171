import { readFileSync } from "node:fs";
import { describe, expect, test } from "@jest/globals";
import { parse, parseAllDocuments } from "yaml";
import { type AccessPolicy, parseAccessPolicy } from "../../control-plane/policy/access-policy.ts";
import { loadBuiltInPacks } from "../../control-plane/policy/packs.ts";
import { parseVectors, runVectors } from "../../control-plane/policy/vectors.ts";
import { loadSchemas } from "../../control-plane/sources/schema.ts";

const schemas = loadSchemas();
const packs = loadBuiltInPacks();
const read = (name: string): string => readFileSync(new URL(name, import.meta.url), "utf8");

function policiesOf(file: string): AccessPolicy[] {
  return parseAllDocuments(read(file)).map((document) => {
    const valid = schemas.validate(document.toJS());
    if (!valid.ok) throw new Error(JSON.stringify(valid.error));
    const policy = parseAccessPolicy(valid.value);
    if (!policy.ok) throw new Error(JSON.stringify(policy.error));
    return policy.value;
  });
}

describe.each([
  { table: "vectors.yaml", policies: "policies.yaml", rows: 47 },
  { table: "extra-vectors.yaml", policies: "extra-policies.yaml", rows: 103 },
])("$table", ({ table, policies, rows }) => {
  const parsed = parseVectors(parse(read(table)));
  if (!parsed.ok) throw new Error(parsed.error.join("\n"));
  const results = runVectors(parsed.value, { policies: policiesOf(policies), packs });

  test("has all its rows", () => {
    expect(results.length).toBe(rows);
  });

  test.each(results)("$id: $expected", ({ expected, got }) => {
    expect(got).toBe(expected);
  });
});

describe("parseVectors", () => {
  const world = { now: "2026-09-15T10:00:00Z", workloads: { "job/a": { ns: "x" } } };
  const row = { id: "A", from: "job/a", to: "job/a", req: "GET /", want: "Deny" };
  test.each([
    {
      name: "an unknown field",
      document: { world, vectors: [{ ...row, wnat: "x" }] },
      problem: "vector `A`: unknown field `wnat`",
    },
    {
      name: "a row without target",
      document: { world, vectors: [{ ...row, to: undefined }] },
      problem: "vector `A`: give one of `to` and `external`",
    },
    {
      name: "the same id twice",
      document: { world, vectors: [row, row] },
      problem: "vector `A` is there twice",
    },
    { name: "no vectors", document: { world }, problem: "`vectors` must be a list with at least one row" },
    {
      name: "an unknown field of a workload",
      document: { world: { ...world, workloads: { "job/a": { namespace: "x" } } }, vectors: [row] },
      problem: "world.workloads.job/a: unknown field `namespace`",
    },
    {
      name: "a wrong kind",
      document: { world: { ...world, workloads: { "robot/a": {} } }, vectors: [row] },
      problem: "world.workloads.robot/a.kind must be one of",
    },
  ])("names $name", ({ document, problem }) => {
    const parsed = parseVectors(document);
    expect(parsed.ok ? "" : parsed.error.join("\n")).toContain(problem);
  });

  test("fails a row that names what the world lacks, and says so", () => {
    const parsed = parseVectors({ world, vectors: [{ ...row, to: "job/b" }] });
    if (!parsed.ok) throw new Error(parsed.error.join("\n"));
    expect(runVectors(parsed.value, { policies: [], packs })).toMatchObject([
      { ok: false, got: "the world has no workload `job/b`" },
    ]);
  });
});
