// `countersign check` and `countersign lint`: the same reading, validation and compilation as in the control plane.
import { statSync } from "node:fs";
import { compile } from "../policy/compile.ts";
import type { PolicyProblem } from "../policy/conditions.ts";
import { createLinter, lintState } from "../policy/lint.ts";
import { loadBuiltInPacks } from "../policy/packs.ts";
import type { AcceptedObject } from "../sources/directory.ts";
import { type FieldProblem, formatProblem } from "../sources/field-problem.ts";
import { counted, EXIT, type ExitStatus, type Output, printJson } from "./print.ts";
import { createLineFinder, readConfiguration } from "./reading.ts";

interface Finding {
  readonly severity: "error" | "warning";
  readonly reason: string;
  readonly problem: FieldProblem;
}

const idOf = ({ object = "", path, message }: FieldProblem): string =>
  JSON.stringify([object, path, message]);

/**
 * @param options.lint warnings count as a no.
 * @returns `EXIT.ok`, or `EXIT.no` when something would be refused (lint: or is probably not meant).
 */
export function checkPaths(
  paths: readonly string[],
  options: { readonly json: boolean; readonly lint: boolean },
  output: Output,
): ExitStatus {
  const { state, report } = readConfiguration(paths);
  const findings: Finding[] = report.problems.map((problem) => ({
    severity: "error",
    reason: problem.reason ?? "Invalid",
    problem,
  }));
  // A setting that is missing is worth a word for a whole directory, not for single files.
  const isWhole = paths.some((path) => statSync(path).isDirectory());
  for (const notice of report.notices)
    if (notice.file !== undefined || isWhole)
      findings.push({ severity: "warning", reason: "Notice", problem: notice });
  const packs = loadBuiltInPacks();
  const places = new Map<string, { readonly file: string; readonly object: AcceptedObject }>();
  for (const [file, objects] of report.accepted)
    for (const object of objects) {
      const parts = [object.kind, object.namespace, object.name].filter((part) => part !== undefined);
      places.set(parts.join("/"), { file, object });
    }
  const lineOf = createLineFinder();
  const told = new Set(findings.map(({ problem }) => idOf(problem)));
  const tell = (key: string, { severity, reason, path, message }: PolicyProblem): void => {
    const object = key.replace("/", " ");
    // Reading, compiling and lint find some of the same things, in the same words.
    if (told.has(idOf({ object, path, message }))) return;
    told.add(idOf({ object, path, message }));
    const place = places.get(key);
    const line = place && lineOf(place.file, place.object, path);
    const file = place === undefined ? {} : { file: place.file };
    findings.push({
      severity,
      reason,
      problem: { ...file, ...(line === undefined ? {} : { line }), object, path, message },
    });
  };
  for (const [key, { problems }] of compile(state, packs).policies)
    for (const problem of problems) tell(key, problem);
  for (const [key, problems] of lintState(state, createLinter(packs), Date.now()))
    for (const problem of problems) tell(key, problem);
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
    output.out(
      `${counted(objects, "object")} accepted, ${counted(errors, "error")}, ${counted(warnings, "warning")}\n`,
    );
  }
  return errors > 0 || (options.lint && warnings > 0) ? EXIT.no : EXIT.ok;
}
