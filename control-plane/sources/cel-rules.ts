// Compiles and runs the `x-kubernetes-validations` of our CRDs. Only rules that we ship come here, never a policy's CEL.
import { RE2JS } from "@bufbuild/re2";
import { type ASTNode, Environment } from "@marcbachmann/cel-js";
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";

export interface CelRule {
  readonly message: string;
  /** true: compares with `oldSelf`, so it runs on updates only. */
  readonly transition: boolean;
  /** Evaluates on values of `toCelValue`; an evaluation error counts as not fulfilled (fail closed). */
  holds(self: unknown, oldSelf?: unknown): boolean;
}

const patterns = new WeakMap<Environment, Map<string, RE2JS>>();

/** An environment for CRD rules, in which `matches` runs on RE2 in linear time. */
export function createCelEnvironment(): Environment {
  const compiled = new Map<string, RE2JS>();
  const env = new Environment({ limits: { maxAstNodes: 500, maxDepth: 24 } })
    .registerVariable("self", "dyn")
    .registerVariable("oldSelf", "dyn")
    .registerFunction(
      "string.re2(string): bool",
      (text: string, pattern: string) => compiled.get(pattern)?.test(text) === true,
    );
  patterns.set(env, compiled);
  return env;
}

function* nodesOf(value: unknown): Generator<ASTNode> {
  if (Array.isArray(value)) {
    for (const item of value) yield* nodesOf(item);
  } else if (typeof value === "object" && value !== null && "op" in value && "args" in value) {
    // Holds because only the parser of cel-js makes objects with `op` and `args`.
    yield value as ASTNode;
    yield* nodesOf(value.args);
  }
}

/** @throws MeshError `bad_object` when the rule does not compile: a mistake in a CRD of ours. */
export function compileCelRule(env: Environment, rule: string, message: string): CelRule {
  try {
    const program = env.parse(rule);
    let transition = false;
    for (const node of nodesOf(program.ast)) {
      if (node.op === "id" && node.args === "oldSelf") transition = true;
      if (node.op === "rcall" && node.args[0] === "matches") {
        const pattern = node.args[2][0];
        if (pattern?.op !== "value" || typeof pattern.args !== "string")
          throw new Error("the pattern of `matches` must be a literal");
        patterns.get(env)?.set(pattern.args, RE2JS.compile(pattern.args));
        node.args[0] = "re2";
      }
    }
    const checked = program.check();
    if (!checked.valid) throw checked.error ?? new Error("it is not valid");
    return {
      message,
      transition,
      holds(self, oldSelf) {
        try {
          return program({ self, oldSelf: oldSelf ?? null }) === true;
        } catch {
          return false;
        }
      },
    };
  } catch (error) {
    throw new MeshError("bad_object", `CRD rule \`${rule}\` does not compile: ${messageOf(error)}`, {
      cause: error,
    });
  }
}
