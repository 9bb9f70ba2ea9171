// PURE. Which roles and bindings changed, for the audit: whoever holds a role by them may do something else now.
import { isDeepStrictEqual } from "node:util";
import type { ClusterState } from "../sources/store.ts";

type Held = Pick<ClusterState, "roles" | "bindings">;

/** One object each, for example ``MeshRoleBinding `fraud` changed``. */
export function roleChanges(before: Held, now: Held): readonly string[] {
  return [
    ...changes("MeshRole", before.roles, now.roles),
    ...changes("MeshRoleBinding", before.bindings, now.bindings),
  ];
}

function changes(
  kind: string,
  before: ReadonlyMap<string, object>,
  now: ReadonlyMap<string, object>,
): readonly string[] {
  if (before === now) return [];
  const found: string[] = [];
  for (const [name, object] of now) {
    const old = before.get(name);
    if (old === undefined) found.push(`${kind} \`${name}\` added`);
    else if (old !== object && !isDeepStrictEqual(old, object)) found.push(`${kind} \`${name}\` changed`);
  }
  for (const name of before.keys()) if (!now.has(name)) found.push(`${kind} \`${name}\` removed`);
  return found;
}
