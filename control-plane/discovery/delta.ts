// What leads from one table to another. PURE.
import type { BuiltResource, WorkloadTable } from "../resources/build.ts";

export interface TableDelta {
  readonly upsert: readonly BuiltResource[];
  readonly remove: readonly { readonly type: string; readonly name: string }[];
}

/** What leads from one table to another; `from` undefined: everything. */
export function tableDelta(from: WorkloadTable | undefined, to: WorkloadTable): TableDelta {
  const upsert: BuiltResource[] = [];
  const remove: { type: string; name: string }[] = [];
  for (const resource of to.resources.values()) {
    if (from?.resources.get(resource.key)?.hash !== resource.hash) upsert.push(resource);
  }
  for (const { key, type, name } of from?.resources.values() ?? [])
    if (!to.resources.has(key)) remove.push({ type, name });
  return { upsert, remove };
}
