// CEL conditions (DOMAIN 3.2) with `@marcbachmann/cel-js`: declared types, no `matches`, bounded size and cost.
import { type ASTNode, Environment } from "@marcbachmann/cel-js";
import { messageOf, type Result } from "../runtime/errors.ts";
import type { CelCompiler, CelCondition } from "./condition.ts";

/** Characters of a condition. */
export const CEL_MAX_LENGTH = 1024;
const MAX_AST_NODES = 500;
const MAX_DEPTH = 24;
/** Steps (≈ 25 ns each) that one evaluation may take when every list it sees has `LIST_BOUND` entries. */
const MAX_COST = 10_000;
const LIST_BOUND = 64;
const MACROS = new Set(["all", "exists", "exists_one", "filter", "map"]);

const isNode = (value: unknown): value is ASTNode =>
  typeof value === "object" && value !== null && "op" in value;

/** Cost of a node, and the first thing that is not allowed in it. */
function walk(value: unknown, inMacro: boolean): { cost: number; problem: string | undefined } {
  let cost = 0;
  let problem: string | undefined;
  const add = (child: unknown, macro: boolean, times: number): void => {
    const inner = walk(child, macro);
    cost += inner.cost * times;
    problem ??= inner.problem;
  };
  if (Array.isArray(value)) {
    for (const child of value) add(child, inMacro, 1);
  } else if (isNode(value)) {
    cost = 1;
    if (value.op === "rcall" || value.op === "call") {
      const name = value.args[0];
      if (name === "matches") problem = "`matches` is not available; use startsWith, endsWith or contains";
      if (value.op === "rcall" && MACROS.has(name)) {
        if (inMacro) problem ??= `\`${name}\` inside another comprehension is not available`;
        add(value.args[1], inMacro, 1);
        add(value.args[2], true, LIST_BOUND);
        return { cost, problem };
      }
    }
    add(value.args, inMacro, 1);
  }
  return { cost, problem };
}

function createEnvironment(): Environment {
  return new Environment({ limits: { maxAstNodes: MAX_AST_NODES, maxDepth: MAX_DEPTH } })
    .registerVariable("caller", {
      schema: {
        spiffeId: "string",
        kind: "string",
        name: "string",
        namespace: "string",
        serviceAccount: "string",
        labels: "map<string, string>",
        owner: "string",
        env: "string",
      },
    })
    .registerVariable("user", {
      schema: {
        id: "string",
        roles: "list<string>",
        idp: "string",
        type: "string",
        authTime: "google.protobuf.Timestamp",
        amr: "list<string>",
      },
    })
    .registerVariable("target", {
      schema: { kind: "string", name: "string", namespace: "string", labels: "map<string, string>" },
    })
    .registerVariable("op", "string")
    .registerVariable("resource", "string")
    .registerVariable("request", { schema: { method: "string", path: "string", host: "string" } })
    .registerVariable("source", { schema: { ip: "string" } })
    .registerVariable("chain", "list<string>")
    .registerVariable("now", "google.protobuf.Timestamp");
}

/** A compiler with a cache of its own: the same source text is compiled once. */
export function createCelCompiler(): CelCompiler {
  return compilerIn(createEnvironment());
}

/** The same for conditions on the `claims` of an identity provider's token, the only variable there. */
export function createClaimCompiler(): CelCompiler {
  return compilerIn(
    new Environment({ limits: { maxAstNodes: MAX_AST_NODES, maxDepth: MAX_DEPTH } }).registerVariable(
      "claims",
      "map<string, dyn>",
    ),
  );
}

function compilerIn(environment: Environment): CelCompiler {
  const cache = new Map<string, Result<CelCondition, string>>();
  return {
    compile(source) {
      const known = cache.get(source);
      if (known !== undefined) return known;
      const result = compileWith(environment, source);
      if (cache.size >= 4096) cache.clear();
      cache.set(source, result);
      return result;
    },
  };
}

function compileWith(environment: Environment, source: string): Result<CelCondition, string> {
  if (source.length > CEL_MAX_LENGTH) {
    return {
      ok: false,
      error: `condition has ${source.length} characters, at most ${CEL_MAX_LENGTH} are allowed`,
    };
  }
  try {
    const condition = environment.parse(source);
    const { cost, problem } = walk(condition.ast, false);
    if (problem !== undefined) return { ok: false, error: problem };
    if (cost > MAX_COST) return { ok: false, error: "condition is too expensive; make it shorter" };
    const checked = condition.check();
    if (!checked.valid) return { ok: false, error: firstLine(messageOf(checked.error)) };
    if (checked.type !== "bool")
      return { ok: false, error: `condition is a ${checked.type}, it must be a bool` };
    return { ok: true, value: (variables) => condition(variables) };
  } catch (error) {
    return { ok: false, error: firstLine(messageOf(error)) };
  }
}

/**
 * Whether a condition that compiles reads labels of the caller. Only `caller` and `target` have the field, and what is
 * not written as `target.labels` counts as the caller's, whatever it is called inside a comprehension.
 */
export function selectsCallerLabels(source: string): boolean {
  return readsCallerLabels(createEnvironment().parse(source).ast);
}

function readsCallerLabels(value: unknown): boolean {
  if (Array.isArray(value)) return value.some(readsCallerLabels);
  if (!isNode(value)) return false;
  if ((value.op === "." || value.op === "[]") && Array.isArray(value.args)) {
    const [base, field] = value.args as readonly unknown[];
    const name = isNode(field) ? field.args : field;
    if (name === "labels") return !(isNode(base) && base.op === "id" && base.args === "target");
  }
  return readsCallerLabels(value.args);
}

const firstLine = (text: string): string => text.split("\n", 1)[0] ?? text;
