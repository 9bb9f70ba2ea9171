// Settings of the mesh and of workloads that this build does not enforce: they are refused, so that nobody relies on
// them. A later part deletes rows here. PURE.
import type { FieldProblem } from "../sources/field-problem.ts";
import type { MeshConfig, Workload } from "../sources/store.ts";

const unsupported = (path: string, what: string, hint: string): FieldProblem => ({
  reason: "Unsupported",
  path,
  message: `this build ${what} yet`,
  hint,
});

export function unsupportedMeshSettings(config: MeshConfig): readonly FieldProblem[] {
  const problems: FieldProblem[] = [];
  const permissive = (path: string): void => {
    problems.push(
      unsupported(path, "does not accept plaintext from outside the mesh", "leave it at `Strict`"),
    );
  };
  if (config.mtls === "Permissive") permissive("spec.mtls");
  for (const [i, override] of config.namespaces.entries())
    if (override.mtls === "Permissive") permissive(`spec.namespaces[${i}].mtls`);
  if (config.outbound === "Allow") {
    problems.push(
      unsupported("spec.outbound", "does not carry calls to hosts outside the mesh", "leave it at `Deny`"),
    );
  }
  return problems;
}

export function unsupportedWorkloadSettings(workload: Workload): readonly FieldProblem[] {
  return workload.ports.flatMap(({ protocol }, i): readonly FieldProblem[] =>
    protocol === "http"
      ? []
      : [
          unsupported(
            `spec.ports[${i}].protocol`,
            `does not carry \`${protocol}\``,
            "leave the port out, or serve HTTP/1.1 on it",
          ),
        ],
  );
}
