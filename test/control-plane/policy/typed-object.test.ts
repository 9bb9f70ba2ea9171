// One table of good and bad objects against the schema and against the parsers (CODE_STYLE 39).
import { describe, expect, test } from "@jest/globals";
import { createObjectParser } from "../../../control-plane/policy/typed-object.ts";
import { KINDS, loadSchemas, type ValidObject } from "../../../control-plane/sources/schema.ts";
import { OBJECT_CASES } from "../../fixtures/objects/table.ts";

const schemas = loadSchemas();
const parse = createObjectParser();

/** What the parser would see if there were no schema; undefined where only the schema looks (kind, metadata). */
function unchecked(object: unknown): ValidObject | undefined {
  const { kind, metadata, spec, status } = JSON.parse(JSON.stringify(object), (_key, value: unknown) =>
    value !== null && typeof value === "object" && !Array.isArray(value)
      ? Object.fromEntries(Object.entries(value).filter(([, field]) => field !== null))
      : value,
  ) as {
    kind: string;
    metadata?: { name?: string; namespace?: string; labels?: Record<string, string> };
    spec: unknown;
    status: unknown;
  };
  const known = KINDS.find((candidate) => candidate === kind);
  if (known === undefined) return undefined;
  return {
    kind: known,
    name: metadata?.name ?? "x",
    namespace: metadata?.namespace,
    labels: new Map(),
    generation: 1,
    spec,
    status,
  };
}

describe("object table", () => {
  test("has at least 60 rows, with rows of every kind and layer", () => {
    expect(OBJECT_CASES.length).toBeGreaterThanOrEqual(60);
    expect(new Set(OBJECT_CASES.map((row) => row.refusedBy)).size).toBe(4);
    expect(new Set(OBJECT_CASES.map((row) => row.name)).size).toBe(OBJECT_CASES.length);
  });

  test.each(OBJECT_CASES)("$name", ({ object, refusedBy, path, says }) => {
    const before = JSON.stringify(object);
    const valid = schemas.validate(object);
    expect(JSON.stringify(object)).toBe(before);
    const input = valid.ok ? valid.value : unchecked(object);
    const parsed = input && parse(input);
    const layers = `${valid.ok ? "" : "schema"}${parsed && !parsed.ok ? "parser" : ""}`;
    expect({
      layers,
      problems: [valid, parsed].map((result) => (result?.ok === false ? result.error : [])),
    }).toMatchObject({
      layers: { none: "", schema: "schema", parser: "parser", both: "schemaparser" }[refusedBy],
    });
    const first = valid.ok ? parsed : valid;
    if (refusedBy === "none" || first === undefined || first.ok) return;
    expect(first.error.map((problem) => problem.path)).toContain(path);
    expect(first.error.map((problem) => `${problem.message}; ${problem.hint ?? ""}`).join("\n")).toContain(
      says,
    );
    for (const { message } of first.error) expect(message).toMatch(/^[^A-Z\n].*[^.]$/);
  });
});

describe("typed forms", () => {
  const typed = (object: unknown, acceptedAtMs?: number): unknown => {
    const valid = schemas.validate(object);
    if (!valid.ok) throw new Error(JSON.stringify(valid.error));
    const parsed = parse(valid.value, acceptedAtMs);
    if (!parsed.ok) throw new Error(JSON.stringify(parsed.error));
    return parsed.value.value;
  };
  const named = (name: string): unknown => OBJECT_CASES.find((row) => row.name === name)?.object;

  test("a user match is Required when it names a user, and Any otherwise", () => {
    const base = named("smallest Allow") as { spec: object };
    const presence = (user: object): unknown => {
      const policy = typed({
        ...base,
        spec: { action: "Allow", rules: [{ name: "r", operations: [{ any: true }], from: [{ user }] }] },
      });
      return (policy as { rules: { from: { user: { presence: string } }[] }[] }).rules[0]?.from[0]?.user
        .presence;
    };
    expect(presence({ roles: ["r"] })).toBe("Required");
    expect(presence({ presence: "Any" })).toBe("Any");
    expect(presence({ presence: "Any", roles: ["r"] })).toBe("Any");
    expect(presence({ presence: "Forbidden" })).toBe("Forbidden");
  });

  test("times and durations become milliseconds", () => {
    expect(typed(named("when with all fields"))).toMatchObject({
      rules: [
        {
          when: {
            notBeforeMs: Date.UTC(2026, 0, 1),
            notAfterMs: Date.UTC(2026, 11, 31, 22),
            authn: { maxAgeMs: 5_400_000 },
            sourceCidrs: ["10.0.0.0/8", "fd00::/8"],
          },
        },
      ],
    });
  });

  test("a burst defaults to the number of requests, and keys are split", () => {
    const base = named("smallest Allow") as object;
    const policy = typed({
      ...base,
      spec: {
        action: "Allow",
        rules: [
          {
            name: "r",
            from: [{ any: true }],
            operations: [{ any: true }],
            with: { rateLimit: { key: "user+resource", requests: 7, per: "1s" } },
          },
        ],
      },
    });
    expect(policy).toMatchObject({
      rules: [{ with: { rateLimit: { key: ["user", "resource"], requests: 7, perMs: 1000, burst: 7 } } }],
    });
  });

  test("a grant allows only once it is active: by status, or at once when it needs no approval", () => {
    const base = named("smallest grant") as { spec: object };
    expect(typed(base, 1000)).toMatchObject({ phase: "Pending", activeFromMs: undefined });
    expect(typed({ ...base, status: { phase: "Active" } }, 1000)).toMatchObject({ phase: "Pending" });
    expect(typed({ ...base, spec: { ...base.spec, approval: { required: 0 } } }, 1000)).toMatchObject({
      phase: "Active",
      activeFromMs: 1000,
      activeUntilMs: 7_201_000,
    });
    const status = {
      phase: "Active",
      activeFrom: "2026-01-01T00:00:00Z",
      activeUntil: "2030-01-01T00:00:00Z",
    };
    const start = Date.UTC(2026, 0, 1);
    expect(typed({ ...base, status })).toMatchObject({
      phase: "Active",
      activeFromMs: start,
      activeUntilMs: start + 7_200_000,
    });
    expect(typed({ ...base, status: { ...status, phase: "Revoked" } })).toMatchObject({
      phase: "Revoked",
      activeFromMs: undefined,
    });
  });
});
