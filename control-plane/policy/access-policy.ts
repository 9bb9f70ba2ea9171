// AccessPolicy and ClusterAccessPolicy: from a validated YAML object to the typed form that the compiler takes.
import type { WorkloadKind } from "../../sidecar/core/policy/call.ts";
import type { Enforcement, NamePattern, PolicyAction, PolicyRule } from "../../sidecar/core/policy/rule.ts";
import type { Result } from "../../sidecar/core/runtime/errors.ts";
import type { FieldProblem } from "../sources/field-problem.ts";
import type { ValidObject } from "../sources/schema.ts";
import { FieldReader } from "./field-reader.ts";
import { readObligations, readWhen } from "./obligation-fields.ts";
import { readFrom, readOperation, readTarget } from "./rule-fields.ts";

export interface LabelSelector {
  readonly matchLabels?: ReadonlyMap<string, string> | undefined;
  readonly matchExpressions?:
    | readonly {
        readonly key: string;
        readonly operator: "In" | "NotIn" | "Exists" | "DoesNotExist";
        readonly values: readonly string[];
      }[]
    | undefined;
}

/** One entry of `targets`; fields are AND. */
export interface TargetMatch {
  readonly kinds?: readonly WorkloadKind[] | undefined;
  readonly names?: readonly NamePattern[] | undefined;
  readonly selector?: LabelSelector | undefined;
  /** ClusterAccessPolicy only. */
  readonly namespaces?: readonly NamePattern[] | undefined;
  /** ClusterAccessPolicy only. */
  readonly namespaceSelector?: LabelSelector | undefined;
  readonly ports?: readonly number[] | undefined;
  /** Name of an ExternalService in the policy's namespace; stands alone. */
  readonly external?: string | undefined;
}

export interface AccessPolicy {
  readonly kind: "AccessPolicy" | "ClusterAccessPolicy";
  readonly name: string;
  /** undefined for a ClusterAccessPolicy. */
  readonly namespace: string | undefined;
  readonly generation: number;
  readonly action: PolicyAction;
  readonly enforcement: Enforcement;
  /** undefined: every workload in scope (no ExternalService). */
  readonly targets: readonly TargetMatch[] | undefined;
  readonly rules: readonly PolicyRule[];
}

function readRule(fields: FieldReader, action: PolicyAction): PolicyRule {
  fields.require("name");
  const rule: PolicyRule = {
    name: fields.text("name") ?? "",
    from: fields.objects("from", readFrom),
    unless: fields.objects("unless", readFrom),
    operations: fields.objects("operations", readOperation),
    when: fields.object("when", readWhen),
    with: fields.object("with", readObligations),
  };
  if (action === "Allow" && rule.from === undefined)
    fields.report("an Allow rule states `from`; any authenticated caller is `from: [{any: true}]`");
  if (action === "Allow" && rule.operations === undefined)
    fields.report("an Allow rule states `operations`; every operation is `operations: [{any: true}]`");
  if (action !== "Deny" && rule.unless !== undefined)
    fields.report("`unless` belongs to Deny rules only", "unless");
  if (action === "Deny" && rule.with !== undefined)
    fields.report("`with` does not belong to Deny rules: a denied call has no obligations", "with");
  if (action === "Audit" && rule.with !== undefined) {
    const { audit: _audit, ...others } = rule.with;
    if (Object.values(others).some((value) => value !== undefined)) {
      fields.report("an Audit rule takes only `with.audit`: it never changes what happens to a call", "with");
    }
  }
  return rule;
}

/** The typed form of a policy; errors are what only this layer can tell, such as a time zone that does not exist. */
export function parseAccessPolicy(object: ValidObject): Result<AccessPolicy, readonly FieldProblem[]> {
  const problems: FieldProblem[] = [];
  const cluster = object.kind === "ClusterAccessPolicy";
  const fields = new FieldReader(object.spec, "spec", problems);
  fields.require("action", "rules");
  const action = fields.oneOf("action", ["Allow", "Deny", "Audit"] as const) ?? "Deny";
  const policy: AccessPolicy = {
    kind: cluster ? "ClusterAccessPolicy" : "AccessPolicy",
    name: object.name,
    namespace: cluster ? undefined : object.namespace,
    generation: object.generation,
    action,
    enforcement: fields.oneOf("enforcement", ["Enforce", "DryRun"] as const) ?? "Enforce",
    targets: fields.objects("targets", (target) => readTarget(target, cluster)),
    rules: fields.objects("rules", (rule) => readRule(rule, action)) ?? [],
  };
  const names = new Set(policy.rules.map((rule) => rule.name));
  if (names.size !== policy.rules.length) fields.report("two entries have the same `name`", "rules");
  fields.end();
  return problems.length > 0 ? { ok: false, error: problems } : { ok: true, value: policy };
}
