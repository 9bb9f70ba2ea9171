// What the validating webhook says to a change of one of our objects, as far as the review and the state tell: the very
// checks that a source makes before an object comes into force, so that what is accepted here is accepted there. PURE.
import type { Result } from "../../sidecar/core/runtime/errors.ts";
import { parseAccessPolicy } from "../policy/access-policy.ts";
import type { Admitter } from "../policy/admit.ts";
import type { Linter } from "../policy/lint.ts";
import type { ObjectParser, TypedObject } from "../policy/typed-object.ts";
import type { FieldProblem } from "../sources/field-problem.ts";
import type { SchemaSet } from "../sources/schema.ts";
import type { ClusterState } from "../sources/store.ts";
import { type AdmissionRequest, isFields, type UnknownFields } from "./review.ts";
import { decidesGrant, type Right, rightsFor, type Version } from "./validate-rights.ts";
import { deletionWarnings, droppedFieldWarnings, problemText, writeWarnings } from "./validate-warnings.ts";

export interface ValidationContext {
  readonly state: ClusterState;
  readonly schemas: SchemaSet;
  /** In mode `kubernetes`. */
  readonly admitter: Admitter;
  readonly parse: ObjectParser;
  readonly linter: Linter;
  readonly nowMs: number;
  /** Of the authority; undefined: not known yet. */
  readonly trustDomain: string | undefined;
}

export type Validation =
  | { readonly kind: "refused"; readonly code: 400 | 422; readonly message: string }
  | {
      readonly kind: "accepted";
      /** All of them must hold; else it is refused after all. */
      readonly rights: readonly Right[];
      readonly warnings: readonly string[];
      /** What its spec becomes; undefined: nothing that counts changes, or the object is deleted. */
      readonly typed?: TypedObject;
    };

const GROUP = "countersign.dev";
const VERSION = "v1alpha1";
/** Our own small records, which nobody but the control plane writes; RBAC sees to that. */
const RECORDS: readonly string[] = ["MeshRevision", "Revocation", "OneTimeRecord"];

const ACCEPTED = { kind: "accepted", rights: [], warnings: [] } as const;
const refused = (code: 400 | 422, message: string): Validation => ({ kind: "refused", code, message });

/** Checks one review. What cannot be understood is refused. */
export function validateChange(request: AdmissionRequest, context: ValidationContext): Validation {
  const { group, version, kind } = request.kind;
  if (group !== GROUP || version !== VERSION)
    return refused(
      400,
      `this webhook checks objects of \`${GROUP}/${VERSION}\`; take others out of its rules`,
    );
  if (RECORDS.includes(kind)) return ACCEPTED;
  if (request.operation === "DELETE")
    return { ...ACCEPTED, warnings: deletionWarnings(kind, request.name ?? "", context) };
  if (request.operation === "CONNECT") return refused(400, "objects of this kind cannot be connected to");
  if (request.subResource !== undefined && !(request.subResource === "status" && kind === "AccessGrant"))
    return ACCEPTED;
  return request.object === undefined
    ? refused(400, "the review has no object")
    : validateWrite(request, request.object, context);
}

function validateWrite(
  request: AdmissionRequest,
  object: UnknownFields,
  context: ValidationContext,
): Validation {
  const { oldObject } = request;
  for (const one of oldObject === undefined ? [object] : [object, oldObject]) {
    const metadata = isFields(one["metadata"]) ? one["metadata"] : {};
    if (one["kind"] !== request.kind.kind || metadata["namespace"] !== request.namespace)
      return refused(400, "kind or namespace of the object are not those of the review");
  }
  const status = request.subResource === "status";
  // Whatever is stored must stay deletable: an object that is not valid any more may still change its labels, its
  // finalizers, and the part of its status that decides nothing.
  if (
    oldObject !== undefined &&
    JSON.stringify(oldObject["spec"]) === JSON.stringify(object["spec"]) &&
    !(status && decidesGrant(oldObject["status"], object["status"]))
  )
    return ACCEPTED;
  const before = oldObject === undefined ? undefined : readVersion(oldObject, context);
  const after = readVersion(object, context, before?.ok ? before.value : undefined);
  if (!after.ok)
    return refused(422, problemsText([...after.error, ...furtherProblems(object, after.error, context)]));
  const { typed } = after.value;
  const problems = status ? [] : admissionProblems(after.value, context);
  if (problems.length > 0) return refused(422, problemsText(problems));
  const catalogs = [...context.state.catalogs.values()];
  const packs = typed.kind === "Workload" ? context.admitter.unknownPacks(typed.value, catalogs) : [];
  const rights = rightsFor(before?.ok ? before.value : undefined, after.value);
  if (status) return { kind: "accepted", rights, warnings: [] };
  const warnings = [
    ...packs.map(problemText),
    ...writeWarnings(typed, context),
    ...droppedFieldWarnings(request, context.schemas),
  ];
  return { kind: "accepted", rights, warnings: [...new Set(warnings)], typed };
}

function readVersion(
  object: UnknownFields,
  { schemas, parse, nowMs }: ValidationContext,
  before?: Version,
): Result<Version, readonly FieldProblem[]> {
  const checked = schemas.validate(object, before?.valid);
  if (!checked.ok) return checked;
  const typed = parse(checked.value, nowMs);
  return typed.ok ? { ok: true, value: { valid: checked.value, typed: typed.value } } : typed;
}

/** What else is wrong with a policy of which only conditions do not compile: its author corrects all of it at once. */
function furtherProblems(
  object: UnknownFields,
  found: readonly FieldProblem[],
  context: ValidationContext,
): readonly FieldProblem[] {
  if (!found.every(({ reason }) => reason === "InvalidCEL")) return [];
  const checked = context.schemas.validate(object);
  const policy = checked.ok ? parseAccessPolicy(checked.value) : undefined;
  if (!checked.ok || !policy?.ok) return [];
  const typed = { kind: policy.value.kind, value: policy.value } as const;
  return admissionProblems({ valid: checked.value, typed }, context).filter(
    ({ reason }) => reason !== "InvalidCEL",
  );
}

function admissionProblems({ valid, typed }: Version, context: ValidationContext): readonly FieldProblem[] {
  const { admitter, state, trustDomain } = context;
  const problems = admitter.against([...state.catalogs.values()])(typed, valid);
  if (typed.kind !== "MeshConfig" || trustDomain === undefined || typed.value.trustDomain === trustDomain)
    return problems;
  return [
    ...problems,
    {
      path: "spec.trustDomain",
      message: `\`${typed.value.trustDomain}\` is another mesh: every certificate of this one carries \`${trustDomain}\``,
      hint: `write \`${trustDomain}\`, or install a second mesh`,
    },
  ];
}

/** All problems on one line, numbered where there are several: a client shows it as it is. */
export function problemsText(problems: readonly FieldProblem[]): string {
  const texts = problems.map(problemText);
  return texts.length === 1
    ? (texts[0] ?? "")
    : `${texts.length} problems: ${texts.map((text, i) => `(${i + 1}) ${text}`).join(" ")}`;
}
