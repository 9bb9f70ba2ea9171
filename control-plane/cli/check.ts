// `countersign check` and `countersign lint`: the same reading, validation and compilation as in the control plane.
import { MeshError, messageOf } from "../../sidecar/core/runtime/errors.ts";
import { compile } from "../policy/compile.ts";
import { loadBuiltInPacks } from "../policy/packs.ts";
import { readDirectory } from "../sources/directory.ts";
import { type FieldProblem, formatProblem } from "../sources/field-problem.ts";
import { loadSchemas } from "../sources/schema.ts";
import { EXIT, type ExitStatus, type Output, printJson } from "./print.ts";

interface Finding {
  readonly severity: "error" | "warning";
  readonly reason: string;
  readonly problem: FieldProblem;
}

/**
 * @param options.lint warnings count as a no.
 * @returns `EXIT.ok`, or `EXIT.no` when something would be refused (lint: or is probably not meant).
 */
export function checkPaths(
  paths: readonly string[],
  options: { readonly json: boolean; readonly lint: boolean },
  output: Output,
): ExitStatus {
  let reading: ReturnType<typeof readDirectory>;
  try {
    reading = readDirectory(paths, loadSchemas());
  } catch (error) {
    if (error instanceof MeshError) throw error;
    throw new MeshError("io_failed", messageOf(error), { cause: error });
  }
  const { state, report } = reading;
  const findings: Finding[] = report.problems.map((problem) => ({
    severity: "error",
    reason: "Invalid",
    problem,
  }));
  for (const notice of report.notices)
    findings.push({ severity: "warning", reason: "Notice", problem: notice });
  const compiled = compile(state, loadBuiltInPacks());
  const files = new Map<string, string>();
  for (const [file, objects] of report.accepted)
    for (const one of objects)
      files.set([one.kind, one.namespace, one.name].filter((part) => part !== undefined).join("/"), file);
  for (const [key, policy] of compiled.policies) {
    const file = files.get(key);
    const [kind = "", ...name] = key.split("/");
    for (const { severity, reason, path, message } of policy.problems)
      findings.push({
        severity,
        reason,
        problem: {
          ...(file === undefined ? {} : { file }),
          object: `${kind} ${name.join("/")}`,
          path,
          message,
        },
      });
  }
  const errors = findings.filter((one) => one.severity === "error").length;
  const warnings = findings.length - errors;
  const objects = [...report.accepted.values()].reduce((sum, list) => sum + list.length, 0);
  if (options.json) {
    printJson(output, {
      objects,
      errors,
      warnings,
      findings: findings.map(({ severity, reason, problem }) => ({ severity, reason, ...problem })),
    });
  } else {
    for (const { severity, problem } of findings) output.out(`${severity}: ${formatProblem(problem)}\n`);
    output.out(`${objects} objects accepted, ${errors} errors, ${warnings} warnings\n`);
  }
  return errors > 0 || (options.lint && warnings > 0) ? EXIT.no : EXIT.ok;
}
