// AccessPolicy and ClusterAccessPolicy: from a validated YAML object to the typed form that the compiler takes.
import type { Enforcement, NamePattern, PolicyAction, PolicyRule } from "../../sidecar/core/policy/rule.ts";
import type { WorkloadKind } from "../../sidecar/core/policy/call.ts";

export interface LabelSelector {
  readonly matchLabels?: ReadonlyMap<string, string> | undefined;
  readonly matchExpressions?:
    | readonly { readonly key: string; readonly operator: "In" | "NotIn" | "Exists" | "DoesNotExist"; readonly values: readonly string[] }[]
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
