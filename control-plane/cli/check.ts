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

type Configuration = ReturnType<typeof readConfiguration>;
type LineOf = (key: string, path: string) => { readonly file?: string; readonly line?: number };

/** Finds where an accepted object (`Kind/namespace/name`) says something. */
function createPlaceFinder(report: Configuration["report"]): LineOf {
  const places = new Map<string, { readonly file: string; readonly object: AcceptedObject }>();
  for (const [file, objects] of report.accepted)
    for (const object of objects) {
      const parts = [object.kind, object.namespace, object.name].filter((part) => part !== undefined);
      places.set(parts.join("/"), { file, object });
    }
  const lineOf = createLineFinder();
  return (key, path) => {
    const place = places.get(key);
    if (place === undefined) return {};
    const line = lineOf(place.file, place.object, path);
    return { file: place.file, ...(line === undefined ? {} : { line }) };
  };
}

/** @param isWhole a whole directory is asked about: then a setting that is missing is worth a word. */
function findingsOf({ state, report }: Configuration, isWhole: boolean): readonly Finding[] {
  const placeOf = createPlaceFinder(report);
  const findings: Finding[] = report.problems.map((problem) => ({
    severity: "error",
    reason: problem.reason ?? "Invalid",
    problem,
  }));
  for (const notice of report.notices) {
    if (notice.file === undefined && !isWhole) continue;
    const place = placeOf(notice.object?.replace(" ", "/") ?? "", notice.path);
    findings.push({ severity: "warning", reason: "Notice", problem: { ...place, ...notice } });
  }
  const told = new Set(findings.map(({ problem }) => idOf(problem)));
  const tell = (key: string, { severity, reason, path, message }: PolicyProblem): void => {
    const object = key.replace("/", " ");
    // Reading, compiling and lint find some of the same things, in the same words.
    if (told.has(idOf({ object, path, message }))) return;
    told.add(idOf({ object, path, message }));
    findings.push({ severity, reason, problem: { ...placeOf(key, path), object, path, message } });
  };
  const packs = loadBuiltInPacks();
  for (const [key, { problems }] of compile(state, packs).policies)
    for (const problem of problems) tell(key, problem);
  for (const [key, problems] of lintState(state, createLinter(packs), Date.now()))
    for (const problem of problems) tell(key, problem);
  return findings;
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
  const configuration = readConfiguration(paths);
  const findings = findingsOf(
    configuration,
    paths.some((path) => statSync(path).isDirectory()),
  );
  const errors = findings.filter((one) => one.severity === "error").length;
  const warnings = findings.length - errors;
  const objects = [...configuration.report.accepted.values()].reduce((sum, list) => sum + list.length, 0);
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
