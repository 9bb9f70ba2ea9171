// Reads what another process answered, field by field: a control plane or sidecar of another version may leave something
// out or add something, and neither may break a command. PURE.

export type Fields = Readonly<Record<string, unknown>>;

const NONE: Fields = {};

/** The value as a mapping; an empty one when it is none. */
export function fieldsOf(value: unknown): Fields {
  // A non-null object that is no list has fields of unknown types.
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Fields) : NONE;
}

/** The value as a list of mappings; an empty one when it is none. */
export function listOf(value: unknown): readonly Fields[] {
  return Array.isArray(value) ? value.map(fieldsOf) : [];
}

/** The texts of a list; an empty list when it is none. */
export function textsOf(value: unknown): readonly string[] {
  return Array.isArray(value) ? value.filter((one) => typeof one === "string") : [];
}

/** The value as text; empty when it is neither text nor number. */
export function textOf(value: unknown): string {
  return typeof value === "string" ? value : typeof value === "number" ? String(value) : "";
}

export function numberOf(value: unknown): number | undefined {
  return typeof value === "number" ? value : undefined;
}
