// "No template has this" against the classifier of the data path: a clause that lint calls dead matches no real request.
import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { misfitOf, rawMisfitOf, templatesOf } from "../../../control-plane/policy/lint-operations.ts";
import { loadBuiltInPacks } from "../../../control-plane/policy/packs.ts";
import { ACCESS_CLASSES, type Call } from "../../../sidecar/core/policy/call.ts";
import { createCaller } from "../../../sidecar/core/policy/caller.ts";
import { type Pack, type PackRow, parsePack, type Segment } from "../../../sidecar/core/policy/catalog.ts";
import { createClassifier } from "../../../sidecar/core/policy/operations.ts";
import type { OperationClause } from "../../../sidecar/core/policy/rule.ts";
import { Dice, randomProgram } from "../../conformance/random-world.ts";
import { secondRule } from "../../conformance/second-reference.ts";

const texts = [...loadBuiltInPacks()];
const packs: Pack[] = texts.flatMap(([name, text]) => {
  const parsed = parsePack(name, text);
  return parsed.ok ? [parsed.value] : [];
});
const caller = createCaller({
  spiffeId: "spiffe://home/ns/ml/sa/a/job/x",
  trustDomain: "home",
  local: true,
  namespace: "ml",
  serviceAccount: "a",
  kind: "job",
  name: "x",
  labels: new Map(),
  owner: undefined,
  env: undefined,
});

function pathOf(dice: Dice, segments: readonly Segment[]): string {
  const word = (): string => dice.of(["a", "fraud", "v2", "alice"]);
  const parts = segments.map((one) => {
    if (one.kind === "literal") return one.text;
    if (one.kind === "tail") return dice.of([word(), `${word()}/${word()}`]);
    return one.prefix + word() + one.suffix;
  });
  return `/${parts.join("/")}`;
}

const bent = (dice: Dice, path: string): string =>
  dice.chance(0.15) ? path.toUpperCase() : dice.chance(0.1) ? `${path}/` : path;

function requestOf(dice: Dice, own: readonly Pack[]): Call | undefined {
  const pack = dice.of(own);
  const row: PackRow = dice.of(pack.rows);
  const classifier = createClassifier({ packs: own, selfName: "t" });
  const segments =
    pack.prefix !== undefined && dice.chance(0.5) ? [...pack.prefix, ...row.segments] : row.segments;
  const mcp = row.method === "MCP";
  const method = { WS: "GET", GRPC: "POST", MCP: "POST" }[row.method] ?? row.method;
  const classified = classifier.classify({
    method: dice.chance(0.1) ? dice.of(["GET", "POST", "HEAD", "DELETE"]) : method,
    target: bent(dice, mcp ? "/mcp" : pathOf(dice, segments)) + dice.of(["", "?name=a", "?job_id=1"]),
    contentType: row.method === "GRPC" ? "application/grpc" : "application/json",
    websocket: row.method === "WS" && dice.chance(0.9),
    hasBody: method !== "GET",
    header: () => undefined,
  });
  if (!classified.ok) return undefined;
  const body = mcp
    ? { jsonrpc: "2.0", id: 1, method: dice.of([row.template, "custom/x"]), params: { name: "t", uri: "u" } }
    : { name: "a", model: "m", run_id: "r" };
  const finished = classifier.withBody(classified.value, Buffer.from(JSON.stringify(body)), {
    contentType: "application/json",
    contentEncoding: undefined,
    truncated: false,
    header: () => undefined,
  });
  if (!finished.ok || finished.value.operation.kind === "undetermined") return undefined;
  const { operation, resource, request, folded } = finished.value;
  if (folded.some((view) => view.operation.kind === "undetermined")) return undefined;
  return {
    caller,
    user: undefined,
    via: [],
    port: 80,
    request: { ...request, host: "t" },
    operation,
    resource,
    folded,
    sourceIp: undefined,
    scope: undefined,
    nowMs: 0,
  };
}

function clauseOf(dice: Dice, own: readonly Pack[]): OperationClause {
  // Mostly about one row, with one field of another, so that it just fits or just does not.
  const row = dice.of(dice.of(own).rows);
  const other = dice.of(dice.of(packs).rows);
  const one = (): PackRow => (dice.chance(0.75) ? row : other);
  const op = one().operation.split(".");
  const path = (): string => {
    const whole = bent(dice, pathOf(dice, one().segments));
    return dice.chance(0.4) ? `${whole.slice(0, whole.lastIndexOf("/", whole.length - 2) + 1)}**` : whole;
  };
  const [service, method] = one().segments.map((segment) =>
    segment.kind === "literal" ? segment.text : "a",
  );
  return {
    op: dice.maybe(0.85, () => op.slice(0, 1 + dice.below(op.length)).join(".")),
    access: dice.maybe(0.3, () => [dice.chance(0.7) ? one().access : dice.of(ACCESS_CLASSES)]),
    resources: dice.maybe(0.2, () => ["*"]),
    http: dice.maybe(0.5, () => ({
      methods: dice.maybe(0.5, () => [dice.of(["GET", "POST", "PUT", "DELETE", "HEAD"])]),
      paths: dice.maybe(0.7, () => [path()]),
    })),
    grpc: dice.maybe(0.2, () => ({
      service: dice.maybe(0.7, () => service ?? "a"),
      methods: dice.maybe(0.7, () => [method ?? "a"]),
    })),
    mcp: dice.maybe(0.2, () => ({ methods: dice.maybe(0.7, () => [one().template]) })),
  };
}

const words = { none: "no pack", all: "any pack" };

test("no request ever matches a clause that no template fits", () => {
  const found = { dead: 0, alive: 0, matched: 0 };
  fc.assert(
    fc.property(fc.integer(), (seed) => {
      const dice = new Dice(seed);
      const own = [...new Set([dice.of(packs), dice.of(packs)])];
      const templates = [
        ...templatesOf(texts.filter(([name]) => own.some((pack) => pack.name === name))).values(),
      ];
      const clauses = Array.from({ length: 12 }, () => clauseOf(dice, own));
      const program = randomProgram(dice);
      for (let i = 0; i < 6; i++) {
        const call = requestOf(dice, own);
        if (call === undefined) continue;
        for (const clause of clauses) {
          const dead = misfitOf(clause, templates.flat(), words) ?? rawMisfitOf(clause);
          found[dead === undefined ? "alive" : "dead"]++;
          for (const side of ["allow", "deny"] as const) {
            const subject = { call, roles: [], program, cel: () => "error" as const };
            const { match } = secondRule({ name: "r", operations: [clause] }, side, subject);
            if (match !== "false") found.matched++;
            if (dead !== undefined && match !== "false")
              throw new Error(
                JSON.stringify({ dead, clause, call: { ...call, caller: undefined }, side, match }),
              );
          }
        }
      }
    }),
    { numRuns: 250 },
  );
  expect(found.dead).toBeGreaterThan(1000);
  expect(found.alive).toBeGreaterThan(1000);
  expect(found.matched).toBeGreaterThan(200);
});
