// Which rights a change of an object needs beyond writing it: giving roles takes `bind` on each, as in Kubernetes' own RBAC,
// and putting a grant into force takes `approve`. PURE.
import { patternsCover } from "../policy/lint-cover.ts";
import type { TypedObject } from "../policy/typed-object.ts";
import type { ValidObject } from "../sources/schema.ts";
import type { AccessGrant, MeshRoleBinding } from "../sources/store.ts";

/** A right as a SubjectAccessReview asks for it, in group `countersign.dev`. */
export interface Right {
  readonly verb: "bind" | "approve";
  readonly resource: "meshroles" | "accessgrants";
  readonly namespace: string | undefined;
  /** undefined: not known yet, so the right must hold for all. */
  readonly name: string | undefined;
  /** What it is needed for, such as ``to give role `x` ``. */
  readonly purpose: string;
}

export interface Version {
  readonly valid: ValidObject;
  readonly typed: TypedObject;
}

const bind = (role: string): Right => ({
  verb: "bind",
  resource: "meshroles",
  namespace: undefined,
  name: role,
  purpose: `to give role \`${role}\``,
});

/** @param before undefined for a new object, or for one that cannot be read any more. */
export function rightsFor(before: Version | undefined, after: Version): readonly Right[] {
  if (after.typed.kind === "MeshRoleBinding") {
    const old = before?.typed.kind === "MeshRoleBinding" ? before.typed.value : undefined;
    return rolesGiven(old, after.typed.value).map(bind);
  }
  return after.typed.kind === "AccessGrant" ? rightsForGrant(before, after, after.typed.value) : [];
}

/** Roles that somebody gets, or gets in more places, by this change; who only loses needs no right. */
function rolesGiven(before: MeshRoleBinding | undefined, after: MeshRoleBinding): readonly string[] {
  if (before === undefined || isWider(before, after)) return after.roles;
  return after.roles.filter((role) => !before.roles.includes(role));
}

function isWider(before: MeshRoleBinding, after: MeshRoleBinding): boolean {
  const known = new Set(before.subjects.map(subjectId));
  return (
    after.subjects.some((subject) => !known.has(subjectId(subject))) ||
    !patternsCover(before.namespaces, after.namespaces)
  );
}

const subjectId = (subject: MeshRoleBinding["subjects"][number]): string =>
  JSON.stringify(
    (["idp", "group", "groupId", "claim", "user", "servicePrincipal", "serviceAccount"] as const).map(
      (field) => subject[field] ?? null,
    ),
  );

/** Fields of `status` that put a grant into force or end it. */
const DECIDING = ["phase", "activeFrom", "activeUntil"] as const;
type DecidingFields = { readonly [Field in (typeof DECIDING)[number]]?: unknown };

/** Whether a change of status puts a grant into force, ends it or moves its time. */
export function decidesGrant(before: unknown, after: unknown): boolean {
  const was = fieldsOf(before);
  const is = fieldsOf(after);
  return DECIDING.some((field) => was[field] !== is[field]);
}

function rightsForGrant(before: Version | undefined, after: Version, grant: AccessGrant): readonly Right[] {
  const decided = decidesGrant(before?.valid.status, after.valid.status);
  const { phase } = fieldsOf(after.valid.status);
  // Without a phase and with nobody to ask, the grant is in force at once: writing it is approving it.
  const selfMade =
    phase === undefined &&
    approvalsOf(after.valid.spec) === 0 &&
    (before === undefined || JSON.stringify(before.valid.spec) !== JSON.stringify(after.valid.spec));
  if (!decided && !selfMade) return [];
  const approve: Right = {
    verb: "approve",
    resource: "accessgrants",
    namespace: grant.namespace,
    name: grant.name === "" ? undefined : grant.name,
    purpose: selfMade ? "to make a grant that nobody has to approve" : "to decide on a grant",
  };
  const gives = selfMade || phase === "Approved" || phase === "Active";
  return [approve, ...(gives ? (grant.roles ?? []).map(bind) : [])];
}

function fieldsOf(status: unknown): DecidingFields {
  // What is there stays unknown; it is only compared.
  return typeof status === "object" && status !== null ? (status as DecidingFields) : {};
}

function approvalsOf(spec: unknown): number {
  // Holds because the schema was checked; what it does not have is undefined.
  const { approval } = spec as { readonly approval?: { readonly required?: number } };
  return approval?.required ?? 1;
}
