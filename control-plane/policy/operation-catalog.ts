// OperationCatalog: operation packs beside the built-in ones, typed; PURE.
import type { Result } from "../../sidecar/core/runtime/errors.ts";
import type { FieldProblem } from "../sources/field-problem.ts";
import type { ValidObject } from "../sources/schema.ts";
import type { OperationCatalog } from "../sources/store.ts";
import { FieldReader } from "./field-reader.ts";

/** The text of a pack is only taken over here; the catalog build reads it and reports what is wrong in it. */
export function parseOperationCatalog(
  object: ValidObject,
): Result<OperationCatalog, readonly FieldProblem[]> {
  const problems: FieldProblem[] = [];
  const fields = new FieldReader(object.spec, "spec", problems);
  fields.require("packs");
  const packs = fields.objects("packs", (pack) => {
    pack.require("name", "text");
    return { name: pack.text("name") ?? "", text: pack.text("text") ?? "" };
  });
  if (packs !== undefined && new Set(packs.map((pack) => pack.name)).size !== packs.length)
    fields.report("two entries have the same `name`", "packs");
  fields.end();
  return problems.length > 0
    ? { ok: false, error: problems }
    : { ok: true, value: { name: object.name, packs: packs ?? [] } };
}
