// What is wrong with an object, in its author's words: the one shape in which schema, parsers and directory report.

/** One thing that is wrong with an object or file. Nothing in it is a secret: values of objects are quoted, cut short. */
export interface FieldProblem {
  /** Path of the file below the configuration directory. */
  readonly file?: string;
  /** Line of the offending field in `file`, from 1. */
  readonly line?: number;
  /** `Kind namespace/name`, or `Kind name`. */
  readonly object?: string;
  /** Field such as `spec.rules[0].from`; empty for the object or file as a whole. */
  readonly path: string;
  /** One line, lower case, input in backticks. */
  readonly message: string;
  /** What to do next, for example the closest valid name. */
  readonly hint?: string;
  /** Such as `UnknownOperation` (DOMAIN 3.6); absent: `Invalid`. */
  readonly reason?: string;
  /** What is in force instead, where that is known: the version accepted before, or nothing. */
  readonly standing?: "earlier" | "none";
}

/** What a source says besides its state. */
export interface SourceReport {
  readonly problems: readonly FieldProblem[];
  /** Not wrong, but worth knowing, such as a missing MeshConfig or a field that this build does not act on. */
  readonly notices: readonly FieldProblem[];
  /** In a cluster: of each object, by `Kind/namespace/name`, the generation that was judged. */
  readonly generations?: ReadonlyMap<string, number>;
  /** In a cluster: what has to be kept, so that a restart knows it too. */
  readonly standIns?: readonly StandIn[];
}

/** A refused Deny with the spec that stands in for it. */
export interface StandIn {
  /** `Kind/namespace/name` or `Kind/name`. */
  readonly key: string;
  readonly generation: number;
  readonly spec: unknown;
}

/** At most this many problems are reported per object: the author fixes the first ones first. */
export const MAX_PROBLEMS = 20;

/** `file:line: Kind ns/name: path: message; hint` on one line. */
export function formatProblem(problem: FieldProblem): string {
  const where =
    problem.file === undefined
      ? ""
      : `${problem.file}${problem.line === undefined ? "" : `:${problem.line}`}: `;
  const object = problem.object === undefined ? "" : `${problem.object}: `;
  const path = problem.path === "" ? "" : `${problem.path}: `;
  const hint = problem.hint === undefined ? "" : `; ${problem.hint}`;
  const standing = problem.standing === "earlier" ? "; the version accepted before stays in force" : "";
  return `${where}${object}${path}${problem.message}${hint}${standing}`;
}
