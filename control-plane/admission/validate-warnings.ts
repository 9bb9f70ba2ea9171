// What a user is told about a change that is allowed: lints, fields that the API server dropped, and what a deletion
// takes from others. PURE.
import type { Linter } from "../policy/lint.ts";
import { DEFAULT_MESH_CONFIG } from "../policy/mesh-config.ts";
import type { TypedObject } from "../policy/typed-object.ts";
import type { SchemaSet } from "../sources/schema.ts";
import type { ClusterState } from "../sources/store.ts";
import { type AdmissionRequest, isFields, type UnknownFields } from "./review.ts";

interface Problem {
  readonly path: string;
  readonly message: string;
  readonly hint?: string;
}

/** `field: what is wrong; what to do`. */
export function problemText({ path, message, hint }: Problem): string {
  return `${path === "" ? "" : `${path}: `}${message}${hint === undefined ? "" : `; ${hint}`}`;
}

const LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration";

function lastApplied(object: UnknownFields | undefined): string | undefined {
  const metadata = object?.["metadata"];
  const annotations = isFields(metadata) ? metadata["annotations"] : undefined;
  const text = isFields(annotations) ? annotations[LAST_APPLIED] : undefined;
  return typeof text === "string" ? text : undefined;
}

/**
 * A field that no schema knows is dropped before anybody sees it, unless the client asked for strict validation: a
 * misspelled condition is then simply not there.
 */
export function droppedFieldWarnings(request: AdmissionRequest, schemas: SchemaSet): string[] {
  const asked = request.options?.["fieldValidation"];
  if (asked === "Strict") return [];
  const how = asked === "Ignore" ? "dropped in silence" : "dropped";
  const general = `unknown fields of this object are ${how}, not refused: apply it with \`kubectl apply --validate=strict\``;
  return [...droppedFields(request, schemas), general];
}

/** What \`kubectl apply\` wrote down of the very object that it sent still has the fields that were dropped. */
function droppedFields({ object, oldObject }: AdmissionRequest, schemas: SchemaSet): string[] {
  const text = lastApplied(object);
  if (text === undefined || text === lastApplied(oldObject)) return [];
  let sent: unknown;
  try {
    sent = JSON.parse(text);
  } catch {
    return []; // an annotation that anybody may write; it only helps
  }
  const checked = schemas.validate(sent);
  if (checked.ok) return [];
  return checked.error
    .filter(({ message }) => message.startsWith("unknown field"))
    .map((problem) => problemText({ ...problem, message: "is no field and was dropped" }));
}

const NO_CONFIG = "there is no MeshConfig, so the defaults hold; add one named `default`";

export interface WarningContext {
  readonly state: ClusterState;
  readonly linter: Linter;
  readonly nowMs: number;
}

/** Of an object that is written. */
export function writeWarnings(object: TypedObject, { state, linter, nowMs }: WarningContext): string[] {
  const warnings = linter.lint(object, state, nowMs).map(problemText);
  if (object.kind === "OperationCatalog")
    warnings.push(...lossWarnings(linter.lost(object.value.name, object.value, state)));
  if (object.kind !== "MeshConfig" && state.config === DEFAULT_MESH_CONFIG) warnings.push(NO_CONFIG);
  return warnings;
}

const listed = (names: readonly string[]): string =>
  `${names
    .slice(0, 3)
    .map((name) => `\`${name}\``)
    .join(", ")}${names.length > 3 ? ` and ${names.length - 3} more` : ""}`;

function lossWarnings(lost: ReadonlyMap<string, readonly string[]>): string[] {
  return [...lost].map(
    ([operation, policies]) =>
      `nobody defines \`${operation}\` any more, which ${listed(policies)} names: an Allow drops out, a Deny denies everything to its targets`,
  );
}

/** Of an object that is deleted. */
export function deletionWarnings(
  kind: string,
  name: string,
  { state, linter }: Pick<WarningContext, "state" | "linter">,
): string[] {
  const { workloads, bindings, grants, config } = state;
  if (kind === "MeshConfig" && name === "default" && workloads.size > 0) {
    const domain =
      config.trustDomain === DEFAULT_MESH_CONFIG.trustDomain
        ? ""
        : `, with a trust domain that is not \`${config.trustDomain}\``;
    return [
      `${workloads.size === 1 ? "1 workload is" : `${workloads.size} workloads are`} in the mesh, and without a MeshConfig the defaults hold for them${domain}: apply it again`,
    ];
  }
  if (kind === "MeshRole") {
    const holders = [...bindings.values()].filter(({ roles }) => roles.includes(name)).map((one) => one.name);
    const granted = [...grants.values()].filter(({ roles }) => roles?.includes(name)).map((one) => one.name);
    const users = [...holders, ...granted];
    return users.length === 0 ? [] : [`${listed(users)} still give this role, which now carries no rules`];
  }
  return kind === "OperationCatalog" ? lossWarnings(linter.lost(name, undefined, state)) : [];
}
