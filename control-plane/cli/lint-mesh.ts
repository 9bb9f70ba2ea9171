// `countersign lint` of a running mesh: the policies in force, held against the workloads and names that there are.
import { createLinter, lintState } from "../policy/lint.ts";
import { counted, EXIT, type ExitStatus, type Output, plain, printJson } from "./print.ts";
import type { World } from "./world.ts";

interface Finding {
  readonly severity: "error" | "warning";
  readonly reason: string;
  readonly object: string;
  readonly path: string;
  readonly message: string;
}

/** @returns `EXIT.no` when anything is refused or probably not meant. */
export function lintWorld(
  world: World,
  options: { readonly json?: boolean | undefined },
  output: Output,
  nowMs: number = Date.now(),
): ExitStatus {
  const { compiled, packs } = world;
  const findings = new Map<string, Finding>();
  const linted = lintState(compiled.state, createLinter(packs), nowMs);
  const compiledProblems = [...compiled.policies, ...compiled.routes.reports].map(
    ([key, { problems }]) => [key, problems] as const,
  );
  for (const [key, problems] of [...compiledProblems, ...linted])
    for (const { severity, reason, path, message } of problems) {
      const object = key.replace("/", " ");
      // Compiler and linter find some of the same things, in the same words.
      findings.set(JSON.stringify([object, path, message]), { severity, reason, object, path, message });
    }
  const list = [...findings.values()];
  const errors = list.filter(({ severity }) => severity === "error").length + world.problems.length;
  const warnings = list.length - (errors - world.problems.length);
  if (options.json === true) printJson(output, { errors, warnings, refused: world.problems, findings: list });
  else {
    for (const problem of world.problems) output.out(`error: ${plain(problem)}\n`);
    for (const { severity, object, path, message } of list)
      output.out(`${severity}: ${plain(`${object}: ${path}: ${message}`)}\n`);
    output.out(
      `${counted(compiled.policies.size + compiled.routes.reports.size, "object")} in force, ${counted(errors, "error")}, ${counted(warnings, "warning")}\n`,
    );
  }
  return errors + warnings > 0 ? EXIT.no : EXIT.ok;
}
