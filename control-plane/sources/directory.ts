// The configuration directory as a source of cluster state.
import type { Clock } from "../../sidecar/core/runtime/clock.ts";
import { MeshError } from "../../sidecar/core/runtime/errors.ts";
import type { Logger } from "../../sidecar/core/runtime/log.ts";
import type { FieldProblem } from "./field-problem.ts";
import type { SchemaSet } from "./schema.ts";
import type { ClusterState } from "./store.ts";

export interface AcceptedObject {
  readonly kind: string;
  readonly namespace: string | undefined;
  readonly name: string;
  readonly generation: number;
  /** false: what is in force is an earlier version, because the present one was refused or is gone for now. */
  readonly current: boolean;
}

export interface DirectoryReport {
  /** Accepted objects by file (path below the directory). */
  readonly accepted: ReadonlyMap<string, readonly AcceptedObject[]>;
  readonly problems: readonly FieldProblem[];
  /** Not wrong, but worth knowing, such as a missing MeshConfig. */
  readonly notices: readonly FieldProblem[];
}

export interface DirectorySourceOptions {
  readonly dir: string;
  readonly stateDir: string;
  readonly clock: Clock;
  readonly schemas: SchemaSet;
  readonly log: Logger;
  readonly onState: (state: ClusterState, report: DirectoryReport) => void;
}

/** Watches the directory until `signal` aborts; see DESIGN 2. The first state comes after the first reading. */
export async function runDirectorySource(_options: DirectorySourceOptions, _signal: AbortSignal): Promise<void> {
  throw new MeshError("unsupported", "the directory source is not there yet");
}

/**
 * One reading of files and directories, for commands that check and explain.
 *
 * @param paths files or directories. @throws MeshError `not_found` for a path that does not exist.
 */
export function readDirectory(_paths: string | readonly string[], _schemas: SchemaSet): { readonly state: ClusterState; readonly report: DirectoryReport } {
  throw new MeshError("unsupported", "the directory source is not there yet");
}
