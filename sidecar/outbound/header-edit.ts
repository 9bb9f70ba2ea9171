// Changes that a route makes to the fields of a request or an answer, ready to be written.
import type { HeaderChange } from "../core/traffic/route.ts";
import { createField, type Field } from "../wire/field.ts";

/** Changes of one head. */
export interface HeaderEdit {
  /** Names, lower case, of fields that do not go on as they came. */
  readonly dropped: ReadonlySet<string>;
  /** Fields to write beside the others. */
  readonly put: readonly Field[];
}

/** @returns undefined when nothing is changed. */
export function createHeaderEdit(changes: readonly HeaderChange[]): HeaderEdit | undefined {
  if (changes.length === 0) return undefined;
  return {
    dropped: new Set(changes.filter(({ action }) => action !== "add").map(({ name }) => name)),
    put: changes
      .filter(({ action }) => action !== "remove")
      .map(({ name, value }) => createField(name, value)),
  };
}
