// What becomes of a stored Deny that this build cannot read, after a downgrade: one that denies all traffic to its
// targets as far as they can be read, else to every workload of its scope (DOMAIN 3.3). PURE.
import type { ObjectParser, TypedObject } from "../policy/typed-object.ts";
import type { SchemaSet, ValidObject } from "./schema.ts";

type Fields = Readonly<Record<string, unknown>>;
const fieldsOf = (value: unknown): Fields =>
  // An object has fields, and what they are is unknown.
  typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Fields) : {};

export interface StoredObject {
  /** `Kind/namespace/name` or `Kind/name`. */
  readonly key: string;
  readonly object: unknown;
  readonly generation: number;
  readonly acceptedAtMs: number;
}

/**
 * @returns the Deny that stands for the stored object; undefined when that is no policy or allows, audits or rehearses
 *   only, so that leaving it out takes nothing away from safety. An action of another version counts as a Deny.
 */
export function closedDeny(
  stored: StoredObject,
  schemas: SchemaSet,
  parse: ObjectParser,
): { readonly valid: ValidObject; readonly typed: TypedObject } | undefined {
  const [kind, ...names] = stored.key.split("/");
  if (kind !== "AccessPolicy" && kind !== "ClusterAccessPolicy") return undefined;
  const spec = fieldsOf(fieldsOf(stored.object)["spec"]);
  if (spec["action"] === "Allow" || spec["action"] === "Audit" || spec["enforcement"] === "DryRun")
    return undefined;
  const [namespace, name] = names.length === 2 ? names : [undefined, names[0]];
  const metadata = { name, ...(namespace === undefined ? {} : { namespace }) };
  for (const targets of spec["targets"] === undefined ? [undefined] : [spec["targets"], undefined]) {
    const checked = schemas.validate({
      apiVersion: "countersign.dev/v1alpha1",
      kind,
      metadata,
      spec: {
        action: "Deny",
        ...(targets === undefined ? {} : { targets }),
        rules: [{ name: "not-accepted" }],
      },
    });
    if (!checked.ok) continue;
    const valid = { ...checked.value, generation: stored.generation };
    const typed = parse(valid, stored.acceptedAtMs);
    if (typed.ok) return { valid, typed: typed.value };
  }
  return undefined;
}
