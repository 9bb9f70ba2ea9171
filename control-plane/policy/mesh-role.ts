// MeshRole and MeshRoleBinding, typed; PURE.
import type { Result } from "../../sidecar/core/runtime/errors.ts";
import type { FieldProblem } from "../sources/field-problem.ts";
import type { ValidObject } from "../sources/schema.ts";
import type { MeshRole, MeshRoleBinding } from "../sources/store.ts";
import { FieldReader } from "./field-reader.ts";
import { readOperation, readTarget } from "./rule-fields.ts";

export function parseMeshRole(object: ValidObject): Result<MeshRole, readonly FieldProblem[]> {
  const problems: FieldProblem[] = [];
  const fields = new FieldReader(object.spec, "spec", problems);
  const rules = fields.objects("rules", (rule) => {
    rule.require("operations");
    return {
      operations: rule.objects("operations", readOperation) ?? [],
      targets: rule.objects("targets", (target) => readTarget(target, true)),
    };
  });
  fields.end(true);
  return problems.length > 0
    ? { ok: false, error: problems }
    : { ok: true, value: { name: object.name, rules: rules ?? [] } };
}

const SOURCES = ["group", "groupId", "claim", "user", "servicePrincipal", "serviceAccount"] as const;

function readSubject(fields: FieldReader): MeshRoleBinding["subjects"][number] {
  if (SOURCES.filter((name) => fields.has(name)).length !== 1)
    fields.report(`a subject is exactly one of \`${SOURCES.join("`, `")}\``);
  const needsIdp = fields.has("group") || fields.has("groupId") || fields.has("claim");
  if (needsIdp && !fields.has("idp"))
    fields.report("`group`, `groupId` and `claim` need the `idp` they come from");
  return {
    idp: fields.text("idp"),
    group: fields.text("group"),
    groupId: fields.text("groupId"),
    claim: fields.text("claim"),
    user: fields.text("user"),
    servicePrincipal: fields.text("servicePrincipal"),
    serviceAccount: fields.text("serviceAccount"),
  };
}

export function parseMeshRoleBinding(object: ValidObject): Result<MeshRoleBinding, readonly FieldProblem[]> {
  const problems: FieldProblem[] = [];
  const fields = new FieldReader(object.spec, "spec", problems);
  fields.require("roles", "subjects");
  const binding: MeshRoleBinding = {
    name: object.name,
    roles: fields.texts("roles") ?? [],
    namespaces: fields.patterns("namespaces"),
    subjects: fields.objects("subjects", readSubject) ?? [],
  };
  fields.end();
  return problems.length > 0 ? { ok: false, error: problems } : { ok: true, value: binding };
}
