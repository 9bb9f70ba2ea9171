// What a question is answered from: a directory of policies, or the state of a running control plane, compiled here with
// the code of production.
import { MeshError } from "../../sidecar/core/runtime/errors.ts";
import { decodeValue } from "../management/revision-content.ts";
import { type Compiled, compile } from "../policy/compile.ts";
import { loadBuiltInPacks } from "../policy/packs.ts";
import { EMPTY_STATE } from "../sources/cluster-state.ts";
import { type FieldProblem, formatProblem } from "../sources/field-problem.ts";
import type { ClusterState } from "../sources/store.ts";
import { fieldsOf, textsOf } from "./answers.ts";
import type { Mesh } from "./mesh.ts";
import { readConfiguration } from "./reading.ts";

export interface World {
  readonly compiled: Compiled;
  readonly packs: ReadonlyMap<string, string>;
  /** What is refused and so not considered, one line each. */
  readonly problems: readonly string[];
  /** The same as objects, where they are known; empty for a running control plane. */
  readonly refused: readonly FieldProblem[];
  /** Command that shows the problems. */
  readonly see: string;
}

/** @throws MeshError `io_failed` for a directory that cannot be read. */
export function worldOfDirectory(configDir: string): World {
  const { state, report } = readConfiguration([configDir]);
  const packs = loadBuiltInPacks();
  return {
    ...{ compiled: compile(state, packs), packs, refused: report.problems },
    problems: report.problems.map(formatProblem),
    see: `countersign check ${configDir}`,
  };
}

/** @throws MeshError as `Mesh.manage`; `protocol_error` for a control plane of another version. */
export async function worldOfMesh(mesh: Mesh): Promise<World> {
  const [answer, status] = await Promise.all([
    mesh.manage("GET", "/v1/state?form=exact"),
    mesh.manage("GET", "/v1/status"),
  ]);
  const packs = loadBuiltInPacks();
  const compiled = compile(readState(answer), packs);
  const problems = textsOf(fieldsOf(status)["problems"]);
  return { compiled, packs, problems, refused: [], see: "countersign status" };
}

/** The state in a `form=exact` answer. */
export function readState(answer: unknown): ClusterState {
  const state = fieldsOf(decodeValue(fieldsOf(answer)["state"]));
  for (const [name, empty] of Object.entries(EMPTY_STATE)) {
    const value = state[name];
    const isLike =
      empty instanceof Map ? value instanceof Map : typeof value === typeof empty && value !== null;
    if (!isLike)
      throw new MeshError(
        "protocol_error",
        `the control plane's state has no \`${name}\` that this version can read; use the command line of the control plane's version`,
      );
  }
  // Every field has the kind that its name says; what is in the maps was written by the same version's `objectText`.
  return state as unknown as ClusterState;
}
