// What is accepted and yet worth knowing: packs that nobody defines, rules that have expired, a missing MeshConfig; PURE.
import type { Admitter } from "../policy/admit.ts";
import { expiredRules } from "../policy/conditions.ts";
import type { TypedObject } from "../policy/typed-object.ts";
import type { FieldProblem } from "./field-problem.ts";
import type { OperationCatalog } from "./store.ts";

export const NO_CONFIG: FieldProblem = {
  path: "",
  message: "there is no MeshConfig, so the defaults hold and the trust domain is `mesh.local`",
  hint: "add one named `default`",
};

export function noticesOf(
  typed: TypedObject,
  catalogs: readonly OperationCatalog[],
  admitter: Admitter,
  nowMs: number,
): readonly FieldProblem[] {
  if (typed.kind === "Workload") return admitter.unknownPacks(typed.value, catalogs);
  if (typed.kind === "AccessPolicy" || typed.kind === "ClusterAccessPolicy")
    return expiredRules(typed.value, nowMs);
  return [];
}
