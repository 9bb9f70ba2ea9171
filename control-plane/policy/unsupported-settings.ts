// Settings of the mesh and of workloads that this build does not enforce: they are refused, so that nobody relies on
// them. A later part deletes rows here. PURE.
import type { FieldProblem } from "../sources/field-problem.ts";
import type { ValidObject } from "../sources/schema.ts";
import type { AccessGrant, MeshConfig, MeshRole } from "../sources/store.ts";
import type { TargetMatch } from "./access-policy.ts";

const unsupported = (path: string, what: string, hint: string): FieldProblem => ({
  reason: "Unsupported",
  path,
  message: `this build ${what} yet`,
  hint,
});

/** Where the configuration comes from: some settings have an effect only where there is a cluster to apply them to. */
export type ConfigurationMode = "directory" | "kubernetes";

export function unsupportedMeshSettings(
  config: MeshConfig,
  mode: ConfigurationMode,
): readonly FieldProblem[] {
  return mode === "kubernetes" ? [] : unsupportedOutsideCluster(config);
}

/** Explicit mode captures nothing, so there is no plaintext to let in and nothing unknown to let out. */
function unsupportedOutsideCluster(config: MeshConfig): readonly FieldProblem[] {
  const problems: FieldProblem[] = [];
  const clusterOnly = (path: string, why: string, hint: string): void => {
    problems.push({
      reason: "Unsupported",
      path,
      message: `has no effect outside a Kubernetes cluster: ${why}`,
      hint,
    });
  };
  const permissive = (path: string): void =>
    clusterOnly(path, "here a sidecar takes calls from the mesh alone", "leave it at `Strict`");
  if (config.mtls === "Permissive") permissive("spec.mtls");
  for (const [i, override] of config.namespaces.entries())
    if (override.mtls === "Permissive") permissive(`spec.namespaces[${i}].mtls`);
  if (config.outbound === "Allow")
    clusterOnly(
      "spec.outbound",
      "applications here call hosts outside the mesh themselves",
      "leave it at `Deny`",
    );
  // What these three protect comes from a cluster; who writes the directory is trusted with all of it.
  for (const field of ["trustedSpawners", "protectedLabels", "gateways"] as const)
    if (config[field].length > 0)
      clusterOnly(`spec.${field}`, "who writes the directory is trusted with all of it", "leave it out");
  return problems;
}

/** Nobody is asked for an approval yet: `status` says whether there is one. */
export function unsupportedGrantSettings(grant: AccessGrant, { spec }: ValidObject): readonly FieldProblem[] {
  // Holds because the schema was checked; what it does not have is undefined.
  const { approval = {} } = spec as {
    approval?: { required?: number; fromRoles?: readonly string[]; selfApproval?: boolean };
  };
  const problems: FieldProblem[] = [];
  const hint = "leave it out; whoever may write `status.phase` approves";
  const asks = (field: string): void => {
    problems.push(unsupported(`spec.approval.${field}`, "asks nobody for an approval", hint));
  };
  if (approval.required !== undefined && approval.required > 1) asks("required");
  if (approval.fromRoles !== undefined) asks("fromRoles");
  if (approval.selfApproval === true) asks("selfApproval");
  return [...problems, ...unsupportedTargets(grant.targets, "spec.targets")];
}

/** External services as targets of what roles and grants allow. */
export function unsupportedRoleSettings(role: MeshRole): readonly FieldProblem[] {
  return role.rules.flatMap((rule, i) => unsupportedTargets(rule.targets, `spec.rules[${i}].targets`));
}

function unsupportedTargets(
  targets: readonly TargetMatch[] | undefined,
  path: string,
): readonly FieldProblem[] {
  return (targets ?? []).flatMap(({ external }, i) =>
    external === undefined
      ? []
      : [
          unsupported(
            `${path}[${i}].external`,
            "decides on no calls to external services",
            "name workloads instead",
          ),
        ],
  );
}
